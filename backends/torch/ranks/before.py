"""Plans the ranks of all targets before training, from runs of the base on texts of the data.

``gelora`` gives every layer a rank by the intrinsic dimensions of its hidden states. ``hetero`` gives a budget of rank
to the targets with the best scores by a zero-cost proxy, one backward pass without a step. Both make an ordinary layer
map, for any kind.
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.func import functional_call

from unilora_spec import LayerMap, UniLoraError

from ...settings import AdapterSettings
from ..adapter.targets.candidates import candidates
from ..adapter.targets.plan import plan

SHARE = 0.25  # of the targets that hetero adapts, as in HeteroLoRA's static search


def ranked(model: nn.Module, settings: AdapterSettings, batches: Iterable[dict] = ()) -> tuple[LayerMap, dict | None]:
    """(the layer map of ``settings`` on ``model``, the report of the planner that made its ranks, or None without a
    planner).

    ``batches``, which the planners of ``settings.BEFORE`` run through the model, are inputs of the model and
    ``labels``, as ``training.sample`` gives them. Where there is an accelerator, the model is on it afterwards. Raises
    ``UniLoraError``.

    The report has ``planner``, its name; ``budget``, the rank of all targets together when training ends; and
    ``targets``: a dict for each, with ``target``, ``rank`` and the planner's figures. A target of rank 0 is in the
    report and not in the layer map.
    """
    planner = settings.ranks
    patterns = planner if isinstance(planner, Mapping) else None
    layer_map = plan(
        model, settings.targets, settings.start_rank, patterns, settings.alpha, settings.scaling, settings.exclude
    )
    if not isinstance(planner, str):
        return layer_map, None
    ranks, seen = [settings.start_rank] * len(layer_map), [{}] * len(layer_map)
    budget = settings.rank * len(layer_map)
    if planner == "gelora":
        ranks, seen = gelora(_placed(model), layer_map, batches)
        budget = sum(ranks)
    elif planner == "hetero":
        scores = hetero(_placed(model), layer_map, batches, settings.proxy)
        most = [min(segment.out_features, segment.in_features) for segment in layer_map.segments]
        ranks = spread(scores, budget, most)
        seen = [{"score": score} for score in scores]
    targets = [
        {"target": _label(segment), "rank": rank, **figures}
        for segment, rank, figures in zip(layer_map.segments, ranks, seen)
    ]
    segments = [replace(segment, rank=rank) for segment, rank in zip(layer_map.segments, ranks) if rank]
    report = {"planner": planner, "budget": budget, "targets": targets}
    return LayerMap(segments, layer_map.alpha, layer_map.scaling), report


def _placed(model):
    if torch.accelerator.is_available():
        model.to(torch.device(torch.accelerator.current_accelerator().type, int(os.environ.get("LOCAL_RANK", "0"))))
    return model.eval()


def _label(segment) -> str:
    """A segment's name as --targets has it: its weight, and its rows or the number of its matrix."""
    label = segment.name.removesuffix(".weight")
    if segment.index is not None:
        label += f" {segment.index}"
    return label if segment.row is None else f"{label}[{segment.row}:{segment.row + segment.out_features}]"


# GeLoRA


def two_nn(points: torch.Tensor) -> float:
    """The intrinsic dimension of ``points`` (n, features) by the distances r₁ and r₂ of each to its two nearest neighbours.

    Where the density is even around a point, μ = r₂ / r₁ has the distribution F(μ) = 1 − μ^(−dimension): the dimension is the
    slope of −log(1 − F) over log μ through the origin, for the nine tenths of the points of the smallest μ. Its standard error is
    one to two times dimension / √n. Source: Facco, d'Errico, Rodriguez, Laio 2017, "Estimating the intrinsic dimension of datasets by a
    minimal neighborhood information". Raises ``UniLoraError`` for fewer than ten different points.
    """
    points = torch.unique(points.double(), dim=0)
    if len(points) < 10:
        raise UniLoraError(
            f"an intrinsic dimension needs more than {len(points)} different texts; give more rows to --data"
        )
    points = points - points.mean(0)  # cdist subtracts squares: the smaller the points, the less of them cancels
    distances = torch.cdist(points, points).fill_diagonal_(math.inf)
    first, second = distances.topk(2, largest=False).values.T
    x = (second / first)[first > 0].log().sort().values
    kept = 9 * len(x) // 10
    y = -torch.log1p(-torch.arange(1, kept + 1, dtype=x.dtype, device=x.device) / len(x))
    return float(x[:kept] @ y / (x[:kept] @ x[:kept]))


def gelora(model: nn.Module, layer_map: LayerMap, batches: Iterable[dict]) -> tuple[list[int], list[dict]]:
    """(a rank for each segment, max(0, dimension of its layer's output − of its input) + 1; the figures of each
    segment).

    Source: Ed-dib, Datbayev, Aboussalah 2024, arXiv 2412.09250: an update of lower rank cannot make the states of a layer gain so
    many dimensions; one is added, as the estimates are too low and 0 would train nothing. A layer is the outermost entry of an
    nn.ModuleList on the weight's path, and all its targets have its rank; a weight outside of all such lists is a layer of its own.
    How the paper makes one point of a text's tokens, and how it rounds, could not be looked up: here it is the mean of the
    tokens, and the increase is rounded to the nearest whole number, which with the one that is added stays above the bound.
    """
    layers = [_layer(model, segment.name) for segment in layer_map.segments]
    points, mask = defaultdict(list), None

    def add_points(name, states):
        if states.shape[:2] != mask.shape:
            raise UniLoraError(
                f"--ranks gelora needs states of (texts, tokens, features), and {name} has {tuple(states.shape)}; give another "
                "planner to --ranks"
            )
        states, weights = states.float(), mask.unsqueeze(-1)
        points[name].append(((states * weights).sum(1) / weights.sum(1)).cpu())

    def hook(name):
        def record_states(module, inputs, named, output):
            add_points(f"{name}'s input", inputs[0] if inputs else named["hidden_states"])
            add_points(f"{name}'s output", output[0] if isinstance(output, tuple) else output)

        return model.get_submodule(name).register_forward_hook(record_states, with_kwargs=True)

    handles = [hook(name) for name in dict.fromkeys(layers)]
    try:
        with torch.no_grad():
            for batch in _on_device(model, batches):
                mask = batch["attention_mask"]
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    if idle := [name for name in layers if f"{name}'s input" not in points]:
        raise UniLoraError(f"--ranks gelora: {idle[0]} has no part in the model's forward; leave it out of --targets")
    dimensions = {name: two_nn(torch.cat(states)) for name, states in points.items()}
    ranks, figures = [], []
    for segment, name in zip(layer_map.segments, layers):
        before, after = dimensions[f"{name}'s input"], dimensions[f"{name}'s output"]
        rank = round(max(0.0, after - before)) + 1
        ranks.append(min(rank, segment.out_features, segment.in_features))
        figures.append({"score": after - before, "input": before, "output": after})
    return ranks, figures


def _layer(model, name):
    owner = name.rpartition(".")[0].split(".")
    for length in range(1, len(owner)):
        if isinstance(model.get_submodule(".".join(owner[:length])), nn.ModuleList):
            return ".".join(owner[: length + 1])
    return ".".join(owner)


# HeteroLoRA


def gradient_norm(weight: torch.Tensor, gradient: torch.Tensor) -> float:
    """‖∂L/∂W‖, Frobenius: the proxy "grad-norm" (Abdelfattah, Mehrotra, Dudziak, Lane 2021, arXiv 2101.08134)."""
    return float(gradient.norm())


def snip(weight: torch.Tensor, gradient: torch.Tensor) -> float:
    """Σ |W ⊙ ∂L/∂W|: what the loss would change by without each entry, to first order (Lee, Ajanthan, Torr 2019, arXiv 1810.02340)."""
    return float((weight * gradient).abs().sum())


def synflow(weight: torch.Tensor, flow: torch.Tensor) -> float:
    """Σ |W ⊙ ∂R/∂|W||, R the sum of the outputs of the net of absolute weights, ``gradients_of_flow``: all paths
    through the weight, by their product of weights (Tanaka, Kunin, Yamins, Ganguli 2020, arXiv 2006.05467)."""
    return float((weight * flow).abs().sum())


def hetero(model: nn.Module, layer_map: LayerMap, batches: Iterable[dict], proxy: str) -> list[float]:
    """The score of each segment by a proxy: "grad-norm", "snip" or "synflow".

    Source: Zhang, Zhang, Gao, Mullins, Constantinides, Zhao 2024, arXiv 2406.14956, "Unlocking the Global Synergies in Low-Rank
    Adapters". The paper scores A and B; but B starts at 0, where snip and synflow are 0, and so is the gradient of A.
    So the adapted weight is scored here, as in the proxies' own papers, and for every kind of projection alike.
    """
    owners = {candidate.weight: candidate for candidate in candidates(model)}
    names = list(layer_map.by_weight())
    for name in names:
        if owners[name].is_quantized:
            raise UniLoraError(
                f"--ranks hetero takes gradients of {name}, which is quantized; plan on the unquantized base"
            )
    if proxy == "synflow":
        try:
            gradients = gradients_of_flow(model, names, _flow_inputs(model, batches))
        except Exception as error:  # each model raises its own for embeddings and dtypes that it cannot take
            reason = str(error).strip().split("\n")[0]
            raise UniLoraError(
                f"--proxy synflow: {type(model).__name__} cannot run on embeddings in float64: {reason}; give another one"
            ) from error
    else:
        gradients = gradients_of_loss(model, names, batches)
    score = {"grad-norm": gradient_norm, "snip": snip, "synflow": synflow}[proxy]
    weights = {name: model.get_parameter(name).detach().float() for name in names}
    scores = [score(s.part(weights[s.name]), s.part(gradients[s.name])) for s in layer_map.segments]
    if not any(scores):
        raise UniLoraError(f"--proxy {proxy} is 0 for every target of {type(model).__name__}; give another one")
    return scores


def gradients_of_loss(model: nn.Module, names: Sequence[str], batches: Iterable[dict]) -> dict[str, torch.Tensor]:
    """∂L/∂W of the named weights, float32, where L is the sum of the batches' losses; 0 for a weight that L does not
    depend on."""
    weights = [model.get_parameter(name) for name in names]
    total = [torch.zeros(weight.shape, device=weight.device) for weight in weights]
    for batch in _on_device(model, batches):
        for whole, part in zip(total, torch.autograd.grad(model(**batch).loss, weights, allow_unused=True)):
            if part is not None:
                whole += part
    return dict(zip(names, total))


def gradients_of_flow(model: nn.Module, names: Sequence[str], inputs: dict) -> dict[str, torch.Tensor]:
    """∂R/∂|W| of the named weights, float32: R is the sum of the model's logits for ``inputs``, with the absolute value of every
    parameter in float64, as products of so many may leave the range of float32."""
    weights = {name: weight.detach().abs().double() for name, weight in model.named_parameters()}
    chosen = [weights[name].requires_grad_() for name in names]
    R = functional_call(model, weights, kwargs=inputs).logits.sum()
    flows = torch.autograd.grad(R, chosen, allow_unused=True, materialize_grads=True)
    return {name: flow.float() for name, flow in zip(names, flows)}


def _flow_inputs(model, batches):
    """Inputs with ones in place of the first batch's embedded tokens, as HeteroLoRA has them."""
    batch = next(iter(_on_device(model, batches)))
    width = model.get_input_embeddings().embedding_dim
    ones = torch.ones(*batch["input_ids"].shape, width, dtype=torch.float64, device=batch["input_ids"].device)
    return {"inputs_embeds": ones, "attention_mask": batch["attention_mask"]}


def spread(scores: Sequence[float], budget: int, most: Sequence[int]) -> list[int]:
    """Ranks whose sum is ``budget``, none above its ``most``: the best quarter of the targets shares the budget evenly,
    the rest gets 0.

    HeteroLoRA's static search does so: rank / 0.25 for 0.25 of the targets; of equal scores the later target is the
    better. A remainder of the division goes to the best, and what exceeds a target's ``most`` to the next best. Raises
    ``UniLoraError`` for a ``budget`` above the sum of ``most``.

    >>> spread([3.0, 1.0, 2.0, 2.0, 0.5, 0.1, 0.2, 0.3], budget=17, most=[8, 16, 16, 16, 16, 16, 16, 16])
    [8, 0, 0, 9, 0, 0, 0, 0]
    """
    if budget > sum(most):
        raise UniLoraError(f"the budget of rank is {budget}, and the targets can take {sum(most)}; give a lower --rank")
    best = sorted(range(len(scores)), key=lambda target: (-scores[target], -target))
    adapted = max(1, int(SHARE * len(scores)))
    ranks, left = [0] * len(scores), budget
    for place, target in enumerate(best):
        ranks[target] = min(math.ceil(left / max(1, adapted - place)), most[target])
        left -= ranks[target]
    return ranks


def _on_device(model, batches):
    device = next(model.parameters()).device
    return ({name: value.to(device) for name, value in batch.items()} for batch in batches)
