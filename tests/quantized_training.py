"""Bases of fewer bits, by torchao and bitsandbytes: trained on, saved, never merged into.

Neither library stands among the packages of the tests: once it is there, transformers imports torchao at every start, which then
writes warnings into everybody's terminal. `make test` keeps torchao in a folder of its own, and tests/test_quantized_training.py runs this file
in a process that sees it.
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


def settings(folder, **options):
    """Of a run on texts that end alike, with a Llama that has to be quantized."""
    from test_loop import saved_language_model

    from backends.settings import TrainSettings

    (folder / "texts.jsonl").write_text("".join(f'{{"text": "good {n} good"}}\n' for n in range(32)))
    common = {"base": saved_language_model(folder / "base"), "data": folder / "texts.jsonl", "task": "causal-lm"}
    common |= {
        "output": folder / "vec.safetensors",
        "dim": 200,
        "epochs": 6,
        "lr": 0.1,
        "batch_size": 8,
        "micro_batch": 4,
    }
    return TrainSettings(**common | options)


def prepared(run):
    """The run's base and a batch of its first rows."""
    from backends.torch.training.base import prepare

    model, _, rows, task = prepare(run)
    return model, task, task.batch(rows.train.select(range(4)).to_list())


def learns(run):
    from backends.torch.training.train import train

    report = train(run)
    return report["dtype"] == "float32" and report["after"]["loss"] < 0.97 * report["before"]["loss"]


@pytest.mark.parametrize("name", ["torchao-int8", "torchao-int4", "int8", "nf4"])
def test_the_command_holds_a_base_in_few_bits_and_trains_on_it(name, tmp_path):
    pytest.importorskip("torchao" if name.startswith("torchao") else "bitsandbytes")
    run = settings(tmp_path, quantize=name)
    held = {candidate.weight for candidate in candidates(prepared(run)[0]) if candidate.is_quantized}
    assert len(held) == 7 and not any("lm_head" in weight for weight in held), (
        "the linear layers of one layer of a Llama"
    )
    assert learns(run)
    load_adapter(prepared(run)[0], run.output)  # and no warning: the same base


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_step_after_an_evaluation_has_the_gradient_of_one_before(name, tmp_path):
    """On a CPU with avx512_bf16 bitsandbytes packs weights of four bits when it evaluates, and has no gradient for what is packed."""
    pytest.importorskip("bitsandbytes")
    model, task, batch = prepared(settings(tmp_path, quantize=name))
    attach(model, rank=4, d=200, bound=1.0)

    def gradient():
        model.train().unilora.theta.grad = None
        task.loss(model, batch)[0].backward()
        return model.unilora.theta.grad

    before = gradient()
    with torch.no_grad():
        task.loss(model.eval(), batch)
    assert torch.equal(gradient(), before) and before.abs().max() > 1e-4


def test_a_base_that_is_saved_in_few_bits_is_trained_on_as_it_is(tmp_path):
    pytest.importorskip("bitsandbytes")
    run = settings(tmp_path, quantize="nf4")
    prepared(run)[0].save_pretrained(tmp_path / "packed")
    for path in (tmp_path / "base").glob("*token*"):
        (tmp_path / "packed" / path.name).write_bytes(path.read_bytes())
    assert learns(settings(tmp_path, base=tmp_path / "packed"))
