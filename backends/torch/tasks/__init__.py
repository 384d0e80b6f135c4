"""What is learned of rows: a class here for each task, of which ``settings.TASKS`` has the name."""

from collections.abc import Sequence

from ..rows.split import Data, load
from ..settings import DataSettings
from .causal_lm import CausalLM
from .images import ImageClassification
from .labelled import Classification, Regression
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


def rows_and_task(settings: DataSettings, base_labels: Sequence[str] = ()) -> tuple[Data, Task]:
    """The rows of a run, and its task, which has learned of them. ``base_labels`` are the classes of the base's head, whose order is
    kept where they are the data's.

    Raises ``UniLoraError`` with the source's name and the mend.
    """
    task = TASKS[settings.task](settings, base_labels)
    return load(settings, task), task
