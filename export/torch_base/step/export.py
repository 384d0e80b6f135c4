"""``export_onnx(mode="step")``: the graph of a step, and PyTorch's own gradients to compare it with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from unilora_spec import Adapter, UniLoraError, WorkFailed

from ...graph.step import assemble, check_kind, factor_shapes
from ...graph.stored import WEIGHTS, rounded
from ...modes import Form
from ...onnx import metadata, place
from ..from_torch import default_dynamic
from ..model import array, arrays, inference, values
from ..trace import quiet, root
from .joint import LOGITS, WithLoss, plain_attention, traced
from .onnx_graph import translated
from .tasks import Task, task_of, with_labels

LABELS = "labels"


def export_step(
    model: torch.nn.Module,
    adapter: Adapter,
    batches: Sequence[Mapping[str, torch.Tensor]],
    path: Path,
    opset: int,
    dynamic: Mapping[str, Mapping[int, str]],
    loss: Callable | None,
    weights: str,
    compare: bool,
    form: Form,
    progress: Callable[[str], None],
) -> dict:
    """Writes the graph of a step to ``path`` and the adapter beside it, and returns a report; see ``export_onnx``, which has checked its call.

    ``loss``     of what the model's forward gives and the labels; None for a transformers model, whose task says it
    ``weights``  how the large frozen tensors are stored: one of ``WEIGHTS``
    """
    check_step(model, adapter, weights)
    task = Task("", loss) if loss else task_of(model)
    batches = _labelled(task, model, batches)
    first = batches[0]
    dynamic = default_dynamic({LABELS: first[LABELS]}) | dynamic
    inputs = {name: value for name, value in first.items() if name != LABELS}
    with inference(model), plain_attention(model), quiet():
        progress("tracing the step")
        try:
            joint = traced(
                WithLoss(model, task.loss, of_logits=not loss), inputs, first[LABELS], dynamic, adapter.layer_map, list(adapter.saved),
                factor_shapes,
            )  # fmt: skip
        except Exception as error:  # of many kinds, from torch.export and from autograd
            raise WorkFailed(f"torch could not trace a step of the model: {root(error)}") from error
        progress("writing the backward pass")
        graph = translated(joint, {**inputs, LABELS: first[LABELS]}, dynamic, opset)
    frozen = {name: value.cpu().numpy() for name, value in joint.frozen.items()}
    checks = None
    if compare:
        progress("running a step in PyTorch")
        checks = cases(model, adapter, batches, weights, task)
    progress("putting the adapter in")
    graph.metadata_props.clear()
    assemble(graph, adapter, frozen, weights, form)
    graph.metadata_props.update(metadata([adapter], "step") | {"unilora.task": task.name, "unilora.weights": weights})
    return place(graph, [adapter], "step", path, checks, progress, form)


def check_step(model, adapter: Adapter, weights: str) -> None:
    """Raises ``UniLoraError`` where a step of this model and adapter cannot be had."""
    if weights not in WEIGHTS:
        raise UniLoraError(f"weights is {weights!r}; give {', '.join(WEIGHTS)}")
    check_kind(adapter)
    other = next(
        (
            name
            for name, value in model.named_parameters()
            if value.is_floating_point() and value.dtype != torch.float32
        ),
        None,
    )
    if other:
        raise UniLoraError(
            f"{other} is not float32, and a step is computed in float32; call model.float(), or leave --dtype out"
        )


def _labelled(task: Task, model, batches):
    if task.name:
        return [with_labels(task, model, batch, number) for number, batch in enumerate(batches)]
    if any(LABELS not in batch for batch in batches):
        raise UniLoraError("the example has no labels; give them beside its inputs, by the name labels")
    return batches


def cases(
    model, adapter: Adapter, batches: Sequence[Mapping], weights: str, task: Task | None = None
) -> list[tuple[dict, dict]]:
    """What a step graph is fed, and has to answer: what PyTorch makes of each batch, the adapter merged into the weights.

    The gradient of θ is that of W + ΔW, by the rules of the product of A and B, and the specification's adjoint. The loss is the model's own
    where it has one. The frozen weights are those that the graph computes with, ``weights`` says how they are rounded.
    """
    task = task or task_of(model)
    batches = _labelled(task, model, batches)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    trained = [*adapter.layer_map.by_weight(), *adapter.saved]
    kept = {id(parameters[name]) for name in adapter.saved}
    base = {name: rounded(array(value), weights) for name, value in parameters.items() if id(value) not in kept}
    required = {name: value.requires_grad for name, value in parameters.items()}
    found = []
    with inference(model), values(parameters, base):
        merged = {name: array(parameters[name]) for name in trained}
        adapter.merge(merged)
        with values(parameters, merged), torch.enable_grad():
            try:
                model.requires_grad_(False)
                for name in trained:
                    parameters[name].requires_grad_()
                for batch in batches:
                    found.append((_fed(batch, adapter), _answer(model, adapter, batch, task, parameters, trained)))
            finally:
                for name, value in parameters.items():
                    value.requires_grad_(required[name])
    return found


def _fed(batch, adapter):
    fed = {"theta": np.asarray(adapter.theta, np.float32)} | {
        n: np.asarray(v, np.float32) for n, v in adapter.saved.items()
    }
    return arrays(batch, batch) | fed


def _answer(model, adapter, batch, task: Task, parameters, trained):
    if task.name:
        outputs = model(**batch)
        loss, logits = outputs.loss, outputs.logits
    else:
        inputs = {name: value for name, value in batch.items() if name != LABELS}
        loss, logits = WithLoss(model, task.loss, of_logits=False)(inputs, batch[LABELS])
    gradients = torch.autograd.grad(
        loss, [parameters[name] for name in trained], allow_unused=True, materialize_grads=True
    )
    by_name = {name: gradient.numpy() for name, gradient in zip(trained, gradients)}
    answer = {"loss": loss.detach().numpy(), LOGITS: logits.detach().numpy(), "theta.grad": of_theta(adapter, by_name)}
    return answer | {f"{name}.grad": by_name[name] for name in adapter.saved}


def of_theta(adapter: Adapter, of_weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """θ's gradient, float32[d], of those of the adapted weights as they are stored (SPEC 6.3, 7.7, 11.4)."""
    g = np.empty(adapter.layer_map.D, np.float64)
    placed = adapter.layer_map.placed()
    for (segment, offset), (_, *factors) in zip(placed, adapter.factors(), strict=True):
        of_delta = float(adapter.layer_map.factor_scale(segment)) * segment.matrix(of_weights[segment.name]).astype(
            np.float64
        )
        of_factors = [of_delta]
        if segment.rank:
            A, B = factors
            of_factors = [B.T.astype(np.float64) @ of_delta, of_delta @ A.T.astype(np.float64)]
        g[offset : offset + segment.size] = np.concatenate([each.ravel() for each in of_factors])
    return adapter.projection.adjoint(g.astype(np.float32), theta=adapter.theta)
