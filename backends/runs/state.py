"""What a training goes on from, in this backend or another: what is trained, AdamW's moments of each, and the step.

It is one safetensors file. Its tensors are float32 and flat, as their shapes are the adapter's: ``theta`` and ``saved.NAME``, named as
in its file (SPEC 8.3), and of each of them ``exp_avg.…`` and ``exp_avg_sq.…``: the running means of its gradients and of their
squares, as AdamW has them before it corrects their bias. Its ``__metadata__`` has one field, ``unilora.state``, canonical JSON (SPEC 8.5):

    {"adapter": {…}, "run": {"batch_size": 32, "rows": 7472, "seed": "0", "steps": 234}, "step": 117, "version": "1"}

``adapter`` is the description of SPEC 8.6, of the base ``contents`` alone; ``step`` is how many steps are done; and ``run`` is what a
call has to have in common with the one that wrote it, so that its rows are those that come next.
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
OPTIONS = {"rows": "data", "steps": "epochs"}  # the options that numbers of a run come from, where the names are others


@dataclass
class State:
    """A training after ``step`` steps: three float32 arrays of one shape for each name, ``theta`` or ``saved.NAME``.

    ``values``      what is trained
    ``exp_avg``     the running mean of its gradients
    ``exp_avg_sq``  that of their squares
    """

    values: dict[str, np.ndarray]
    exp_avg: dict[str, np.ndarray]
    exp_avg_sq: dict[str, np.ndarray]
    step: int = 0

    @classmethod
    def of(cls, adapter: Adapter) -> "State":
        """The start: the values of ``adapter``, and moments of zeros."""
        saved = {SAVED + name: value for name, value in adapter.saved.items()}
        values = {name: np.array(value, np.float32) for name, value in {"theta": adapter.theta, **saved}.items()}
        return cls(values, *({name: np.zeros_like(value) for name, value in values.items()} for _ in MOMENTS))

    def adapter(self, start: Adapter) -> Adapter:
        """``start`` with what is trained as it is here."""
        return replace(start, theta=self.theta, saved=self.saved)

    @property
    def theta(self) -> np.ndarray:
        return self.values["theta"]

    @property
    def saved(self) -> dict[str, np.ndarray]:
        """What is trained in full, by the names of ``Adapter.saved``."""
        return {name.removeprefix(SAVED): value for name, value in self.values.items() if name != "theta"}


def run_of(settings, seed: int, rows: int, steps: int) -> dict:
    """What calls that go on from each other have in common."""
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
    """The state in the file at ``path``, of a training of ``adapter`` that has this ``run``.

    Raises ``UniLoraError`` for a file that is none, that is damaged, or that is of another training.
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
                f"{path} is of a training of another adapter: its {field} is another; give that adapter's"
            )
    for name, value in run.items():
        before = described["run"].get(name) if isinstance(described.get("run"), dict) else None
        if before != value:
            raise UniLoraError(
                f"{path} is of a run of {before!r:.40} {name.replace('_', ' ')}, and this one has {value}; give the same "
                f"{flag(OPTIONS.get(name, name))}"
            )


def _described(adapter: Adapter) -> dict:
    described = describe(adapter)
    if "base" in described:
        described["base"] = {"contents": described["base"]["contents"]}
    return described


def _text(value) -> str:
    return canonical_json.encode(value).decode()
