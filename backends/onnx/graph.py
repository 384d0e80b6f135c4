"""A graph of one training step, as ``python -m export onnx --mode step`` writes it, in ONNX Runtime.

Its inputs are the model's own, ``labels``, ``theta`` (float32 (d,)) and each parameter that is trained in full, by its name; its outputs
are ``loss`` (float32 ()), ``logits``, and NAME.grad for ``theta`` and each of these parameters. Its metadata says which
adapter it is of.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unilora_spec import Adapter, UniLoraError, WorkFailed
from unilora_spec.documents import size_of

from ..runs.state import State

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # in order of preference
TYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32}


class Step(NamedTuple):
    """The mean loss of a batch, and its gradients, float32, by the names of ``State.values``."""

    loss: float
    gradients: dict[str, np.ndarray]


class StepGraph:
    """The graph in the file ``path``, for a training of ``adapter``, which the file ``of`` holds.

    ``inputs``  the names of the model's inputs that rows give
    ``task``    the task that it learns, a name of ``settings.TASKS``, or "" for none

    Raises ``UniLoraError`` where it is no graph of a step, or one of another adapter, kind, d, D, seed or base.
    """

    def __init__(self, path: Path, adapter: Adapter, of: Path, threads: int | None = None):
        self.path = path
        self._session, self._metadata = opened(path, threads)
        self._check(adapter, of)
        self.task = self._metadata.get("unilora.task", "")
        types = {each.name: each.type for each in self._session.get_inputs()}
        self._names = {"theta": "theta"} | {f"saved.{name}": name for name in adapter.saved}
        given = {"labels", *self._names.values()}
        outputs = {each.name for each in self._session.get_outputs()}
        wanted = {"loss", "logits", *(f"{name}.grad" for name in self._names.values())}
        if lacking := sorted((given - set(types)) | (wanted - outputs)):
            raise UniLoraError(
                f"{path} has no input or output {lacking[0]!r:.80}, which a step of {of} needs; export it anew with --mode step"
            )
        self.inputs = tuple(name for name in types if name not in given)
        self._types = {name: TYPES.get(kind) for name, kind in types.items()}

    def step(self, batch: Mapping[str, np.ndarray], state: State) -> Step:
        """The loss and its gradients at a batch: the model's inputs, (rows, …), and ``labels``."""
        names = [f"{name}.grad" for name in self._names.values()]
        loss, *gradients = self._run(["loss", *names], batch, state)
        return Step(float(loss), dict(zip(self._names, gradients)))

    def logits(self, batch: Mapping[str, np.ndarray], state: State) -> np.ndarray:
        """The logits of a batch, float32. ONNX Runtime computes the whole step for them, gradients too."""
        return self._run(["logits"], batch, state)[0]

    def _run(self, outputs, batch, state):
        feeds = {name: np.asarray(batch[name], self._types[name]) for name in (*self.inputs, "labels")}
        feeds |= {self._names[name]: value for name, value in state.values.items()}
        try:
            return self._session.run(outputs, feeds)
        except Exception as error:  # ONNX Runtime's, of many kinds
            raise WorkFailed(f"{self.path}: ONNX Runtime could not run it: {_line(error)}") from error

    def _check(self, adapter, of):
        found, p = self._metadata, adapter.projection
        mode = found.get("unilora.mode")
        if mode != "step":
            what = f"a graph of the mode {mode!r:.40}" if mode else "an ONNX file that is no export of an adapter"
            raise UniLoraError(f"{self.path} is {what}; give one that python -m export onnx --mode step has written")
        contents = adapter.base.contents if adapter.base else ""
        own = {"projection": p.kind, "d": p.d, "D": p.D, "seed": p.seed, "base_contents": contents}
        for name, value in own.items():
            if (there := found.get(f"unilora.{name}")) != str(value):
                what = {"projection": "kind", "base_contents": "base"}.get(name, name)
                raise UniLoraError(
                    f"{self.path} is of another adapter than {of}: its {what} is {there!r:.40}, and not {str(value)!r:.40}; give "
                    "--adapter the file that was exported with it"
                )


def opened(path: Path, threads: int | None = None):
    """(session, metadata) of an ONNX file. Raises ``UniLoraError`` where ONNX Runtime does not take it."""
    size_of(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors are raised too, so that the log need not have them
    if threads:
        options.intra_op_num_threads = threads
    there = onnxruntime.get_available_providers()
    try:
        session = onnxruntime.InferenceSession(path, options, [each for each in PROVIDERS if each in there])
    except Exception as error:  # ONNX Runtime's, of many kinds
        raise UniLoraError(
            f"{path}: ONNX Runtime cannot load it: {_line(error)}; give a graph of --mode step"
        ) from error
    return session, session.get_modelmeta().custom_metadata_map


def _line(error) -> str:
    return " ".join(str(error).split())[:200]
