"""Gives an adapted model without its adapter as a second model, for trainers that ask for a reference model."""

from torch import Tensor, nn

from unilora_spec import LayerMapError

from .theta.vector import THETA


class Reference(nn.Module):
    """See ``reference``. The model is no submodule of it, so that nobody finds parameters to train, move or switch
    through it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        vars(self)["shared"] = model
        super().train(False)

    def __call__(self, *inputs, **named):
        # Here and not in ``forward``: trainers put a forward of their own in its place, which calls parts of the model.
        with self.shared.unilora.disabled():
            return super().__call__(*inputs, **named)

    def forward(self, *inputs, **named):
        return self.shared(*inputs, **named)

    def train(self, mode: bool = True) -> "Reference":
        """Does nothing: dropout acts as it does in the model."""
        return self

    def state_dict(self, *_, **__) -> dict[str, Tensor]:
        """The base's weights, by which trainers tell one reference from another."""
        every = dict(self.shared.named_parameters(remove_duplicate=False)) | self.shared.unilora.in_full.originals
        return {name: value.detach() for name, value in every.items() if name != THETA}

    def __getattr__(self, name):
        # What libraries note on a model under such names is not noted on this one.
        if name.startswith("_") or "shared" not in vars(self):
            return super().__getattr__(name)
        return getattr(self.shared, name)


def reference(model: nn.Module) -> Reference:
    """An nn.Module that computes what ``model`` computed before ``attach``, on the same weights: no copy, nothing to train.

        DPOTrainer(model=model, ref_model=reference(model), …)

    It has the model's attributes (``config``, ``device``, …) and no parameters of its own, and every call of it runs
    within ``model.unilora.disabled()``, for the calling thread alone. Dropout acts where it acts in the model, so that
    it has to be off in both, as TRL sets it. It is not for FSDP or DeepSpeed, which shard a reference's own weights,
    nor for a reference that follows the model (TRL's ``sync_ref_model``). Raises ``LayerMapError`` for a model without
    an adapter.
    """
    if not hasattr(model, "unilora"):
        raise LayerMapError("the model has no adapter to leave out; attach one, or give the model itself")
    return Reference(model)
