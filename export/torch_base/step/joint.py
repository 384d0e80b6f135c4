"""A model and its loss as one traced function: what a step feeds → loss, logits and the gradients of what is trained.

torch.export traces the forward pass; run again with A and B as inputs (adapted.py), PyTorch's autograd makes the backward pass of it.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from unilora_spec import LayerMap

from ..model import run
from .adapted import Adapted, changes
from .backward import DECOMPOSED, aten

LOGITS = "logits"


class WithLoss(torch.nn.Module):
    """A model as its forward pass is traced: loss and logits of inputs by name and labels.

    ``loss``  of the logits and the labels, where ``of_logits``; else of what the model's forward gives
    """

    def __init__(self, model: torch.nn.Module, loss: Callable, of_logits: bool):
        super().__init__()
        self.model, self.loss, self.of_logits = model, loss, of_logits

    def forward(self, batch, labels):
        if self.of_logits:
            logits = run(self.model, batch)[LOGITS]
            return self.loss(logits, labels), logits
        outputs = self.model(**batch)
        named = outputs if isinstance(outputs, Mapping) else {LOGITS: outputs}
        return self.loss(outputs, labels), named.get(LOGITS, next(iter(named.values())))


@dataclass
class Joint:
    """A traced step: ``graph`` takes flat tensors, those of ``batch``, ``factors``, ``saved`` and ``frozen`` in this order, and gives loss, logits
    and a gradient for each of ``factors`` and ``saved``."""

    graph: torch.fx.GraphModule
    factors: dict[str, torch.Tensor]
    saved: dict[str, torch.Tensor]
    frozen: dict[str, torch.Tensor]


@contextlib.contextmanager
def plain_attention(model: torch.nn.Module):
    """Attention of plain products, whose backward pass is of plain products too, and not one of PyTorch's fused kernels."""
    has = [module for module in model.modules() if hasattr(module, "set_attn_implementation")][:1]
    before = [module.config._attn_implementation for module in has]
    try:
        for module in has:
            module.set_attn_implementation("eager")
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, implementation in zip(has, before):
            module.set_attn_implementation(implementation)


def traced(
    model: WithLoss,
    batch: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    dynamic: Mapping[str, Mapping[int, str]],
    layer_map: LayerMap,
    saved: Sequence[str],
    names: Callable,
) -> Joint:
    """The step of ``model``, ``dynamic`` the axes of the inputs and of ``labels`` whose size may change.

    ``names(segment)`` are those of a segment's factors; the parameters ``saved`` are trained in full.
    """
    shapes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in dynamic.items()}
    of_labels = shapes.pop("labels")
    with torch.no_grad():
        program = torch.export.export(model, (dict(batch), labels), dynamic_shapes=(shapes, of_labels), strict=False)
    places = [node for node in program.graph.nodes if node.op == "placeholder"]
    targets = _targets(program)
    tensors = {**program.state_dict, **program.constants}
    names_of = _names(model.model)
    stored = {node: tensors[targets[node.name]] for node in places if node.name in targets}
    own = {node: names_of.get(id(value), targets[node.name].removeprefix("model.")) for node, value in stored.items()}
    fakes = places[0].meta["val"].fake_mode
    factors = {name: torch.zeros(shape) for segment in layer_map.segments for name, shape in names(segment)}
    in_full = {own[node]: value.detach() for node, value in stored.items() if own[node] in saved}
    frozen = {own[node]: value.detach() for node, value in stored.items() if own[node] not in saved}

    def step(*flat):
        flat = iter(flat)
        fed = [next(flat) for node in places if node not in stored]
        of_factors, of_saved, of_frozen = ({name: next(flat) for name in some} for some in (factors, in_full, frozen))
        trained = [*of_factors.values(), *of_saved.values()]
        for tensor in trained:
            tensor.requires_grad_()
        with torch.enable_grad():
            by_offset = {
                offset: [of_factors[name] for name, _ in names(segment)] for segment, offset in layer_map.placed()
            }
            weights, fed = of_saved | of_frozen, iter(fed)
            changed = [
                (weights[name], change) for name, change in changes(layer_map, by_offset).items() if name in weights
            ]
            inputs = [weights[own[node]] if node in stored else next(fed) for node in places]
            loss, logits = Adapted(program.graph_module, changed).run(*inputs)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        return loss.detach(), logits.detach(), *gradients

    with fakes:
        by_node = {own[node]: node.meta["val"].detach() for node in stored}
        flat = [node.meta["val"] for node in places if node not in stored]
        flat += [fakes.from_tensor(value, static_shapes=True) for value in factors.values()]
        flat += [by_node[name].clone() if name in in_full else by_node[name] for name in (*in_full, *frozen)]
        graph = make_fx(step, decomposition_table=DECOMPOSED)(*flat)
    _clean(graph)
    return Joint(graph, factors, in_full, frozen)


def _targets(program) -> dict[str, str]:
    signature = program.graph_signature
    return {
        **signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants
    }  # fmt: skip


def _names(model) -> dict[int, str]:
    """The names of the parameters by their tensors, the first of those that are one tensor."""
    found = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(value), name)
    return found


def _clean(module: torch.fx.GraphModule) -> None:
    """Takes out what autograd leaves behind, and what only copies."""
    graph = module.graph
    for node in list(graph.nodes):
        copies = node.target is aten.detach.default
        if node.target is aten.expand.default:
            copies = list(map(str, node.args[0].meta["val"].shape)) == list(map(str, node.meta["val"].shape))
        if copies:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
