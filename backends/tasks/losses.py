"""Probabilities and losses of logits, float32, in NumPy, for an evaluation."""

import numpy as np

NOT_LEARNED = -100
"""The label of a token that is not learned."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, of the logits' shape."""
    return np.exp(_log_softmax(logits))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The probability of each class independently of the others, of the logits' shape."""
    return np.exp(-np.logaddexp(np.float32(0), -logits))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """−log of the probability of each label: float32 (…), for logits (…, classes) and int64 labels (…); 0 where a label
    is −100."""
    learned = labels != NOT_LEARNED
    at_label = np.take_along_axis(_log_softmax(logits), np.where(learned, labels, 0)[..., None], -1)[..., 0]
    return np.where(learned, -at_label, np.float32(0))


def binary_cross_entropy(logits: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """−log of the probability of each bit, float32 of the logits' shape."""
    return np.logaddexp(np.float32(0), logits) - bits * logits


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
