"""Bases of fewer bits, by torchao and bitsandbytes: trained on, saved, never merged into.

Neither library stands among the packages of the tests: once it is there, transformers imports torchao at every start, which then
writes warnings into everybody's terminal. `make test` keeps torchao in a folder of its own, for this file alone.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

from backends.torch import attach, load_adapter
from backends.torch.adapter.targets.candidates import candidates
from unilora_spec import LayerMapError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def by_torchao(name):
    quantization = pytest.importorskip("torchao.quantization")
    config = {
        "int8": quantization.Int8WeightOnlyConfig,
        "int4": lambda: quantization.IntxWeightOnlyConfig(torch.int4),  # the others of four bits have no CPU kernel
    }[name]()
    model = net()
    quantization.quantize_(model, config, filter_fn=lambda module, name: name in ("0", "2"))
    return model


def by_bitsandbytes(name):
    layers = pytest.importorskip("bitsandbytes.nn")
    model = net()
    for number in (0, 2):
        packed = (
            layers.Linear8bitLt(64, 64, has_fp16_weights=False) if name == "Linear8bitLt" else layers.Linear4bit(64, 64)
        )
        packed.load_state_dict(model[number].state_dict())
        model[number] = packed
    return model.to("cpu")  # which packs


PACKED = {
    "torchao int8": lambda: by_torchao("int8"),
    "torchao int4": lambda: by_torchao("int4"),
    "bitsandbytes int8": lambda: by_bitsandbytes("Linear8bitLt"),
    "bitsandbytes nf4": lambda: by_bitsandbytes("Linear4bit"),
}


@pytest.mark.parametrize("make", PACKED.values(), ids=PACKED)
def test_a_quantized_base_is_trained_on_saved_and_never_merged_into(make, tmp_path):
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(32) % 4
    model = attach(make(), rank=2, d=100, targets=["0", "2"], train_in_full=["4"])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(functional.cross_entropy(model(x), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    path = tmp_path / "vec.safetensors"
    model.save_adapter(path)
    with torch.no_grad():
        logits = model(x)
        assert torch.equal(load_adapter(make(), path)(x), logits)  # and no warning: the same packed weights
        with pytest.raises(LayerMapError, match="0.weight is quantized; merge into the unquantized base"):
            model.merge()
        assert torch.equal(model(x), logits)
        with pytest.warns(UserWarning, match="not those of"):  # rounded to few bits, they are others
            merged = load_adapter(net(), path).merge()
        # The unquantized base differs by what was rounded away: 1/254 of a row's largest weight, 1/14 and more with 4 bits.
        assert (merged(x) - logits).abs().max() < 0.3 * logits.abs().max()


@pytest.mark.parametrize("make", PACKED.values(), ids=PACKED)
def test_the_record_of_a_quantized_base_is_of_the_matrix_that_the_codes_stand_for(make):
    model = attach(make(), rank=2, d=100, targets=["0", "2"])
    packed, plain = (
        model.unilora.adapter().base,
        attach(net(), rank=2, d=100, targets=["0", "2"]).unilora.adapter().base,
    )
    assert packed.structure == plain.structure and packed.contents != plain.contents
    matrix = model[0](torch.eye(64)).detach() - model[0](torch.zeros(1, 64)).detach()  # x·Wᵀ and what θ adds
    A, B = model.unilora.factors()[0]
    values = candidates(model)[0].values().detach().float()
    # bitsandbytes multiplies int8 by int8: an entry of x is one of 127 steps, and the result one in float16
    torch.testing.assert_close(matrix.T - (B @ A).detach(), values, atol=5e-3, rtol=0)


@pytest.mark.parametrize("name", ["torchao-int8", "torchao-int4", "int8", "nf4"])
def test_the_command_holds_a_base_in_few_bits_and_trains_on_it(name, tmp_path):
    pytest.importorskip("torchao" if name.startswith("torchao") else "bitsandbytes")
    from test_loop import saved_language_model

    from backends.torch.settings import TrainSettings
    from backends.torch.training.base import prepare
    from backends.torch.training.train import train

    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "good {n % 3} good"}}\n' for n in range(32)))
    common = {"base": saved_language_model(tmp_path / "base"), "data": tmp_path / "texts.jsonl", "task": "causal-lm"}
    run = TrainSettings(
        **common,
        output=tmp_path / "vec.safetensors",
        quantize=name,
        dim=200,
        rank=4,
        batch_size=8,
        epochs=6,
        lr=0.1,
        micro_batch=4,
    )
    model = prepare(run)[0]
    held = {candidate.weight for candidate in candidates(model).values() if candidate.is_quantized}
    assert len(held) == 7 and not any("lm_head" in weight for weight in held), (
        "the linear layers of one layer of a Llama"
    )
    report = train(run)
    assert report["after"]["loss"] < 0.97 * report["before"]["loss"] and report["dtype"] == "float32"
    load_adapter(prepare(run)[0], run.output)  # and no warning: the same base


def test_a_base_that_is_saved_in_few_bits_is_trained_on_as_it_is(tmp_path):
    pytest.importorskip("bitsandbytes")
    from test_loop import saved_language_model

    from backends.torch.settings import TrainSettings
    from backends.torch.training.base import prepare
    from backends.torch.training.train import train

    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "good {n % 3} good"}}\n' for n in range(32)))
    common = {"data": tmp_path / "texts.jsonl", "task": "causal-lm", "output": tmp_path / "vec.safetensors", "dim": 200}
    plain = saved_language_model(tmp_path / "base")
    prepare(TrainSettings(**common, base=plain, quantize="nf4"))[0].save_pretrained(tmp_path / "packed")
    for path in plain.glob("*token*"):
        (tmp_path / "packed" / path.name).write_bytes(path.read_bytes())
    report = train(TrainSettings(**common, base=tmp_path / "packed", epochs=6, lr=0.1, batch_size=8))
    assert report["after"]["loss"] < 0.97 * report["before"]["loss"]
