"""diffusers: a UNet, a transformer and a VAE, their folders, and projections that are fused after attach."""

import copy

import pytest
import torch
from trained import adapted, assert_fell, assert_frozen, frozen

from backends.torch import load_adapter
from unilora_spec import LayerMapError

diffusers = pytest.importorskip("diffusers")

GENERATOR = torch.Generator().manual_seed(0)
NOISY, NOISE, TEXT = (torch.randn(shape, generator=GENERATOR) for shape in ((2, 4, 8, 8), (2, 4, 8, 8), (2, 5, 8)))
PICTURES = torch.randn(2, 3, 16, 16, generator=GENERATOR)


def unet():
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


def dit():
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, sample_size=8, norm_num_groups=4
    )  # fmt: skip


def vae():
    return diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=16, layers_per_block=1)


TIMES = torch.tensor([3, 7])
MODELS = {  # what makes it, targets, what it gives, what it should
    "UNet2DConditionModel": (unet, ("to_q", "to_v", "conv1", "time_emb_proj"), lambda m: m(NOISY, TIMES, TEXT).sample, NOISE),
    "DiTTransformer2DModel": (
        dit, ("to_q", "to_v", "ff.net.0.proj", "proj_out_2"), lambda m: m(NOISY, TIMES, class_labels=TIMES).sample, NOISE,
    ),
    "AutoencoderKL": (
        vae, ("conv1", "to_q", "quant_conv"), lambda m: m.decode(m.encode(PICTURES).latent_dist.mode()).sample, PICTURES,
    ),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def case(request):
    make, targets, run, wanted = MODELS[request.param]

    def fresh():
        torch.manual_seed(0)
        model = make().eval()
        with torch.no_grad():  # diffusers begins some layers at zero, behind which nothing is trained
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.2)
        return model

    return fresh, targets, run, wanted


def test_trains_and_its_folder_is_the_base_with_the_adapter(case, tmp_path):
    fresh, targets, run, wanted = case
    model = adapted(fresh(), targets=targets)
    before = frozen(model)
    optimizer = torch.optim.AdamW([model.unilora.theta], lr=0.3, fused=True)
    losses = []
    for _ in range(12):
        loss = (run(model) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert_fell(losses)
    assert_frozen(model, before)

    model.save_pretrained(tmp_path / "folder")
    with torch.no_grad():
        expected = run(model)
        assert torch.equal(run(load_adapter(fresh(), tmp_path / "folder")), expected)
        assert torch.equal(run(type(model).from_pretrained(tmp_path / "folder").eval()), expected)
        merged = run(copy.deepcopy(model).merge())
    # W + ΔW, or two products beside each other: some dozen roundings of 2^-24 in some dozen layers, of the largest value
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_refuses_the_state_of_another_seed(case):
    fresh, targets, *_ = case
    one, other = adapted(fresh(), targets=targets), adapted(fresh(), seed=1, targets=targets)
    with pytest.raises(LayerMapError, match="of another adapter, whose seed differs"):
        other.load_state_dict(one.state_dict())


def test_projections_that_are_fused_after_attach_are_told():
    make, targets, run, _ = MODELS["UNet2DConditionModel"]
    model = adapted(make(), targets=targets)
    model.fuse_qkv_projections()
    with pytest.warns(UserWarning, match="a module was added beside .* after attach: to_"):
        run(model)
