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


def is_localisation(name):
    """Tell whether a parameter of this name belongs to the localisation network, which has a rate of its own."""
    return any(part.startswith("loc_") for part in name.split("."))  # true within a network that wraps ours, too


def bindings(model):
    """List the parameters and the buffers of every module: [(its dict of them, a copy of that dict)]."""
    stores = (store for module in model.modules() for store in (module._parameters, module._buffers))
    return [(store, dict(store)) for store in stores]


@contextmanager
def unchanged(model, training):
    """Put the tensors of a network and its training (see `train.PlainTraining`) back at the end as they were.

    If the step replaced a buffer by a new tensor, the old one is put back. State outside parameters and buffers is not
    restored.
    """
    before = bindings(model)
    tensors = [tensor for _, named in before for tensor in named.values() if tensor is not None]
    values = [tensor.detach().clone() for tensor in tensors]
    state = copy.deepcopy(training.state_dict())
    try:
        yield
    finally:
        training.load_state_dict(state)
        for store, named in before:
            for name, tensor in named.items():
                if store[name] is not tensor:
                    store[name] = tensor
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                if not torch.equal(tensor, value):  # one that is expanded could not be written
                    tensor.copy_(value)
