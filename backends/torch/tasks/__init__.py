"""The tasks of ``backends.tasks`` for models of transformers: the model's class, tensors in place of arrays, and the
loss."""

from collections.abc import Sequence

from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from ... import tasks
from ...rows.split import Data
from ...settings import DataSettings
from .causal_lm import CausalLM
from .images import ImageClassification
from .language_model import LanguageModel
from .model import ForModel


class Classification(ForModel, tasks.Classification):
    model_class = AutoModelForSequenceClassification


class Regression(ForModel, tasks.Regression):
    model_class = AutoModelForSequenceClassification


class MultiLabel(ForModel, tasks.MultiLabel):
    model_class = AutoModelForSequenceClassification


class TokenClassification(ForModel, tasks.TokenClassification):
    model_class = AutoModelForTokenClassification


class Seq2Seq(LanguageModel, tasks.Seq2Seq):
    model_class = AutoModelForSeq2SeqLM


TASKS = {
    "classification": Classification,
    "regression": Regression,
    "multi-label": MultiLabel,
    "token-classification": TokenClassification,
    "image-classification": ImageClassification,
    "causal-lm": CausalLM,
    "seq2seq": Seq2Seq,
}


def rows_and_task(settings: DataSettings, base_labels: Sequence[str] = ()) -> tuple[Data, ForModel]:
    """``backends.tasks.rows_and_task`` with the classes of this package."""
    return tasks.rows_and_task(settings, base_labels, TASKS)
