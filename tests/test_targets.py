"""Which weights can be adapted, how their users name them, and what their names are in a file."""

import copy

import pytest
import torch
import transformers as T
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper, offload_wrapper
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from backends.torch import attach, plan
from backends.torch.adapter import names
from backends.torch.adapter.architectures import DEFAULTS
from backends.torch.adapter.candidates import candidates
from backends.torch.adapter.sites import DeltaWeight, LowRank, MergedLinear
from unilora_spec import LayerMapError

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.query(x).relu())


def net():
    return nn.Sequential(Block(), Block())


def compiled(module):
    return torch.compile(module, backend="eager")


def wrapped(wrap, whole=False):
    model = net()
    if whole:
        return wrap(model)
    model[0] = wrap(model[0])
    return model


def taken(model, targets, **options):
    return [segment.name for segment in plan(model, targets, 1, **options).segments]


WRAPPERS = {
    "compiled": compiled,
    "checkpointed": checkpoint_wrapper,
    "offloaded": offload_wrapper,
    "both": lambda module: compiled(checkpoint_wrapper(module)),
}


@pytest.mark.parametrize("whole", [False, True], ids=["a part", "the whole"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_names_are_those_of_the_base_whatever_wraps_it(wrap, whole):
    model, base = wrapped(wrap, whole), net()
    assert list(names.parameters(model)) == [name for name, _ in base.named_parameters()]
    assert list(names.modules(model)) == [name for name, _ in base.named_modules()]
    assert taken(model, "query") == ["0.query.weight", "1.query.weight"]
    found = candidates(model)
    assert all(type(each.module) is nn.Linear and each.site is MergedLinear for each in found)
    assert type(names.plain(model)) is nn.Sequential and names.plain(base) is base
    assert names.parameters(model)["0.query.weight"] == (found[0].module, "weight")


def peft_model(model):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=2))


REFUSED_WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "PeftModel": peft_model,
    "LoraModel": lambda model: peft_model(model).base_model,
}


@pytest.mark.parametrize(("kind", "wrap"), REFUSED_WRAPPERS.items())
def test_a_wrapper_whose_names_no_base_has_is_refused_by_name(kind, wrap):
    with pytest.raises(LayerMapError, match=f"^the model is a {kind}; attach to the plain model first"):
        plan(wrap(net()), "query", 1)


def test_so_is_one_that_wraps_a_part_of_the_model():
    with pytest.raises(LayerMapError, match="^0 is a DataParallel; attach to the plain model first"):
        names.plain(wrapped(nn.DataParallel))
    adapted = peft_model(net()).base_model.model  # which is plain but for its parts
    with pytest.raises(LayerMapError, match=r"^0\.query is a Linear.*plain model"):
        candidates(adapted)


def test_so_are_the_wrappers_of_many_processes(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(LayerMapError, match="^the model is a DistributedDataParallel; attach"):
            plan(nn.parallel.DistributedDataParallel(net()), "query", 1)
    finally:
        torch.distributed.destroy_process_group()


def test_a_tied_module_has_all_of_its_names_and_one_candidate():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["c"] = model["a"]
    assert list(names.parameters(model)) == [f"{name}.{key}" for name in "abc" for key in ("weight", "bias")]
    assert [each.target for each in candidates(model)] == ["a", "b"]
    with pytest.raises(LayerMapError, match="c is the same module as a; write 'a'"):
        plan(model, "c", 1)


class Explodes(nn.Module):
    """A parametrization that must not be computed."""

    def forward(self, weight):
        raise AssertionError("a weight that is no target was computed")

    def right_inverse(self, weight):
        return weight


def parametrized(module):
    return parametrize.register_parametrization(module, "weight", Explodes(), unsafe=True)


class Projection(nn.Module):
    def __init__(self, rows=4):
        super().__init__()
        self.proj = nn.Parameter(torch.ones(rows, 6))

    def forward(self, x):
        return x @ self.proj


UNFIT = {
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), "0", "remove that first"),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), "0", "remove that first"),
    "weight_norm by a hook": (lambda: weight_norm(nn.Conv1d(8, 8, 3)), "0", "remove that first"),
    "spectral_norm by a hook": (lambda: spectral_norm(nn.Linear(8, 8)), "0", "remove that first"),
    "pruned": (lambda: prune.random_unstructured(nn.Linear(8, 8), "weight", 0.5), "0", "remove that first"),
    "any parametrization": (lambda: parametrized(nn.Linear(8, 8)), "0", "remove that first"),
    "of an Embedding": (lambda: parametrized(nn.Embedding(8, 8)), "0", "remove that first"),
    "a bare one": (lambda: weight_norm(Projection(), "proj"), "0.proj", "remove that first"),
    "lazy": (lambda: nn.LazyLinear(8), "0", "run the model once first"),
    "lazy convolution": (lambda: nn.LazyConv2d(8, 3), "0", "run the model once first"),
    "none": (lambda: without_weight(nn.Linear(8, 8)), "0", "is no parameter of its Linear"),
    "renormalized": (lambda: nn.Embedding(8, 8, max_norm=1.0), "0", "set max_norm to None"),
    "recurrent": (lambda: nn.LSTM(8, 8), "0.weight_hh_l0", "is read by LSTM from a list of its own"),
}


def without_weight(module):
    module.register_parameter("weight", None)
    return module


@pytest.mark.parametrize(("make", "target", "message"), UNFIT.values(), ids=UNFIT)
def test_a_weight_that_cannot_be_adapted_is_refused_as_a_target_and_else_costs_nothing(make, target, message):
    weight = target if "." in target else f"{target}.weight"
    model = nn.Sequential(make(), nn.Linear(8, 8))
    assert [each.target for each in candidates(model)] == ["1"]
    assert taken(model, "1") == ["1.weight"]
    with pytest.raises(LayerMapError, match=f"^{weight} .*{message}"):
        plan(model, target, 1)
    assert taken(model, [target, "1"], exclude=target) == ["1.weight"]


def test_an_adapter_beside_a_parametrized_weight_is_saved(tmp_path):
    model = attach(nn.Sequential(weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8)), 2, 9, targets="1")
    model.save_adapter(tmp_path / "vec.safetensors")
