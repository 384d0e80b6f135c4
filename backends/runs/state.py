"""The state of a training, from which it goes on in this backend or another: the trained values, AdamW's moments, and
the step.

A state is one safetensors file. Its tensors are float32 and flat, as the adapter gives their shapes: ``theta`` and
``saved.NAME``, named as in the adapter's file (SPEC 8.3), and for each of them ``exp_avg.…`` and ``exp_avg_sq.…``: the
running means of its gradients and of their squares, as AdamW has them before it corrects their bias. ``__metadata__``
has one field, ``unilora.state``, canonical JSON (SPEC 8.5):

    {"adapter": {…}, "run": {"batch_size": 32, "rows": 7472, "seed": "0", "steps": 234}, "step": 117, "version": "1"}

``adapter`` is the description of SPEC 8.6, with ``contents`` as the only field of the base; ``step`` is the number of
steps that are done; and ``run`` has what a call must share with the one that wrote the state, so that it goes on with
the rows that come next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unilora_spec import Adapter, UniLoraError, canonical_json, replacing
from unilora_spec.base_model import read_file, read_values
from unilora_spec.serialization import SAVED, describe

from ..settings import flag

FIELD, VERSION = "unilora.state", "1"
MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIONS = {"rows": "data", "steps": "epochs"}  # the options that give numbers of a run, where their names differ


@dataclass
class State:
    """A training after ``step`` steps: three float32 arrays of one shape for each name, ``theta`` or ``saved.NAME``.

    ``values``      the trained values
    ``exp_avg``     the running mean of their gradients
    ``exp_avg_sq``  the running mean of the squares of their gradients
    """

    values: dict[str, np.ndarray]
    exp_avg: dict[str, np.ndarray]
    exp_avg_sq: dict[str, np.ndarray]
    step: int = 0

    @classmethod
    def of(cls, adapter: Adapter) -> "State":
        """The state at the start of a training: the values of ``adapter``, and moments of zero."""
        saved = {SAVED + name: value for name, value in adapter.saved.items()}
        values = {name: np.array(value, np.float32) for name, value in {"theta": adapter.theta, **saved}.items()}
        return cls(values, *({name: np.zeros_like(value) for name, value in values.items()} for _ in MOMENTS))

    def adapter(self, start: Adapter) -> Adapter:
        """``start`` with the trained values of this state."""
        return replace(start, theta=self.theta, saved=self.saved)

    @property
    def theta(self) -> np.ndarray:
        return self.values["theta"]

    @property
    def saved(self) -> dict[str, np.ndarray]:
        """The parameters trained in full, by the names of ``Adapter.saved``."""
        return {name.removeprefix(SAVED): value for name, value in self.values.items() if name != "theta"}


def run_of(settings, seed: int, rows: int, steps: int) -> dict:
    """What a call must share with the one that it goes on from."""
    return {"batch_size": settings.batch_size, "rows": rows, "seed": str(seed), "steps": steps}


def save_state(state: State, adapter: Adapter, run: Mapping, path: Path) -> None:
    """Writes a state of a training of ``adapter`` to ``path``, whole or not at all. The same state is the same bytes.

    Raises ``WorkFailed`` where the disk refuses.
    """
    from safetensors.numpy import save

    described = {"adapter": _described(adapter), "run": dict(run), "step": state.step, "version": VERSION}
    tensors = dict(state.values)
    for moment in MOMENTS:
        tensors |= {f"{moment}.{name}": value for name, value in getattr(state, moment).items()}
    content = save({name: np.ravel(value) for name, value in tensors.items()}, {FIELD: _text(described)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_state(path: Path, adapter: Adapter, run: Mapping) -> State:
    """The state in the file at ``path``, of a training of ``adapter`` with this ``run``.

    Raises ``UniLoraError`` for a file that holds no state, is damaged, or belongs to another training.
    """
    path = Path(path)
    if not path.is_file():
        raise UniLoraError(f"{path}: there is no such file; give one that --state has written")
    tensors, metadata = read_file(path)
    try:
        described = canonical_json.decode(metadata[FIELD].encode())
        step, version = described["step"], described["version"]
    except (KeyError, TypeError, UniLoraError):
        raise UniLoraError(f"{path} holds no state of a training; give a file that --state has written") from None
    if version != VERSION or type(step) is not int or step < 0:
        raise UniLoraError(
            f"{path} is of version {version!r:.40}, step {step!r:.40}; give a file that --state has written"
        )
    _check_same(path, described, adapter, run)
    state = State.of(adapter)
    state.step = step
    for kind in ("values", *MOMENTS):
        there = getattr(state, kind)
        for name, value in there.items():
            stored = tensors.pop(name if kind == "values" else f"{kind}.{name}", None)
            if stored is None or stored.shape != (value.size,) or stored.dtype != "F32":
                raise UniLoraError(
                    f"{path} has no {kind} of {name:.80}, {value.size:,} numbers of float32; give a whole file"
                )
            there[name] = read_values(stored).reshape(value.shape)
            if not np.isfinite(there[name]).all():
                raise UniLoraError(f"{path}: {kind} of {name} holds NaN or infinity; give the state of an earlier step")
    if tensors:
        raise UniLoraError(
            f"{path} holds {next(iter(tensors))!r:.80} too, which is no part of a state; give a whole file"
        )
    return state


def _check_same(path, described, adapter, run):
    own = canonical_json.decode(_text(_described(adapter)).encode())
    there = described.get("adapter")
    for field in ("projection", "layers", "base", "alpha", "scaling"):
        if not isinstance(there, dict) or there.get(field) != own.get(field):
            raise UniLoraError(
                f"{path} is the state of another adapter's training: its {field} differs; give a state of this adapter's"
            )
    for name, value in run.items():
        before = described["run"].get(name) if isinstance(described.get("run"), dict) else None
        if before != value:
            raise UniLoraError(
                f"{path} is of a run with {name.replace('_', ' ')} {before!r:.40}, and this run has {value!r}; give the same "
                f"{flag(OPTIONS.get(name, name))}"
            )


def _described(adapter: Adapter) -> dict:
    described = describe(adapter)
    if "base" in described:
        described["base"] = {"contents": described["base"]["contents"]}
    return described


def _text(value) -> str:
    return canonical_json.encode(value).decode()
