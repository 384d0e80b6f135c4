"""The common part of tasks in which a model predicts tokens."""

import numpy as np

from .losses import NOT_LEARNED, cross_entropy
from .tokenized import Tokenized


class LanguageModel(Tokenized):
    """Each token is predicted from those before it. A label of −100 marks a token that is not learned.

    ``ahead``  how many places a label stands after the hidden state that predicts it: 1, or 0 for an encoder-decoder,
               whose decoder gets
    tokens that are shifted already
    """

    main, larger_is_better = "perplexity", False
    ahead = 1

    def items(self, labels):
        return int((labels[:, self.ahead :] != NOT_LEARNED).sum())

    def measure(self, logits, labels):
        """For each text, the summed loss, how many of its tokens were the likeliest, and how many it has: float32
        (batch,) each."""
        logits, labels = logits[:, : labels.shape[1] - self.ahead], labels[:, self.ahead :]
        likeliest = (logits.argmax(-1) == labels).sum(1, dtype=np.float32)
        return cross_entropy(logits, labels).sum(1), likeliest, (labels != NOT_LEARNED).sum(1, dtype=np.float32)

    def metrics(self, losses, likeliest, tokens):
        loss, right = (
            each.sum(dtype=np.float64) / max(tokens.sum(dtype=np.float64), 1) for each in (losses, likeliest)
        )
        return {"loss": float(loss), "perplexity": float(np.exp(loss)), "token_accuracy": float(right)}
