"""What the plain and the recorded training step share."""

import copy
from contextlib import contextmanager

import torch
import torch.nn.functional as F


def loss_of(model, images, labels, *truth):
    """Return the mean loss of a batch: a network's own, if it has a method `loss`."""
    return model.loss(images, labels, *truth) if hasattr(model, "loss") else F.nll_loss(model(images), labels)


def trainable(model):
    """List the named parameters that are trained: [(name, parameter)]; those of a compiled network as without it."""
    named = model.named_parameters()
    return [(name.removeprefix("_orig_mod."), parameter) for name, parameter in named if parameter.requires_grad]


def is_local(name):
    """Tell whether a parameter of this name belongs to the localisation network, which has a rate of its own."""
    return name.startswith("loc_")


@contextmanager
def unchanged(model, training):
    """Put a network and its training (see `train.PlainTraining`) back at the end as they were."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    state = copy.deepcopy(training.state_dict())
    try:
        yield
    finally:
        training.load_state_dict(state)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
