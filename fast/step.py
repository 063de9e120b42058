"""The training step of train.py, recorded once and repeated: as one function, or on a GPU as one CUDA graph.

A third of a step of these small networks is the time from one operation to the next: in Python, in autograd, and on a
GPU in launching a kernel. Repeating what was recorded takes a tenth off a step on a CPU, and most on a GPU. It ends at
the weights of `train.PlainTraining` up to rounding. Its updates are written out because torch's optimisers cannot be
recorded on a CPU.
"""

import copy
from itertools import compress

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import get_total_norm

from coordconv import HOOKS
from stn.step import bindings, is_localisation, loss_of, trainable, unchanged

# Operations that are called faster as a method of their first argument, which takes the same arguments.
SAME_AS_METHOD = (
    *("add_", "addcmul_", "addmm", "clone", "index_select", "mm", "mul", "mul_", "permute", "relu", "relu_", "repeat"),
    *("select", "sum", "t", "transpose", "view"),
)


def can_record(model):
    """Tell whether `model` may be recorded (`repeatable`, see `train.train`), is not compiled and has no hooks."""
    modules, parameters = [*model.modules()], [*model.parameters()]
    compiled = any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in modules)
    hooks = nn.modules.module._has_any_global_hook() or any(getattr(m, kind) for m in modules for kind in HOOKS)
    hooks = hooks or any(p._backward_hooks for p in parameters) or accumulate_hooks(parameters)
    return getattr(model, "repeatable", False) and not compiled and not hooks


def accumulate_hooks(parameters):
    """Tell whether a parameter has hooks that are called when its gradient is accumulated."""
    return any(parameter._post_accumulate_grad_hooks for parameter in parameters)


class FastTraining:
    """As `train.PlainTraining`, whose methods it has. Full batches are recorded, if the network can be."""

    def __init__(self, model, data, recipe):
        self.model, self.data, self.recipe = model, data, recipe
        device = data.train_images.device
        self.names, self.parameters = zip(*trainable(model), strict=True)
        self.local, rates = [*map(is_localisation, self.names)], recipe.as_settings()
        self.rates = [rates["localisation_rate" if local else "learning_rate"] for local in self.local]
        self.lr_scale = torch.ones((), device=device)
        self.state = new_state(self.names, self.parameters, recipe)
        batch = torch.arange(recipe.batch_size, device=device) % len(data.train_labels)
        self.repeat = None
        if can_record(model):
            with unchanged(model, self):  # recording is training, too
                model.train()
                self.repeat = cuda_graph(self.unrecorded_step, batch) if device.type == "cuda" else self.recorded(batch)

    def step(self, batch):
        full = len(batch) == self.recipe.batch_size
        return self.repeat(batch) if self.repeat and full else self.unrecorded_step(batch)

    def scale_rates(self, factor):
        self.lr_scale.fill_(factor)

    def state_dict(self):
        return copy.copy(self.state)

    def load_state_dict(self, state):
        with torch.no_grad():
            for name, tensor in self.state.items():
                tensor.copy_(state[name])

    def unrecorded_step(self, batch):
        """Make a step on the images of given indices (B,); return its mean loss, a scalar."""
        loss = loss_of(self.model, *self.data.batch(batch))
        grads = self.gradients(loss)
        with torch.no_grad():
            if self.recipe.localisation_norm:
                grads = clip(grads, self.local, self.recipe.localisation_norm)
            updates = adam(grads, self.state) if self.state else grads
            for parameter, update, rate in zip(self.parameters, updates, self.rates, strict=True):
                parameter.addcmul_(update, self.lr_scale, value=-rate)
        return loss.detach()

    def gradients(self, loss):
        """List the gradients of the parameters, 0 for one without a part in the loss."""
        if not accumulate_hooks(self.parameters):
            return torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        self.model.zero_grad()
        loss.backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

    def recorded(self, batch):
        """Return the operations of a step, forward to update, as one function without autograd and modules.

        None if they cannot be repeated.
        """
        before = bindings(self.model)
        self.unrecorded_step(batch)  # what is computed once and kept for later must not become part of every step
        if any(store[name] is not tensor for store, named in before for name, tensor in named.items()):
            return None  # a step that binds a buffer anew would do that once, in being recorded
        graph = make_fx(lambda indices: self.unrecorded_step(indices))(batch)
        for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        for node in graph.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload):
                name = node.target.name().removeprefix("aten::").partition(".")[0]
                if name in SAME_AS_METHOD:
                    node.op, node.target = "call_method", name
        graph.recompile()
        return torch.no_grad()(graph)


def new_state(names, parameters, recipe):
    """Return what an optimiser remembers from step to step, a flat dict of tensors; nothing for plain SGD."""
    if recipe.optimizer == "sgd":
        return {}
    zeros = {
        f"{kind} {name}": torch.zeros_like(parameter.detach())
        for kind in ("mean", "square")
        for name, parameter in zip(names, parameters, strict=True)
    }
    return {"steps": torch.zeros((), dtype=torch.float64, device=parameters[0].device), **zeros}


def clip(grads, chosen, largest):
    """Scale the chosen gradients together so that their common norm is at most `largest`."""
    if not any(chosen):
        return grads
    norm = get_total_norm(compress(grads, chosen), foreach=False)
    factor = largest / norm.clamp(min=largest)
    return [grad * factor if scale else grad for grad, scale in zip(grads, chosen, strict=True)]


def adam(grads, state, beta1=0.9, beta2=0.999, eps=1e-8):
    """Yield the updates of Adam (arXiv 1412.6980, algorithm 1) for a learning rate of 1; change the state."""
    steps, *averages = state.values()
    steps += 1
    for grad, mean, square in zip(grads, averages[: len(grads)], averages[len(grads) :], strict=True):
        mean.lerp_(grad, 1 - beta1)
        square.lerp_(grad.square(), 1 - beta2)
        yield mean / (1 - beta1**steps) / ((square / (1 - beta2**steps)).sqrt() + eps)


def cuda_graph(step, batch):
    """Return `step` as one CUDA graph, launched at once instead of kernel by kernel.

    The seed of the dropout is read when a graph is launched, so that torch.manual_seed works as without it.
    """
    torch.cuda.set_device(batch.device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as torch's documentation asks: a few ordinary steps before the capture
        for _ in range(3):
            step(batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(batch)

    def replay(other):
        batch.copy_(other)
        graph.replay()
        return loss

    return replay
