"""Puts an adapter on a model: ``attach`` a new one, ``load_adapter`` one from a file."""

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from unilora_spec import Adapter, LayerMap, Projection
from unilora_spec.adapter import check_fit
from unilora_spec.places import PathLike
from unilora_spec.projection import kind_named

from .calls.marks import refuse_marked
from .files.folders import read_adapters
from .files.heads import lacking
from .files.in_full import names_in_full
from .files.record import values_of
from .several.adapters import fitting_adapter
from .targets.candidates import candidates
from .targets.names import unwrapped
from .targets.plan import plan
from .unilora import UniLora


def attach(
    model: nn.Module,
    rank: int = 4,
    d: int | None = None,
    seed: int = 0,
    targets: str | Sequence[str] | LayerMap | None = None,
    *,
    exclude: str | Sequence[str] = (),
    ranks: Mapping[str, int] | None = None,
    alpha: float | None = None,
    scaling: str = "lora",
    kind: str = "balanced",
    options: Mapping[str, int] | None = None,
    train_in_full: Sequence[str] = (),
    untrained: Sequence[str] = (),
    bound: float | None = None,
    storage: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> nn.Module:
    """Adapts ``model`` in place with one trained vector and returns it; every other parameter is frozen.

    rank            LoRA's r of every target; ``ranks`` gives some targets another: {"query": 8}. A target of rank 0 has
                    no A and B: θ_D then holds the entries of its delta weight (GPart; with kind "identity", the target is
                    trained in full)
    d               the length of θ, 1 … D; with most kinds other than "balanced" it follows from the layer map, and is
                    left out
    seed            0 … 2^64 − 1: P and the initial θ follow from it
    targets         ends of module names, or regular expressions, "all-linear", or by default those of the model's type; see
                    ``plan``. Or a layer map that ``plan`` has made of this model: rank, ranks, alpha and scaling are
                    then taken from it
    exclude         patterns of the same form, for targets that are left out
    alpha           the delta weight is alpha / rank · B·A, and with rank 0 alpha times its entries; by default alpha is
                    ``rank``, or 1 where that is 0
    kind, options   the projection's kind (SPEC 9.1), and its own whole numbers by name: docs/family has a page for each
                    kind
    train_in_full   ends of names of modules or parameters trained beside θ (a new classification head)
    untrained       ends of names of parameters that the base's checkpoint lacks and that stay untrained, because their
                    values do not matter; where another parameter is lacking, ``attach`` warns and ``save_adapter``
                    refuses
    bound           the initial θ is uniform in ±bound: by default 0.02, or 0 where all targets are of rank 0 (SPEC 6.4)
    storage         how P is held, with the same results to the bit: "cached" takes 2 bytes an entry, or 4 where
                    d > 65,536; "computed" takes no memory and computes P at each step. By default P is computed on a GPU with Triton and where the
                    index would take more than 1 GiB, else cached; ``repr(model.unilora)`` shows which
    progress        called with the number of adapted weights that are prepared and the number of all: kinds that begin
                    with singular vectors of the weights need time for each

    The model gets the parameter ``unilora_theta``, float32[d], also ``model.unilora.theta``, and the methods
    ``save_adapter(path)``, ``load_adapter(path)``, ``merge()`` and ``detach()``. Its ``state_dict()`` holds what is trained and nothing else, so that a trainer's
    checkpoints do. Raises ``UniLoraError`` where the arguments do not fit the model; the model is then unchanged.

    >>> model = attach(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), rank=2, d=10, targets=["0"])
    >>> [(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]
    [('unilora_theta', (10,))]
    """
    wrapped, model = model, unwrapped(model)
    refuse_marked(model)
    if isinstance(targets, LayerMap):
        layer_map = targets
        check_fit(layer_map, {candidate.weight: candidate.shape for candidate in candidates(model)})
    else:
        layer_map = plan(model, targets, rank, ranks, alpha, scaling, exclude)
    of_kind = kind_named(kind).trained_as()
    options = of_kind.with_defaults(options or {})
    layer_map = of_kind.fitted(layer_map, **options)
    total = len(layer_map.by_weight())
    read = _counting_reads(values_of(model), total, progress)
    projection = Projection.of(layer_map, kind, d, seed, read, **options)
    progress(total, total)
    theta = projection.initial(layer_map, layer_map.bound if bound is None else bound)
    in_full = names_in_full(model, train_in_full, layer_map)
    left_untrained = names_in_full(model, untrained, layer_map)
    new = [name for name in lacking(model) if name not in left_untrained]
    if forgotten := [name for name in new if name not in in_full]:
        warnings.warn(
            f"{', '.join(forgotten)}: the base's checkpoint lacks them, so that they are random here; name them in train_in_full, or in "
            "untrained where their values do not matter",
            stacklevel=2,
        )
    UniLora(model, projection, layer_map, theta, in_full, storage, new)
    read_adapters(model, load_adapter)
    return wrapped


def load_adapter(model: nn.Module, path: PathLike) -> nn.Module:
    """Puts the adapter in the file at ``path`` on ``model``, in place of one that may be there, and returns the model.

    ``path`` may also be a folder that ``save_pretrained`` of an adapted model or a trainer wrote, or a trainer's
    checkpoint file (.ckpt, .pt, .pth, .bin). Adapters that ``add_adapter`` has taken into memory stay there.

    Raises ``UniLoraError`` with the file's name where the file is unsound or made for another architecture; warns where the
    model's weights are not those that the adapter was trained on. The model is unchanged until everything has been
    checked.
    """
    attached = getattr(model, "unilora", None)
    wrapped, model = model, attached.model if attached else unwrapped(model)
    if not attached:
        refuse_marked(model)
    attach_adapter(model, fitting_adapter(model, path))
    read_adapters(model, load_adapter)
    return wrapped


def attach_adapter(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Puts an adapter that fits ``model`` on it, in place of one that may be there, and returns the model.

    Calls of the model in other threads end first, and calls that begin meanwhile wait.
    """
    attached = getattr(model, "unilora", None)
    if attached:
        attached.adapters.replace(adapter)
    else:
        # No parameter counts as new: what the file lacks, the adapter was trained without.
        attached = UniLora(model, adapter.projection, adapter.layer_map, adapter.theta, adapter.saved)
        attached.in_full.set(adapter.saved)
        attached.adapters.base = adapter.base
        attached.set_labels(adapter)
    return model


def _counting_reads(read, total, progress):
    """``read``, with a call of ``progress`` before each weight: the number of weights that are done, and ``total``."""
    done = itertools.count()

    def counting_read(name):
        progress(next(done), total)
        return read(name)

    return counting_read
