"""The loss of tasks in which a model predicts tokens, computed for tokens with a label alone."""

import contextlib
from typing import NamedTuple

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.nn import functional

from unilora_spec import UniLoraError

from ...tasks import language_model
from ...tasks.losses import NOT_LEARNED
from .model import ForModel, first


class Losses(NamedTuple):
    """The loss of each token with a label.

    ``values``     the losses, float32 (n,)
    ``places``     where these tokens are in their batch, bool (batch, length)
    ``likeliest``  whether each token is the likeliest, bool (n,); None in training, where it is not needed
    """

    values: Tensor
    places: Tensor
    likeliest: Tensor | None


class LanguageModel(ForModel, language_model.LanguageModel):
    """A language model's loss and metrics, computed for tokens with a label alone."""

    def loss(self, model, batch):
        """(the mean loss over tokens with a label, 0 where none has one; the ``Losses``). A router's auxiliary loss is
        added where the model gives one.

        The output layer is computed for tokens with a label alone: its products are most of a step where answers are
        short, words many and the model small. A model's own scaling or capping of logits is unchanged. A head that is
        not called with hidden states (batch, length, features) is computed for all tokens.
        """
        base = extract_model_from_parallel(model)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        if "use_cache" in self.inputs:
            inputs["use_cache"] = False
        if not self.ahead and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = base.prepare_decoder_input_ids_from_labels(batch["labels"])
        labels = functional.pad(batch["labels"][:, self.ahead :], (0, self.ahead), value=NOT_LEARNED)
        places = labels != NOT_LEARNED
        with _only_at(places, base.get_output_embeddings()):
            outputs = model(**inputs)
        logits = first(outputs.logits)
        if logits.shape[:2] == places.shape:
            logits = logits[places][None]
        values = functional.cross_entropy(logits[0].float(), labels[places], reduction="none")
        loss = values.sum() / max(1, len(values))
        if getattr(outputs, "aux_loss", None) is not None:
            loss = loss + _share_of_routers(base) * outputs.aux_loss
        likeliest = None if torch.is_grad_enabled() else logits[0].argmax(-1) == labels[places]
        return loss, Losses(values, places, likeliest)

    def measure(self, outputs, batch):
        """For each text, the summed loss, how many of its tokens were the likeliest, and how many it has: float32
        (batch,) each."""
        summed = []
        for values in (outputs.values, outputs.likeliest.float()):
            at = values.new_zeros(outputs.places.shape)
            at[outputs.places] = values
            summed.append(at.sum(1))
        return *summed, outputs.places.float().sum(1)


def _share_of_routers(base) -> float:
    """The factor of the routers' auxiliary loss in a model of experts, under the names that transformers' models have
    for it."""
    for owner in (base, base.config.get_text_config()):
        for name in ("router_aux_loss_coef", "aux_loss_coef"):
            if hasattr(owner, name):
                return getattr(owner, name)
    raise UniLoraError(
        f"{type(base).__name__} gives an auxiliary loss, and no share of it; set output_router_logits to false in config.json"
    )


@contextlib.contextmanager
def _only_at(places: Tensor, head: nn.Module | None):
    """Within the block, ``head`` gets only the hidden states at ``places``, bool (batch, length), as one text: (1, n,
    features)."""
    if head is None:
        yield
        return
    chosen = places.flatten().nonzero().squeeze(1)

    def at_places(module, inputs):
        if inputs and inputs[0].dim() == 3 and inputs[0].shape[:2] == places.shape:
            return inputs[0].flatten(0, 1).index_select(0, chosen)[None], *inputs[1:]
        return None

    hook = head.register_forward_pre_hook(at_places)
    try:
        yield
    finally:
        hook.remove()
