"""Options of a training and of an evaluation in ONNX Runtime."""

from dataclasses import dataclass, replace
from pathlib import Path

from unilora_spec import UniLoraError

from ..settings import RunSettings, using
from ..settings.options import PATH, TEXT, hidden, option, whole
from ..settings.settings import Settings

GRAPH = "The graph of a step, as python -m export onnx --mode step writes it."
BASE = "The base's folder, whose tokenizer is read; by default the one that the adapter names."
THREADS = "Threads of ONNX Runtime; by default one for each core."


@dataclass
class TrainSettings(RunSettings):
    """All options of a training in ONNX Runtime; texts and numbers are converted as those of the command line are.

    The graph says the task: ``rows_for`` gives the settings with it. Raises ``UniLoraError`` with the option's name for
    a value that it cannot have.
    """

    graph: Path | None = option("Graph", PATH, GRAPH)  # noqa: RUF009
    adapter: Path | None = option(  # noqa: RUF009
        "Graph", PATH, "The adapter to begin with; by default the one beside the graph, step.safetensors of step.onnx."
    )
    base: str | None = option("Graph", TEXT, BASE)
    threads: int | None = option("Graph", whole(1), THREADS, compare=False)
    seed: int | None = option("Training", whole(0), "Seed of the order of the data; by default the projection's own.")
    task: str | None = hidden()
    image: None = hidden()
    augment: bool = hidden(True)
    label_separator: None = hidden()
    packing: bool = hidden(False)

    def __post_init__(self):
        if self.task:
            super().__post_init__()
            return
        Settings.__post_init__(self)  # the task is not known before ``rows_for``, nor the options that depend on it
        if self.graph is None:
            raise UniLoraError("--graph is missing; give the graph of a step, such as step.onnx")
        self.need_output()
        if self.adapter is None:
            self.adapter = self.graph.with_suffix(".safetensors")
        self.check_run()

    def rows_for(self, task: str) -> "TrainSettings":
        """These settings with the task of the graph."""
        return replace(self, task=task)


@dataclass
class EvaluateSettings(using.EvaluateSettings):
    """All options of an evaluation in ONNX Runtime.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    graph: Path | None = option("Graph", PATH, GRAPH)  # noqa: RUF009
    base: str | None = option("Graph", TEXT, BASE)
    threads: int | None = option("Graph", whole(1), THREADS)
    dtype: str = hidden("auto")
    quantize: None = hidden()
    image: None = hidden()
    label_separator: None = hidden()
    generate: bool = hidden(False)
    answer: None = hidden()
    answer_after: None = hidden()
    begin: None = hidden()
    stop: tuple[str, ...] = hidden(())
    max_new_tokens: int = hidden(128)

    def __post_init__(self):
        super().__post_init__()
        if self.graph is None:
            raise UniLoraError("--graph is missing; give the graph of a step, such as step.onnx")
