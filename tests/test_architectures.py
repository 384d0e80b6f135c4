"""One vector on many architectures: what is trained is what is saved, loaded and merged, and the base stays what it was."""

import pytest
import torch
from architectures import CASES
from exports import largest

from backends.torch import attach, load_adapter, plan
from export import export_onnx
from export.torch_base.inputs import real_inputs
from unilora_spec import LayerMapError

RANK, D = 2, 60


def output(model, case):
    """What a forward gives, float32."""
    found = model(**case.batch())
    names = ("logits", "logits_per_image", "last_hidden_state")
    return next(getattr(found, name) for name in names if hasattr(found, name))


def looked_at(model, case):
    with torch.no_grad():
        return output(model, case)


def assert_same(actual, expected):
    """W + ΔW in one product, or two products beside each other: some dozen roundings of 2^-24 for each of some hundred sums, in three
    layers at most, of the largest value; 2e-5 of it. What each weight does alone is twenty times that, as the test sees to."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_trained_saved_loaded_merged_and_taken_off(case, tmp_path):
    model = case.model()
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    of_base = looked_at(model, case)
    attach(model, RANK, D, seed=3, targets=case.targets, ranks=case.ranks, bound=1.5)

    # Trained: θ has a gradient, and what a step does shows at once.
    optimizer = torch.optim.AdamW([model.unilora.theta], lr=0.05, fused=True)
    for _ in range(2):
        before = looked_at(model, case)
        output(model, case).square().mean().backward()
        assert model.unilora.theta.grad.isfinite().all() and model.unilora.theta.grad.abs().max() > 0
        optimizer.step()
        optimizer.zero_grad()
        trained = looked_at(model, case)
        assert not torch.equal(trained, before)
    for name, parameter in model.named_parameters():
        assert name == "unilora_theta" or torch.equal(parameter, frozen[name]), name

    # Saved and loaded.
    model.save_adapter(tmp_path / "vec.safetensors")
    loaded = load_adapter(case.model(), tmp_path / "vec.safetensors")
    assert torch.equal(looked_at(loaded, case), trained)

    # Merged, also by the specification's own arithmetic.
    merged = {name: value.numpy().copy() for name, value in frozen.items()}
    model.unilora.adapter().merge(merged)
    assert_same(looked_at(model.merge(), case), trained)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, torch.from_numpy(merged[name]), rtol=1e-6, atol=1e-6)  # a rounding of W + ΔW

    # Each of the weights has its part in that.
    for name in loaded.unilora.layer_map.by_weight():
        weight = model.get_parameter(name)
        kept, weight.data = weight.data, frozen[name]
        without = looked_at(model, case)
        weight.data = kept
        says = (without - trained).abs().max().item() / trained.abs().max().item()
        assert says > 4e-4, (name, says)

    # Taken off.
    loaded.detach()
    assert torch.equal(looked_at(loaded, case), of_base)
    assert {name: value.shape for name, value in loaded.state_dict().items()} == {n: v.shape for n, v in frozen.items()}


@pytest.mark.parametrize(
    "name", ["DeBERTa", "DINOv2", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("BLOOM", "Mixtral"))]
)
def test_exported(name, tmp_path):
    """Those that test_export_bases.py has not: a row range of a fused weight, a table of relative positions; and a stack of experts, of
    which test_export.py has parts."""
    case = CASES[name]
    adapter = attach(case.model(), RANK, D, seed=3, targets=case.targets, bound=1.5).unilora.adapter()
    base = case.model()
    first, *more = real_inputs(base)
    report = export_onnx(base, adapter, first, tmp_path / "model.onnx", "reconstruct", more_inputs=more)
    assert largest(report) < 1e-5  # of ONNX Runtime and torch: some dozen roundings of 2^-24 of the largest value


TIED = "adapt a weight that is used once"
NO_MATRIX = "is no matrix to multiply by, its shape is"
REFUSED = {  # architecture, target: how the sentence begins, and what else it says
    ("GPT-2", "wte"): ("transformer.wte.weight is tied to another module's weight, lm_head.weight", TIED),
    ("T5", "shared"): ("shared.weight is tied to another module's weight, encoder.embed_tokens.weight", TIED),
    ("Gemma 3", "lm_head"): ("lm_head.weight is tied to another module's weight, model.embed_tokens.weight", TIED),
    ("Whisper", "proj_out"): ("proj_out.weight is tied to another module's weight, model.decoder.embed_tokens.weight", TIED),
    ("Wav2Vec2", "pos_conv_embed.conv"): ("wav2vec2.encoder.pos_conv_embed.conv.weight is computed from other parameters", "remove that first"),
    ("Mamba", "mixer.D"): ("the target 'mixer.D' matches no weight that can be adapted", f"{NO_MATRIX} 64; name it in train_in_full"),
    ("ConvNeXt", "layer_scale_parameter"): ("the target 'layer_scale_parameter' matches no weight", f"{NO_MATRIX} 8"),
    ("ViT", "cls_token"): ("the target 'cls_token' matches no weight", f"{NO_MATRIX} 1 × 1 × 32"),
    ("Llama", "input_layernorm"): ("the target 'input_layernorm' matches no weight", ""),
    ("XLNet", "r_w_bias"): ("the target 'r_w_bias' matches no weight", ""),
    ("Mixtral", "experts.gate_proj"): ("the target 'experts.gate_proj' matches no weight", "close names are gate_up_proj"),
    ("Qwen2-MoE", "shared_expert_gate"): ("model.layers.0.mlp.shared_expert_gate.weight has rank 2", "give it a rank from 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "target"), REFUSED)
def test_what_cannot_be_adapted_is_refused_by_name(name, target):
    begins, says = REFUSED[name, target]
    with pytest.raises(LayerMapError) as refusal:
        plan(CASES[name].model(), target, RANK)
    assert str(refusal.value).startswith(begins) and says in str(refusal.value)


def test_a_weight_that_the_model_changes_by_itself_is_refused_at_its_first_call():
    """RWKV divides some for an evaluation by 2 for each six layers, and would not divide ΔW."""
    case = CASES["RWKV"]
    model = attach(case.model(), RANK, D, targets=["key", "output"])
    with pytest.raises(
        LayerMapError, match=r"^rwkv\.blocks\.0\.attention\.output\.weight is read by the model \(div_\)"
    ):
        looked_at(model, case)
