"""One training step, and the two ways to record and repeat its operations: as one function, or as one CUDA graph."""

from contextlib import contextmanager
from itertools import compress

import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import get_total_norm

from lab.settings import BATCH_SIZE, TUTORIAL

# Operations that are called faster as a method of their first argument, which takes the same arguments.
SAME_AS_METHOD = (
    *("add_", "addcmul_", "addmm", "clone", "index_select", "mm", "mul", "mul_", "permute", "relu", "relu_", "repeat"),
    *("select", "sum", "t", "transpose", "view"),
)


def plain_step(model, data, recipe=TUTORIAL, lr_scale=1.0, optimizer_state=None):
    """Return a function that makes one step on the images of given indices, (B,), and returns its mean loss, a scalar.

    lr_scale: a scalar tensor that may change between steps; it multiplies the learning rates.
    optimizer_state: that of `new_optimizer_state`, which each step changes.

    The updates are written out because torch's optimisers cannot be recorded on a CPU, and take longer.
    """
    names, parameters = zip(*trainable(model), strict=True)
    localises = [name.startswith("loc_") for name in names]
    rates = [recipe.localisation_rate if local else recipe.learning_rate for local in localises]
    lr_scale = torch.as_tensor(lr_scale, device=data.train_images.device)
    optimizer_state = optimizer_state or new_optimizer_state(model, recipe)

    def step(batch):
        loss = loss_of(model, *data.batch(batch))
        grads = torch.autograd.grad(loss, parameters, materialize_grads=True)  # 0 for one that has no part in it
        with torch.no_grad():
            if recipe.localisation_norm:
                grads = clip(grads, localises, recipe.localisation_norm)
            updates = adam(grads, optimizer_state) if optimizer_state else grads
            for parameter, update, rate in zip(parameters, updates, rates, strict=True):
                parameter.addcmul_(update, lr_scale, value=-rate)
        return loss.detach()

    return step


def loss_of(model, images, labels, *truth):
    """Return the mean loss of a batch: a network's own, if it has a method `loss`."""
    return model.loss(images, labels, *truth) if hasattr(model, "loss") else F.nll_loss(model(images), labels)


def trainable(model):
    """List the named parameters that are trained: [(name, parameter)]; those of a compiled network as without it."""
    named = model.named_parameters()
    return [(name.removeprefix("_orig_mod."), parameter) for name, parameter in named if parameter.requires_grad]


def is_compiled(model):
    """Tell whether torch.compile has a part in a network."""
    return any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in model.modules())


@contextmanager
def unchanged(model, optimizer_state):
    """Put the weights and buffers of a network, and what its optimiser remembers, back at the end as they were."""
    changed = [*model.parameters(), *model.buffers(), *optimizer_state.values()]
    before = [tensor.detach().clone() for tensor in changed]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)


def clip(grads, chosen, largest):
    """Scale the chosen gradients together so that their common norm is at most `largest`."""
    if not any(chosen):
        return grads
    norm = get_total_norm(compress(grads, chosen), foreach=False)
    factor = largest / norm.clamp(min=largest)
    return [grad * factor if scale else grad for grad, scale in zip(grads, chosen, strict=True)]


def new_optimizer_state(model, recipe):
    """Return what an optimiser remembers from step to step, a flat dict of tensors; nothing for plain SGD."""
    if recipe.optimizer == "sgd":
        return {}
    named = trainable(model)
    zeros = {f"{kind} {name}": torch.zeros_like(p.detach()) for kind in ("mean", "square") for name, p in named}
    return {"steps": torch.zeros((), dtype=torch.float64, device=named[0][1].device), **zeros}


def adam(grads, state, beta1=0.9, beta2=0.999, eps=1e-8):
    """Yield the updates of Adam (arXiv 1412.6980, algorithm 1) for a learning rate of 1; change the state."""
    steps, *averages = state.values()
    steps += 1
    for grad, mean, square in zip(grads, averages[: len(grads)], averages[len(grads) :], strict=True):
        mean.lerp_(grad, 1 - beta1)
        square.lerp_(grad.square(), 1 - beta2)
        yield mean / (1 - beta1**steps) / ((square / (1 - beta2**steps)).sqrt() + eps)


def training_step(model, data, recipe=TUTORIAL, lr_scale=1.0, optimizer_state=None):
    """Return `plain_step`, recorded if `model` has the attribute `repeatable` set, to the same bits.

    A third of a step of these small networks is the time from one operation to the next: in Python, in autograd, and
    on a GPU in launching a kernel. Repeating what was recorded takes a tenth off a step on a CPU, and most on a GPU.
    """
    optimizer_state = optimizer_state or new_optimizer_state(model, recipe)
    step = plain_step(model, data, recipe, lr_scale, optimizer_state)
    if not getattr(model, "repeatable", False) or is_compiled(model):
        return step
    device = data.train_images.device
    model.train()
    batch = torch.arange(BATCH_SIZE, device=device) % len(data.train_labels)
    with unchanged(model, optimizer_state):  # recording is training, too
        repeat = cuda_graph(step, batch) if device.type == "cuda" else record(step, batch)
    return lambda batch: repeat(batch) if len(batch) == BATCH_SIZE else step(batch)  # an epoch's last batch is smaller


def record(step, batch):
    """Return the operations of `step`, forward, backward and update, as one function without autograd and modules."""
    step(batch)  # what is computed once and kept for later must not become part of every step
    graph = make_fx(step)(batch)
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
