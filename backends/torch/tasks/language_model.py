"""What all tasks share in which a model predicts tokens."""

import numpy as np
from torch.nn import functional

from .task import Task, first


class LanguageModel(Task):
    """Tokens are predicted, each from those before it. A label of −100 is a token that is not learned."""

    main, larger_is_better = "perplexity", False

    def items(self, labels):
        return int((labels[:, 1:] != -100).sum())

    def measure(self, outputs, batch):
        """The summed loss of each text and the number of its predicted tokens: float32 (batch,) both."""
        logits, labels = first(outputs.logits)[:, :-1].float(), batch["labels"][:, 1:]
        losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # 0 where the label is −100
        return losses.sum(1), (labels != -100).float().sum(1)

    def metrics(self, losses, tokens):
        loss = losses.sum(dtype=np.float64) / max(tokens.sum(dtype=np.float64), 1)
        return {"loss": float(loss), "perplexity": float(np.exp(loss))}
