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
from .part import check_graph, part_for

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # in order of preference
TYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32}

FOLDED = 32, 2**26  # bytes of one value that is computed when a graph is loaded: times those of its file, plus so many


class Step(NamedTuple):
    """The mean loss of a batch, and its gradients, float32, by the names of ``State.values``."""

    loss: float
    gradients: dict[str, np.ndarray]


class StepGraph:
    """The graph in the file ``path``, for a training of ``adapter``, which the file ``of`` holds.

    ``inputs``  the names of the model's inputs that rows give
    ``task``    the task that it learns, a name of ``settings.TASKS``, or "" for none

    Where it does not ``learn`` it makes no steps, and the half that goes forward is all that is loaded. Where it does, that half is loaded
    beside the whole at the first call of ``logits``. Its weights are mapped, so that the file has to stay as it is.

    Raises ``UniLoraError`` where it is no graph of a step, or one of another adapter, kind, d, D, seed or base.
    """

    def __init__(self, path: Path, adapter: Adapter, of: Path, threads: int | None = None, learn: bool = True):
        self.path, self._threads = path, threads
        size_of(path)
        check_graph(path)
        self._was = _identity(path)
        self._forward = None if learn else self._forward_half()
        self._session = opened(path, threads, path) if learn else self._forward
        self._metadata = self._session.get_modelmeta().custom_metadata_map
        self._check(adapter, of)
        self.task = self._metadata.get("unilora.task", "")
        types = {each.name: each.type for each in self._session.get_inputs()}
        self._names = {"theta": "theta"} | {f"saved.{name}": name for name in adapter.saved}
        given = {"labels", *self._names.values()}
        outputs = {each.name for each in self._session.get_outputs()}
        wanted = {"loss", "logits", *(f"{name}.grad" for name in self._names.values())} if learn else {"logits"}
        if lacking := sorted((given - set(types)) | (wanted - outputs)):
            raise UniLoraError(
                f"{path} has no input or output {lacking[0]!r:.80}, which a step of {of} needs; export it anew with --mode step"
            )
        self.inputs = tuple(name for name in types if name not in given)
        self._types = {name: TYPES.get(kind) for name, kind in types.items()}

    def step(self, batch: Mapping[str, np.ndarray], state: State) -> Step:
        """The loss and its gradients at a batch: the model's inputs, (rows, …), and ``labels``."""
        names = [f"{name}.grad" for name in self._names.values()]
        loss, *gradients = self._run(self._session, ["loss", *names], batch, state)
        return Step(float(loss), dict(zip(self._names, gradients)))

    def logits(self, batch: Mapping[str, np.ndarray], state: State) -> np.ndarray:
        """The logits of a batch, float32, by the forward half alone. Raises ``WorkFailed`` where the file is another by now."""
        if self._forward is None:
            if _identity(self.path) != self._was:
                raise WorkFailed(
                    f"{self.path} has changed since it was opened; leave it as it is until the training ends"
                )
            self._forward = self._forward_half()
        return self._run(self._forward, ["logits"], batch, state)[0]

    def _forward_half(self):
        return opened(part_for(self.path, "logits"), self._threads, self.path)

    def _run(self, session, outputs, batch, state):
        feeds = {name: np.asarray(batch[name], self._types[name]) for name in (*self.inputs, "labels")}
        feeds |= {self._names[name]: value for name, value in state.values.items()}
        try:
            return session.run(outputs, feeds)
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


def opened(model: Path | bytes, threads: int | None, path: Path):
    """The session of an ONNX file, or of the bytes of a part of the one at ``path``. Raises ``UniLoraError`` where ONNX Runtime does not take it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors are raised too, so that the log need not have them
    # ONNX Runtime takes no data behind a link out of the folder.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.resolve().parent))
    folded = FOLDED[0] * path.stat().st_size + FOLDED[1]
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(folded))
    if threads:
        options.intra_op_num_threads = threads
    there = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(model, options, [each for each in PROVIDERS if each in there])
    except Exception as error:  # ONNX Runtime's, of many kinds
        raise UniLoraError(
            f"{path}: ONNX Runtime cannot load it: {_line(error)}; give a graph of --mode step"
        ) from error


def _identity(path: Path):
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _line(error) -> str:
    return " ".join(str(error).split())[:200]
