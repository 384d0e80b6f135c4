"""What is measured on held-out rows, for each task."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True)
class Metrics:
    """``reduce`` makes a batch's logits small, so that an evaluation never holds all of them; ``compute`` ends it.

    Both know rows alone, never batches, so that no number of processes changes what is measured. The loss, too, comes from
    here and takes the place of the Trainer's, in which rows count that only fill the last batch.
    ``main`` is what early stopping goes by and ``larger_is_better`` says how.
    """

    main: str
    larger_is_better: bool
    reduce: Callable  # (logits, labels) → tensor (batch, …), or a tuple of them
    compute: Callable  # transformers.EvalPrediction, of the reduced logits → dict of float


def _first(logits):
    return logits[0] if isinstance(logits, tuple) else logits  # encoder-decoders give more than logits


def _classes(logits, labels):
    """The predicted class of each text and its loss: int64 (batch,) and float32 (batch,)."""
    logits = _first(logits)
    return logits.argmax(-1), functional.cross_entropy(logits.float(), labels, reduction="none")


def _classification(result):
    (predicted, losses), true = result.predictions, result.label_ids
    f1 = []
    for label in np.union1d(predicted, true):
        hits = np.sum((predicted == label) & (true == label))
        f1.append(2 * hits / (np.sum(predicted == label) + np.sum(true == label)))
    loss = float(losses.mean(dtype=np.float64))
    return {"loss": loss, "accuracy": float(np.mean(predicted == true)), "macro_f1": float(np.mean(f1))}


def _regression(result):
    predicted, true = result.predictions.astype(np.float64), result.label_ids.astype(np.float64)
    spread = predicted.std() * true.std()
    covariance = np.mean((predicted - predicted.mean()) * (true - true.mean()))
    pearson = float(covariance / spread) if spread else 0.0  # undefined where all predictions are equal
    mse = float(np.mean((predicted - true) ** 2))
    return {"loss": mse, "mse": mse, "pearson": pearson}


def _token_losses(logits, labels):
    """The summed loss of each text and the number of its predicted tokens: float32 (batch, 2)."""
    logits, labels = _first(logits)[:, :-1].float(), labels[:, 1:]
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # 0 where the label is −100
    return torch.stack([losses.sum(1), (labels != -100).float().sum(1)], 1)


def _perplexity(result):
    total, tokens = result.predictions.sum(0, dtype=np.float64)
    loss = total / max(tokens, 1)
    return {"loss": float(loss), "perplexity": float(np.exp(loss))}


METRICS = {
    "classification": Metrics("accuracy", True, _classes, _classification),
    "regression": Metrics("mse", False, lambda logits, _: _first(logits).squeeze(-1), _regression),
    "causal-lm": Metrics("perplexity", False, _token_losses, _perplexity),
}
