"""``model.unilora``, the adapter on a model: its vector, the calls that its factors act in, the sites where they act,
and its methods."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import nn

import unilora_spec
from unilora_spec import Adapter, LayerMap, LayerMapError, Projection
from unilora_spec.places import PathLike

from . import merging
from .calls.calls import Calls
from .calls.marks import Attribute, mark
from .files import meaning, record
from .files.folders import save_pretrained
from .files.in_full import InFull
from .files.state import State
from .left_out import LeftOut
from .several.adapters import Adapters
from .several.several import Several
from .sites.delta_weight import DeltaWeight
from .sites.low_rank import empty_hook
from .sites.noise import Draw, Noise
from .sites.shown import shows
from .targets.candidates import candidates
from .targets.readers import parts_of, readers_of
from .targets.structure import Structure
from .theta.expansion import Storage
from .theta.factors import Factors
from .theta.vector import THETA, Vector

METHODS = ("save_adapter", "load_adapter", "merge", "detach", "disable_adapter")
OF_FOLDERS = "save_pretrained"  # of models that have it


class UniLora(Several, LeftOut):
    """The adapter on a model, as its attribute ``unilora``.

    ``projection`` and ``layer_map`` are the specification's. It is no nn.Module, as containers such as nn.Sequential
    would run it, and has no buffers, which DDP would send around at every step.
    """

    def __init__(
        self, model, projection: Projection, layer_map: LayerMap, theta, trained_in_full=(), storage=None, new=()
    ):
        self.model, self._noise, self._restore_labels = model, None, meaning.nothing
        self._handles, self._sites, self.state = [], [], None
        self._find(projection, layer_map)
        self._required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self.in_full = InFull(model, new)
        self.adapters = Adapters(self)
        try:
            self._put_on(theta, trained_in_full, storage)
        except BaseException:
            self._take_off()
            raise

    def _put_on(self, theta, trained_in_full, storage):
        model = self.model
        self.vector = Vector(model, self.projection, self.layer_map, theta, self._device(), storage)
        weights = self._adapted_weights, self._multiplied_weights
        self.calls = Calls(model, self.vector, self.structure, *weights, self._parts())
        self._handles += [self.calls, *mark(model), self.in_full]
        self._install_sites()
        self.state = State(self)
        model.requires_grad_(False)
        self.theta.requires_grad_(True)
        self.in_full.train(trained_in_full)
        methods = {name: getattr(self, name) for name in METHODS} | {"_apply": self.vector.apply}
        if hasattr(model, OF_FOLDERS):
            methods[OF_FOLDERS] = partial(save_pretrained, self)
        for name, method in ({"unilora": self} | methods).items():
            setattr(model, name, method)
            self._handles.append(Attribute(model, name))

    def __repr__(self) -> str:
        held = f"P {self.storage.name}: {self.storage.nbytes:,} bytes"
        return f"UniLora({self.projection}, {len(self.layer_map)} segments, {held})"

    def _find(self, projection, layer_map):
        by_weight = {candidate.weight: candidate for candidate in candidates(self.model)}
        self.projection, self.layer_map = projection, layer_map
        self.owners = {name: by_weight[name] for name in layer_map.by_weight()}
        self.structure = Structure(self.model, (owner.module for owner in self.owners.values()))
        self._places = [(owner.module._parameters, owner.parameter) for owner in self.owners.values()]
        self._readers = {name: list(readers_of(self.model, name)) for name in self.owners}

    def _parts(self):
        return [*parts_of(self.model, self.layer_map), *itertools.chain(*self._readers.values())]

    def _withdraw(self):
        """Takes the sites away, and the state's hooks."""
        if self.state:
            self.state.remove()
        for handle in reversed(self._sites):
            handle.remove()
        self._sites, self.state = [], None

    # P and θ

    @property
    def theta(self) -> nn.Parameter:
        """θ, float32[d], the model's own parameter ``unilora_theta``."""
        return self.vector.theta

    @property
    def storage(self) -> Storage:
        """P on θ's device: ``name`` and ``nbytes`` say how it is held."""
        return self.vector.storage

    @property
    def in_parts(self) -> bool:
        """Whether θ is sharded, so that each process holds a part of it (FSDP)."""
        return self.vector.in_parts

    @property
    def link(self) -> int:
        """The number of the link of a chain that is trained."""
        return self.vector.link

    def reset_parameters(self, bound: float | None = None) -> None:
        """Gives θ the values from which training starts (SPEC 6.4); ``bound`` is as in ``attach``.

        For a model that was attached on the meta device, after ``to_empty``, which leaves θ without values.
        """
        self.vector.reset(bound)

    def next_link(self, bound: float | None = None) -> int:
        """Ends the training of a chain's current link, gives the next link its start (SPEC 11.15) and returns its
        number.

        From here on no gradient reaches the links before. The next link needs an optimizer of its own, without weight
        decay: the momentum of the old one would go on to move the links before. Raises ``KindError`` where there is no
        next link, and for a sharded θ (FSDP).
        """
        return self.vector.next_link(bound)

    # Forwards

    @property
    def is_merged(self) -> bool:
        return self.calls.is_merged

    @property
    def is_called(self) -> bool:
        """Whether this thread is within a call of the model or of a part."""
        return self.calls.is_in_call

    def acting_factors(self) -> Factors | None:
        """The factors of the current θ that act in this thread; None where the adapter does not act."""
        return self.calls.acting_factors()

    def factors(self) -> list[tuple[torch.Tensor, ...]]:
        """A (rank, in) and B (out, rank) of every segment, or the one factor (out, in) of a segment of rank 0: views of
        one θ_D, differentiable with respect to θ, in bfloat16 or float16 where all adapted weights are, else in
        float32."""
        return self.calls.current_factors().segments

    @property
    def noise(self) -> Noise | None:
        """The noise that each forward of training adds to W + ΔW; None at first. Setting it raises ``LayerMapError``
        for quantized weights, whose rows have no norms to scale it by."""
        return self._noise

    @noise.setter
    def noise(self, noise: Noise | None):
        if noise:
            self.refuse_quantized("noise is scaled by the weights' values; take the unquantized base")
        self._noise = noise

    def draws(self, pairs: Iterable[tuple]) -> list[Draw]:
        """The noise of each segment of ``pairs`` in this forward; empty in an evaluation."""
        noisy = self._noise and self._noise.strength and self.model.training
        return [self._noise.draw(number) for number, *_ in pairs] if noisy else []

    def _install_sites(self):
        numbered = {}
        for number, segment in enumerate(self.layer_map.segments):
            pair = number, segment, float(self.layer_map.factor_scale(segment))
            numbered.setdefault(segment.name, []).append(pair)
        for name, pairs in numbered.items():
            owner = self.owners[name]
            is_read = self._readers[name] and not owner.is_quantized
            site = (DeltaWeight if is_read else owner.site)(self, pairs)
            self._sites += site.install(owner.module, owner.parameter)
        # Without a hook on themselves, torch's encoder layers bypass the forwards of the modules in them.
        layers = [module for module in self.model.modules() if isinstance(module, nn.TransformerEncoderLayer)]
        for module in dict.fromkeys([self.model, *layers]):
            self._sites.append(module.register_forward_pre_hook(empty_hook))

    def _adapted_weights(self) -> list[torch.Tensor]:
        return [parameters[key] for parameters, key in self._places]  # looked at in each call

    def _multiplied_weights(self):
        """The module and key, by name, of each weight that acts only where its module multiplies by it."""
        owners = {name: (owner.module, owner.parameter) for name, owner in self.owners.items()}
        return {name: place for name, place in owners.items() if not shows(*place)}

    def _device(self):
        """The device for θ: that of an adapted weight, or, if it is offloaded, the device on which its module is
        called."""
        for weight in self._adapted_weights():
            if not weight.is_meta:
                return weight.device
        hook = getattr(next(iter(self.owners.values())).module, "_hf_hook", None)
        return torch.device(getattr(hook, "execution_device", None) or "meta")

    # Parameters trained in full, and files

    def trained_in_full(self) -> list[str]:
        """The names of the parameters trained beside θ: those named in ``attach`` or a file, and those that somebody
        has unfrozen since."""
        return self.in_full.names()

    def save_adapter(self, path: PathLike, dtype: str = "F32") -> int:
        """Writes the adapter to ``path``, θ as ``dtype`` (F32, F16 or BF16); returns the file's size in bytes (SPEC 8).

        Raises ``FileError`` for a θ that is not finite, ``WorkFailed`` where the disk refuses; a file that stood at
        ``path`` stays then.
        """
        return unilora_spec.save_adapter(self.adapter(dtype), path)

    def adapter(self, dtype: str = "F32") -> Adapter:
        """The adapter as the specification's object, with the base model's record (SPEC 8, 10)."""
        self.refuse_merged()
        self.structure.check()
        self.in_full.refuse_forgotten()
        return record.adapter_of(self, dtype)

    def load_adapter(self, path: PathLike) -> nn.Module:
        """Switches the model to the adapter in the file at ``path``: see ``backends.torch.load_adapter``."""
        from .attach import load_adapter

        return load_adapter(self.model, path)

    # Merging, and taking off

    def merge(self) -> nn.Module:
        """Adds every delta weight to its weight, in float32 and rounded once to the weight's dtype, and takes the adapter
        off; the model stays as trained, plain. Raises ``LayerMapError`` for quantized weights."""
        self.refuse_merged()
        self.structure.check()
        with self.calls.paused():
            merging.add_deltas(self, merging.weights_of(self))
            return self._take_off()

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """Within the block the adapted weights hold W + ΔW as they do after ``merge``, so that the model costs what the base does:

            with torch.no_grad(), model.unilora.merged(): evaluate(model)

        Afterwards they are W again, to the bit. Meanwhile both are in memory, and θ must not change. Raises
        ``LayerMapError`` for quantized weights, and for a forward that wants a gradient.
        """
        self.refuse_merged()
        with merging.merged(self):
            yield self.model

    def detach(self) -> nn.Module:
        """Takes the adapter off: the model is the base again, the parameters trained in full included."""
        self.refuse_merged()
        with self.calls.paused():
            self.in_full.restore()
            self._restore_labels()
            return self._take_off()

    def set_labels(self, adapter: Adapter) -> None:
        """Gives the model's configuration the labels and the problem type of the head that ``adapter`` brings, until
        ``detach``."""
        self._restore_labels()
        self._restore_labels = meaning.set_labels(self.model, adapter)

    def refuse_quantized(self, instead: str) -> None:
        """Raises ``LayerMapError`` where an adapted weight is quantized; the sentence ends with what to do ``instead``."""
        for name, owner in self.owners.items():
            if owner.is_quantized:
                raise LayerMapError(f"{name} is quantized; {instead}")

    def refuse_merged(self) -> None:
        """Raises ``LayerMapError`` within ``merged()``."""
        if self.is_merged:
            raise LayerMapError("the adapter is merged for evaluation; leave merged() first")

    def _take_off(self):
        model = self.model
        self._withdraw()
        for handle in reversed(self._handles):
            handle.remove()
        self._handles = []
        model._parameters.pop(THETA, None)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self._required_grad.get(name, parameter.requires_grad))
        return model
