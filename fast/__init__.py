"""What makes training fast and changes no result but by rounding: it patches a network and its step, for a while.

train.py asks for it by name, unless `plain` is wanted, and trains by its own loop where this folder is missing.
"""


def is_available(device):
    """Tell whether there is anything here for a kind of device: on a CPU, Numba is needed."""
    from fast import conv2d

    return device != "cpu" or conv2d.kernels() is not None


def accelerated(model, device):
    """Return a context manager in which `model` computes its convolutions by compiled loops, on a CPU."""
    from fast import conv2d

    return conv2d.accelerated(model, device == "cpu")


def new_training(model, data, recipe):
    """Return a `fast.step.FastTraining`."""
    from fast import step

    return step.FastTraining(model, data, recipe)
