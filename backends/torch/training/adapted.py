"""The adapter of a run on its base, and what of the two is trained at which rate."""

from unilora_spec import UniLoraError

from ..adapter.attach import attach
from ..adapter.sites.noise import Noise


def attached(model, settings, layer_map, new, **options) -> None:
    """Puts the adapter of ``settings`` on ``model``; the parameters ``new``, which the base lacked, are trained in full beside it."""
    attach(
        model,
        d=settings.dim,
        seed=settings.seed,
        targets=layer_map,
        kind=settings.kind,
        options=settings.options,
        storage=settings.storage,
        train_in_full=(*new, *settings.train_in_full),
        **options,
    )
    if settings.head_only:
        if not model.unilora.trained_in_full():
            raise UniLoraError(f"{settings.base}: it has a head for this task; --head-only has nothing to train")
        theta = model.unilora.theta
        theta.requires_grad_(False)
        theta.detach().zero_()  # the delta weights are exactly zero
    elif settings.noise:
        model.unilora.noise = Noise(settings.noise, settings.seed)


def groups(model, settings) -> list[dict]:
    """The parameter groups of an optimizer: θ first, then what is trained in full."""
    theta = model.unilora.theta
    in_full = [model.get_parameter(name) for name in model.unilora.trained_in_full()]
    groups = [{"params": [theta], "lr": settings.lr}] if theta.requires_grad else []
    if settings.head_weight_decay is None:
        parts = [{"params": in_full}]
    else:
        matrices = [each for each in in_full if each.dim() > 1]
        vectors = [each for each in in_full if each.dim() <= 1]
        parts = [
            {"params": matrices, "weight_decay": settings.head_weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
    return groups + [part | {"lr": settings.head_lr} for part in parts if part["params"]]
