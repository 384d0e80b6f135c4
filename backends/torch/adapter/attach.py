"""One vector on a model: ``attach`` puts it there, and everything that is done with it afterwards."""

import contextlib
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

import unilora_spec
from unilora_spec import (
    Adapter,
    Base,
    FileError,
    KindError,
    LayerMap,
    LayerMapError,
    Projection,
)
from unilora_spec.adapter import check_fit
from unilora_spec.projection import kind_named

from . import meaning
from .expansion import storage_of
from .noise import Draw, Noise
from .sites import delta_weight
from .targets import candidates, matching, plan

_THETA = "unilora_theta"
_DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16"}
_METHODS = ("save_adapter", "load_adapter", "merge", "detach")


def attach(
    model: nn.Module,
    rank: int = 4,
    d: int | None = None,
    seed: int = 0,
    targets: str | Sequence[str] | LayerMap = ("query", "value"),
    *,
    ranks: Mapping[str, int] | None = None,
    alpha: float | None = None,
    scaling: str = "lora",
    kind: str = "balanced",
    options: Mapping[str, int] | None = None,
    train_in_full: Sequence[str] = (),
    bound: float | None = None,
    storage: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> nn.Module:
    """Adapts ``model`` in place with one trained vector and returns it; every other parameter is frozen.

    rank            LoRA's r, for every target; ``ranks`` sets others: {"query": 8}. Of rank 0 there is no A and B: θ_D holds
                    the entries of the delta weight itself (GPart; with kind "identity", the target trained in full)
    d               the length of θ, 1 … D; of most kinds but "balanced" it follows from the layer map, and is left out
    seed            0 … 2^64 − 1: P and the initial θ follow from it
    targets         ends of module names, or regular expressions; see ``plan``. Or the layer map that a plan has made of the
                    model already: rank, ranks, alpha and scaling are its own then
    alpha           the delta weight is alpha / rank · B·A, of rank 0 alpha times its entries; by default alpha is ``rank``,
                    or 1 where that is 0
    kind, options   the projection (SPEC 9.1), and whole numbers of its own by name: docs/family has a page for each
    train_in_full   ends of names of modules or parameters trained beside θ (a new classification head)
    bound           the initial θ is uniform in ±bound: by default 0.02, or 0 where all targets are of rank 0 (SPEC 6.4)
    storage         how P is held, the bits being the same: "cached", 4 bytes an entry, or "computed", none, for the time to
                    compute it at each step; by default as ``model.unilora`` shows: computed by a GPU's kernels or where
                    the index would take more than 1 GiB, else cached
    progress        is told how many of the adapted weights are prepared, and of how many: kinds that begin with singular
                    vectors of the weights take their time

    The model gets the parameter ``unilora_theta``, float32[d], also ``model.unilora.theta``, and the methods
    ``save_adapter(path)``, ``load_adapter(path)``, ``merge()`` and ``detach()``. Its ``state_dict()`` holds what is trained and nothing else, so that a trainer's
    checkpoints do. Raises ``UniLoraError`` where the arguments do not fit the model; the model is then unchanged.

    >>> model = attach(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), rank=2, d=10, targets=["0"])
    >>> [(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]
    [('unilora_theta', (10,))]
    """
    if hasattr(model, "unilora"):
        raise LayerMapError("the model has an adapter already; call model.detach() or model.merge() first")
    if isinstance(targets, LayerMap):
        layer_map = targets
        check_fit(layer_map, {candidate.weight: candidate.shape for candidate in candidates(model)})
    else:
        layer_map = plan(model, targets, rank, ranks, alpha, scaling)
    of_kind = kind_named(kind).trained_as()
    options = of_kind.with_defaults(options or {})
    layer_map = of_kind.fitted(layer_map, **options)
    total = len(layer_map.by_weight())
    read = _told(_values_of(model), total, progress)
    projection = Projection.of(layer_map, kind, d, seed, read, **options)
    progress(total, total)
    theta = projection.initial(layer_map, layer_map.bound if bound is None else bound)
    UniLora(model, projection, layer_map, theta, _trained_names(model, train_in_full, layer_map), storage)
    return model


def load_adapter(model: nn.Module, path) -> nn.Module:
    """Puts the adapter in the file at ``path`` on ``model``, in place of one that may be there, and returns the model.

    Raises ``UniLoraError`` with the file's name where the file is unsound or made for another architecture; warns where the
    model's weights are not those it was trained on. The model is unchanged until everything has been checked.
    """
    adapter = unilora_spec.load_adapter(path)
    try:
        _check_base(model, adapter)
    except unilora_spec.UniLoraError as error:
        raise error.within(path) from None
    return put(model, adapter)


def put(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Puts an adapter that fits ``model`` on it, in place of one that may be there, and returns the model."""
    attached = getattr(model, "unilora", None)
    if attached and (attached.projection, attached.layer_map) == (adapter.projection, adapter.layer_map):
        attached.restore()
        attached.keep(adapter.saved)
    else:
        if attached:
            attached.detach()
        same_kind = attached and attached.projection.kind == adapter.projection.kind
        asked = attached.asked if same_kind else None  # another kind may not be held so
        attached = UniLora(model, adapter.projection, adapter.layer_map, adapter.theta, adapter.saved, asked)
    with torch.no_grad():
        attached.theta.copy_(torch.from_numpy(adapter.theta))
        for name, value in adapter.saved.items():
            model.get_parameter(name).copy_(torch.from_numpy(value))
    attached.link = attached.last_link()
    return model


class UniLora:
    """The adapter on a model, as its attribute ``unilora``: P, the layer map and the hooks through which θ acts.

    ``theta`` is the one new parameter, float32[d], the model's own ``unilora_theta``; ``projection`` and ``layer_map`` are
    the specification's, and ``storage`` holds P where θ is. Of a chain, ``link`` is the number of the link that is trained. No
    module of its own: containers such as nn.Sequential would run it, and no buffers: nothing to save, and nothing for DDP to send
    around at every step.
    """

    def __init__(self, model, projection: Projection, layer_map: LayerMap, theta, trained_in_full, storage=None):
        self.model, self.projection, self.layer_map, self.asked = model, projection, layer_map, storage
        device = model.get_parameter(layer_map.segments[0].name).device
        self.storage = storage_of(projection, device, storage)
        self._factors, self._seen, self.is_merged, self._noise = None, None, False, None
        self._required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self._handles = [
            model.register_forward_pre_hook(self._before_forward),
            model.register_state_dict_post_hook(partial(self._only_trained)),
            model.register_load_state_dict_post_hook(self._expect_only_trained),
        ]
        self._install_sites(model)
        model.requires_grad_(False)
        model.register_parameter(_THETA, nn.Parameter(torch.from_numpy(theta).to(device)))
        model.unilora = self
        for method in _METHODS:
            setattr(model, method, getattr(self, method))
        self.keep(trained_in_full)
        self.link = self.last_link()

    @property
    def theta(self) -> nn.Parameter:
        """θ, float32[d]."""
        return getattr(self.model, _THETA)

    def __repr__(self) -> str:
        held = f"P {self.storage.name}: {self.storage.nbytes:,} bytes"
        return f"UniLora({self.projection}, {len(self.layer_map)} segments, {held})"

    @property
    def noise(self) -> Noise | None:
        """What each forward of training adds to W + ΔW: None at first. Raises ``LayerMapError`` for quantized weights, whose
        rows have no norms to scale it by."""
        return self._noise

    @noise.setter
    def noise(self, noise: Noise | None):
        if noise:
            self._refuse_quantized("noise is scaled by the weights' values; take the unquantized base")
        self._noise = noise

    def draws(self, pairs) -> list[Draw]:
        """The noise that the segments of ``pairs`` see in this forward; none in an evaluation."""
        noisy = self._noise and self._noise.strength and self.model.training
        return [self._noise.draw(number) for number, *_ in pairs] if noisy else []

    def factors(self) -> list[tuple[torch.Tensor, ...]]:
        """A (rank, in) and B (out, rank) of every segment, or of rank 0 its one factor (out, in), views of one θ_D,
        differentiable to θ; in bfloat16 or float16 where all adapted weights are, else in float32.

        Rebuilt once per forward of the model, and not for one without gradients where θ is as it was for the last. A part
        of the model that is called on its own rebuilds them where θ has changed since, or where a gradient is wanted and
        the last forward had none.
        """
        if not torch.compiler.is_compiling() and not self._serve(self._wants_grad()):
            self._rebuild()
        return self._factors

    def _before_forward(self, model, inputs):
        """The one expansion of a forward: here, and so outside of every gradient-checkpointed region."""
        if self.is_merged:
            if self._wants_grad():
                raise LayerMapError("the adapter is merged for evaluation; train outside of merged(), or use no_grad()")
            return
        # What a training forward left is not used again: some optimizers write to θ where no version tells. FSDP, whose modules
        # are known by their unshard, does so at every forward.
        again = not torch.compiler.is_compiling() and not self._wants_grad() and not hasattr(model, "unshard")
        if (
            not (again and self._serve(False))
            or self._factors[0][0].requires_grad
            or self._factors[0][0].dtype != self._dtype()
        ):
            self._rebuild()

    def _wants_grad(self):
        return torch.is_grad_enabled() and self.theta.requires_grad

    def _serve(self, with_grad):
        """Whether the factors are those of the θ of now, and have a gradient where one is wanted."""
        return self._seen == self._state() and (self._factors[0][0].requires_grad or not with_grad)

    def _state(self):
        return self.theta._version, self.theta.data_ptr()

    def _dtype(self):
        dtypes = {module._parameters[parameter].dtype for module, parameter in self._owners}
        return dtypes.pop() if dtypes in ({torch.bfloat16}, {torch.float16}) else torch.float32

    def _rebuild(self):
        self._factors = None  # the memory of the last ones before that of the next
        self._factors = self._factors_as(self._dtype())
        if not torch.compiler.is_compiling():
            self._seen = self._state()

    def _factors_as(self, dtype):
        if self.storage.device != self.theta.device:  # the model has moved
            self.storage = storage_of(self.projection, self.theta.device, self.asked)
        segments = self.layer_map.segments
        ranges = self.storage.expand(self._of_link(), dtype).split([segment.size for segment in segments])
        return [segment.factors(part) for segment, part in zip(segments, ranges)]

    def _install_sites(self, model):
        owners = {candidate.weight: candidate for candidate in candidates(model)}
        numbered = {}
        for number, segment in enumerate(self.layer_map.segments):
            pair = number, segment, float(self.layer_map.factor_scale(segment))
            numbered.setdefault(segment.name, []).append(pair)
        self._owners = [(owners[name].module, owners[name].parameter) for name in numbered]
        for name, pairs in numbered.items():
            owner = owners[name]
            self._handles += owner.site(self, pairs).install(owner.module, owner.parameter)

    def keep(self, names) -> None:
        """Trains the named parameters in full; their values of now come back with ``restore``."""
        parameters = {name: self.model.get_parameter(name) for name in names}
        self._originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the parameters trained in full the values they had before, and freezes them."""
        for name, value in self._originals.items():
            self.model.get_parameter(name).requires_grad_(False).copy_(value)
        self._originals = {}

    @torch.no_grad()
    def reset_parameters(self, bound: float | None = None) -> None:
        """Gives θ the values that training starts from (SPEC 6.4); ``bound`` is that of ``attach``.

        For a model that was attached on the meta device, after ``to_empty``, which leaves θ without values.
        """
        bound = self.layer_map.bound if bound is None else bound
        self.theta.copy_(torch.from_numpy(self.projection.initial(self.layer_map, bound)))
        self.link = 0

    def next_link(self, bound: float | None = None) -> int:
        """Of a chain, ends the training of its link and gives the next one its start (SPEC 11.15); returns that one's number.

        From here on no gradient reaches the links before. The next one wants an optimizer of its own, as the momentum of the old
        one would go on to move them, and one without weight decay. Raises ``KindError`` where there is no next link, and for a θ
        in parts (FSDP).
        """
        links = self.projection.links
        if self.link + 1 >= links:
            raise KindError(f"kind {self.projection.kind} has {links} links, and link {self.link} is the last of them")
        if self.in_parts:
            raise KindError(
                "next_link gives a range of theta its start, and theta is in parts; train a chain under DDP"
            )
        self.link += 1
        bound = self.layer_map.bound if bound is None else bound
        start = torch.from_numpy(self.projection.start_of(self.link, bound))
        with torch.no_grad():
            self.theta[self.projection.link(self.link)] = start.to(self.theta.device)
        return self.link

    @property
    def in_parts(self) -> bool:
        """Whether each process holds a part of θ alone, as FSDP shards it."""
        return hasattr(self.theta, "full_tensor")

    def last_link(self) -> int:
        """The last link that has been given its start: those after it are zero."""
        if self.projection.links == 1 or self.theta.is_meta:
            return 0
        begun = self.theta.detach().unflatten(0, (self.projection.links, -1)).any(dim=1).nonzero()
        return int(begun[-1]) if len(begun) else 0

    def _of_link(self):
        """θ, whose gradient is that of the link alone. (Those after it are zero, and have none anyway.)"""
        theta = self.theta
        if self.link == 0:
            return theta
        first = self.projection.link(self.link).start
        return torch.cat([theta[:first].detach(), theta[first:]])

    def trained_in_full(self) -> list[str]:
        """The names of the parameters trained beside θ."""
        return list(self._originals)

    def save_adapter(self, path, dtype: str = "F32") -> int:
        """Writes the adapter to ``path``, θ as ``dtype`` (F32, F16 or BF16); returns the file's size in bytes (SPEC 8).

        Raises ``FileError`` for a θ that is not finite, ``WorkFailed`` where the disk refuses; a file that stood at
        ``path`` stays then.
        """
        return unilora_spec.save_adapter(self.adapter(dtype), path)

    def adapter(self, dtype: str = "F32") -> Adapter:
        """The adapter as the specification's object, with the base model's record (SPEC 8, 10)."""
        self._refuse_merged()
        model = self.model
        parameters = {name: model.get_parameter(name) for name in self._originals}
        saved = {name: _numpy(parameter) for name, parameter in parameters.items()}
        dtypes = {f"saved.{name}": _DTYPES.get(parameter.dtype, "F32") for name, parameter in parameters.items()}
        projection, theta = self.projection.stored_as(_numpy(self.theta))
        return Adapter(projection, self.layer_map, theta, self._base(), saved, dtypes | {"theta": dtype})

    def load_adapter(self, path) -> nn.Module:
        """Switches the model to the adapter in the file at ``path``: see ``backends.torch.load_adapter``."""
        return load_adapter(self.model, path)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Adds every delta weight to its weight, in float32 and rounded once to the weight's dtype, and takes the adapter
        off; the model stays as trained, plain. Raises ``LayerMapError`` for quantized weights."""
        self._refuse_merged()
        self._add_deltas(self._weights_to_merge())
        return self._take_off()

    @contextlib.contextmanager
    def merged(self):
        """Within the block the adapted weights hold W + ΔW as they do after ``merge``, so that the model costs what the base does:

            with torch.no_grad(), model.unilora.merged(): evaluate(model)

        Afterwards they are W again, to the bit. Meanwhile both are in memory, and θ must not change. Raises
        ``LayerMapError`` for quantized weights, and for a forward that wants a gradient.
        """
        self._refuse_merged()
        weights = self._weights_to_merge()
        originals = {name: weight.data for name, weight in weights.items()}
        try:
            for weight in weights.values():
                weight.data = weight.data.clone()
            self._add_deltas(weights)
            self.is_merged = True
            yield self.model
        finally:
            self.is_merged = False
            for name, weight in weights.items():
                weight.data = originals[name]

    def _weights_to_merge(self):
        self._refuse_quantized("merge into the unquantized base")
        return {name: self.model.get_parameter(name) for name in self.layer_map.by_weight()}

    def _refuse_quantized(self, instead):
        adapted = self.layer_map.by_weight()
        for candidate in candidates(self.model):
            if candidate.weight in adapted and candidate.is_quantized:
                raise LayerMapError(f"{candidate.weight} is quantized; {instead}")

    @torch.no_grad()
    def _add_deltas(self, weights):
        for segment, factors in zip(self.layer_map.segments, self._factors_as(torch.float32)):
            part = segment.part(weights[segment.name])
            s = float(self.layer_map.factor_scale(segment))
            part.copy_(part.float() + delta_weight(segment, factors, s, part.shape))

    def _refuse_merged(self):
        if self.is_merged:
            raise LayerMapError("the adapter is merged for evaluation; leave merged() first")

    def detach(self) -> nn.Module:
        """Takes the adapter off: the model is the base again, the parameters trained in full included."""
        self._refuse_merged()
        self.restore()
        return self._take_off()

    def _take_off(self):
        model = self.model
        for handle in self._handles:
            handle.remove()
        for name in (_THETA, "unilora", *_METHODS):
            delattr(model, name)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self._required_grad[name])
        return model

    def _base(self) -> Base:
        model = self.model
        shapes = {candidate.weight: candidate.shape for candidate in candidates(model)}
        name, known = type(model).__name__, ()
        if getattr(model, "config", None) is not None and hasattr(model, "name_or_path"):
            config = model.config
            known = (name, getattr(config, "id2label", None), getattr(config, "problem_type", None))
            name = model.name_or_path or name
        rest = meaning.fingerprint(model, {*self._trained(), *self.layer_map.by_weight()})
        return Base.of(name, self.layer_map, shapes, _values_of(model), *known, rest=rest)

    def _trained(self, prefix=""):
        return {prefix + name for name in (_THETA, *self._originals)}

    def _only_trained(self, model, state_dict, prefix, metadata):
        for name in [name for name in state_dict if name.startswith(prefix) and name not in self._trained(prefix)]:
            del state_dict[name]

    def _expect_only_trained(self, model, incompatible):
        trained = self._trained()
        incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name in trained]
        self.link = self.last_link()

    def __getstate__(self):
        # The factors are part of one forward's graph; a copy of the model rebuilds its own.
        return self.__dict__ | {"_factors": None, "_seen": None}


def _values_of(model) -> Callable[[str], np.ndarray]:
    """What gives the values of a weight that can be adapted by its name: float32, of a quantized one those that its codes stand
    for."""
    owners = {candidate.weight: candidate for candidate in candidates(model)}
    return lambda name: _numpy(owners[name].values())


def _told(read, total, progress):
    """``read``, and ``progress`` is told how many of the weights are done whenever the next one is asked for."""
    done = itertools.count()

    def told(name):
        progress(next(done), total)
        return read(name)

    return told


def _numpy(tensor) -> np.ndarray:
    if tensor.is_meta:
        raise LayerMapError("the model is on the meta device and has no values; give it a device and its weights first")
    if hasattr(tensor, "full_tensor"):  # of FSDP, a part in each process
        tensor = tensor.full_tensor()
    return tensor.detach().float().cpu().numpy()


def _trained_names(model, patterns, layer_map) -> list[str]:
    """The names of the parameters that ``patterns`` name, themselves or by their modules, each once."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    canonical = {id(parameter): name for name, parameter in model.named_parameters()}
    every = [name for name, _ in model.named_modules()]
    every += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    named, names = matching(patterns, every), []
    for pattern in patterns:
        found = [
            parameter
            for name, module in model.named_modules()
            for parameter in (module.parameters() if name in named[pattern] else _own(module, name, named[pattern]))
        ]
        if not found:
            raise LayerMapError(f"train_in_full: {pattern!r} matches no module or parameter of the model")
        names += [canonical[id(parameter)] for parameter in found]
    for name in names:
        if name in layer_map.by_weight():
            raise LayerMapError(f"{name} is both a target and trained in full; choose one")
    return list(dict.fromkeys(names))


def _own(module, name, named):
    return [p for key, p in module.named_parameters(name, recurse=False) if key in named]


def _check_base(model, adapter) -> None:
    owners = {candidate.weight: candidate for candidate in candidates(model)}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    shapes |= {name: owner.shape for name, owner in owners.items()}
    adapter.check_base(shapes)
    adapter.check_saved(shapes)
    for segment in adapter.layer_map.segments:
        owner = owners.get(segment.name)
        if owner is None:
            raise FileError(f"{segment.name} belongs to a module that cannot be adapted while it runs; merge instead")
        if segment.index is None and segment.transposed != owner.transposed:  # a square weight fits either way round
            raise FileError(f"{segment.name} is stored the other way round than the adapter says; merge instead")
    if adapter.same_contents(_values_of(model)) is False:
        warnings.warn(
            f"the model's weights are not those of {adapter.base.name}, which the adapter was trained on", stacklevel=3
        )
