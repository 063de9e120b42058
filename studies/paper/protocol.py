"""What the data sets are, in numbers. What their images depend on is here, in data.py and in splines.py."""

SIDES = {"R": 28, "RTS": 42, "P": 28, "E": 28, "TC": 60}  # pixels, of the images of each data set
N_PATCHES = 6  # of clutter in an image of TC, as in Finnveden et al.
N_DRAWS = 10  # distortions of each test image
N_HELD_OUT = 10_000  # training digits, where a recipe is chosen
