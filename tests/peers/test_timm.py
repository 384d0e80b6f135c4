"""timm: its models, its optimizers, its average of weights and its saver of checkpoints."""

import copy

import pytest
import torch
from torch.nn import functional as F
from trained import adapted, assert_fell, assert_frozen, assert_gives_back, frozen
from without_torchvision import stand_in

from unilora_spec import LayerMapError

with stand_in():
    timm = pytest.importorskip("timm")
    create_optimizer = pytest.importorskip("timm.optim").create_optimizer_v2
    utils = pytest.importorskip("timm.utils")

PICTURES, LABELS = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2] * 2)
MODELS = {
    "vit": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
        ("qkv", "fc1", "patch_embed.proj"),
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, ("conv_dw", "fc1", "stem.0")),
    "resnet": ("resnet10t", {"channels": (8, 8, 16, 16), "stem_width": 8, "zero_init_last": False}, ("conv1", "conv2")),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4},
        ("qkv", "mlp.fc2", "reduction"),
    ),
}


@pytest.fixture(params=MODELS)
def fresh(request):
    """Makes the same model each time, and its targets."""
    name, sizes, targets = MODELS[request.param]

    def make():
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=3, **sizes).eval()  # running statistics stay those of the base

    return make, targets


def steps(model, count, optimizer):
    losses = []
    for _ in range(count):
        loss = F.cross_entropy(model(PICTURES), LABELS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def logits(model):
    return model(PICTURES)


def test_trains_and_what_it_saves_is_the_adapter(fresh, tmp_path):
    make, targets = fresh
    model = adapted(make(), targets=targets)
    before = frozen(model)
    optimizer = create_optimizer(model, opt="adamw", lr=0.1, weight_decay=0.0)
    average = utils.ModelEmaV3(model, decay=0.5)
    saver = utils.CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=str(tmp_path), decreasing=True)
    losses = steps(model, 20, optimizer)
    average.update(model)
    saver.save_checkpoint(1, metric=losses[-1])
    assert_fell(losses)
    assert_frozen(model, before)
    assert_gives_back(tmp_path / "model_best.pth.tar", model, make, logits, tmp_path)
    of_average = average.module
    expected = 0.5 * model.unilora.theta + 0.5 * adapted(make(), targets=targets).unilora.theta
    torch.testing.assert_close(of_average.unilora.theta, expected)
    with torch.no_grad():
        moved = copy.deepcopy(model)
        moved.unilora.theta.copy_(of_average.unilora.theta)
        assert torch.equal(logits(of_average), logits(moved)), "the average acts with a theta of its own"


def test_refuses_the_checkpoint_of_another_seed(tmp_path):
    name, sizes, targets = MODELS["vit"]
    models = [adapted(timm.create_model(name, num_classes=3, **sizes), seed, targets) for seed in (0, 1)]
    saver = utils.CheckpointSaver(models[0], torch.optim.SGD([models[0].unilora.theta]), checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(1, metric=1.0)
    with pytest.raises(LayerMapError, match="of another adapter, whose seed differs"):
        timm.models.load_checkpoint(models[1], str(tmp_path / "last.pth.tar"))
