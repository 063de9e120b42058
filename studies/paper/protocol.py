"""What the data sets are, in numbers. What their images depend on is here, in data.py and in splines.py."""

SIDES = {"R": 28, "RTS": 42, "P": 28, "E": 28, "TC": 60}  # pixels, of the images of each data set
N_PATCHES = 6  # of clutter in an image of TC, as in Finnveden et al.
N_DRAWS = 10  # distortions of each test image
HELD_OUT = 6  # where a recipe is chosen, the last sixth of the training digits is held out: 10,000 of MNIST's
