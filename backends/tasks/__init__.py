"""The tasks, what a model can learn of rows: a class for each name in ``settings.TASKS``.

These classes do what takes NumPy alone: columns, classes, tokens, answers, metrics. Each backend makes its own models
for them.
"""

from collections.abc import Callable, Sequence

from ..rows.split import Data, Source, load
from ..settings import DataSettings
from .causal_lm import CausalLM
from .classes import KnownClasses
from .images import ImageClassification
from .labelled import Classification, Regression
from .language_model import LanguageModel
from .multi_label import MultiLabel
from .seq2seq import Seq2Seq
from .task import Task
from .token_classification import TokenClassification

TASKS = {
    "classification": Classification,
    "regression": Regression,
    "multi-label": MultiLabel,
    "token-classification": TokenClassification,
    "image-classification": ImageClassification,
    "causal-lm": CausalLM,
    "seq2seq": Seq2Seq,
}


__all__ = [
    "TASKS",
    "CausalLM",
    "Classification",
    "ImageClassification",
    "KnownClasses",
    "LanguageModel",
    "MultiLabel",
    "Regression",
    "Seq2Seq",
    "Task",
    "TokenClassification",
    "learn_as_known",
    "rows_and_task",
]


def rows_and_task(
    settings: DataSettings, base_labels: Sequence[str] = (), tasks: dict[str, type[Task]] = TASKS
) -> tuple[Data, Task]:
    """(the rows of a run, its task, which has learned the classes from them). ``base_labels`` are the classes of the
    base's head, whose order holds where the data have the same classes; ``tasks`` are a backend's classes of tasks.

    Raises ``UniLoraError`` with the source's name and the mend.
    """
    task = tasks[settings.task](settings, base_labels)
    return load(settings, task, task.learn), task


def learn_as_known(task: Task, by: str) -> Callable[[Source, Source | None], None]:
    """A function in place of ``task.learn`` where ``task.labels`` are those of the adapter that ``by`` names: the
    classes of all rows have to be among them. For a task without classes it is ``task.learn`` itself."""
    if not task.labels:
        return task.learn

    def learn(*sources: Source | None) -> None:
        labels, numbers = task.labels, {}
        for source in filter(None, sources):
            if isinstance(task, MultiLabel) and task.has_bits(source):
                task.learn(source, None)
            else:
                task.learn(KnownClasses(by, labels, task.columns(source.rows.column_names)[-1], source), source)
            numbers |= task.numbers
        task.numbers = numbers

    return learn
