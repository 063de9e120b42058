"""What the plain and the recorded training step share."""

import copy
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn


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


def has_hooks(model):
    """Tell whether anything watches or changes what the modules or the parameters of a network compute."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_modules = (getattr(module, kind) for module in model.modules() for kind in kinds)
    of_parameters = ((p._backward_hooks, p._post_accumulate_grad_hooks) for p in model.parameters())
    return nn.modules.module._has_any_global_hook() or any(of_modules) or any(map(any, of_parameters))


def bindings(model):
    """List the parameters and the buffers of every module: [(its dict of them, a copy of that dict)]."""
    stores = (store for module in model.modules() for store in (module._parameters, module._buffers))
    return [(store, dict(store)) for store in stores]


@contextmanager
def unchanged(model, training):
    """Put the tensors of a network and its training (see `train.PlainTraining`) back at the end as they were.

    Buffers that it binds anew are bound to the old ones again. What it keeps outside of parameters and buffers stays.
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
            store.clear()
            store.update(named)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
