"""Lightning: an adapted model within a LightningModule."""

import pytest
import torch
from torch.utils.data import DataLoader
from trained import IDS, adapted, assert_fell, assert_frozen, assert_gives_back, frozen, llama, logits

from unilora_spec import LayerMapError

lightning = pytest.importorskip("lightning")
callbacks = pytest.importorskip("lightning.pytorch.callbacks")


class Tuned(lightning.LightningModule):
    def __init__(self, seed=0):
        super().__init__()
        self.model, self.losses = adapted(llama(), seed), []

    def training_step(self, ids, number):
        loss = self.model(ids, labels=ids).loss
        self.losses.append(loss.item())
        return loss

    def validation_step(self, ids, number):
        self.log("held_out", self.model(ids, labels=ids).loss)

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.05, fused=True)


def fitted(folder, module, resume=None, epochs=8):
    best = callbacks.ModelCheckpoint(dirpath=folder, monitor="held_out", filename="best")
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[best]
    )  # fmt: skip
    batches, held_out = (DataLoader(rows, batch_size=2) for rows in (IDS.repeat(2, 1), IDS.flip(1)))
    trainer.fit(module, batches, held_out, ckpt_path=resume)
    trainer.save_checkpoint(folder / "end.ckpt")
    return best


def test_trains_and_what_it_saves_is_the_adapter(tmp_path):
    module = Tuned()
    before = frozen(module)
    best = fitted(tmp_path, module)
    assert_fell(module.losses)
    assert_frozen(module, before)
    assert_gives_back(tmp_path / "end.ckpt", module.model, llama, logits, tmp_path)
    found = Tuned.load_from_checkpoint(best.best_model_path)
    assert_frozen(found, before)
    with torch.no_grad():
        loss = found.model.eval()(IDS.flip(1), labels=IDS.flip(1)).loss
    assert loss.item() == pytest.approx(best.best_model_score.item(), rel=1e-6)  # the same sums in the same order
    assert not torch.equal(logits(found.model), logits(module.model)), "the last is not the best"


def test_resumes_its_own_and_refuses_another_seeds(tmp_path):
    whole, again = Tuned(), Tuned()
    fitted(tmp_path / "whole", whole)
    fitted(tmp_path / "half", Tuned(), epochs=4)
    fitted(tmp_path / "again", again, resume=tmp_path / "half/end.ckpt")
    assert torch.equal(again.model.unilora.theta, whole.model.unilora.theta)
    with pytest.raises(LayerMapError, match="of another adapter, whose seed differs"):
        fitted(tmp_path / "other", Tuned(seed=1), resume=tmp_path / "half/end.ckpt")
