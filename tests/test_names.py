"""The names of a model's parts are its base's own, whatever wraps it."""

import pytest
import torch
from adaptable import compiled, net, taken
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper, offload_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel

from backends.torch import plan
from backends.torch.adapter.sites.low_rank import MergedLinear
from backends.torch.adapter.targets import names
from backends.torch.adapter.targets.candidates import candidates
from unilora_spec import LayerMapError


def wrapped(wrap, whole=False):
    model = net()
    if whole:
        return wrap(model)
    model[0] = wrap(model[0])
    return model


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
    assert type(names.unwrapped(model)) is nn.Sequential and names.unwrapped(base) is base
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
        names.unwrapped(wrapped(nn.DataParallel))
    adapted = peft_model(net()).base_model.model  # which is plain but for its parts
    with pytest.raises(LayerMapError, match=r"^0\.query is a Linear.*plain model"):
        candidates(adapted)


def test_so_are_the_wrappers_of_many_processes(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(LayerMapError, match="^the model is a DistributedDataParallel; attach"):
            plan(nn.parallel.DistributedDataParallel(net()), "query", 1)
        with pytest.raises(LayerMapError, match="^1 is a FullyShardedDataParallel; attach"):
            model = net()
            model[1] = FullyShardedDataParallel(model[1], device_id=torch.device("cpu"))
            candidates(model)
    finally:
        torch.distributed.destroy_process_group()


def test_a_tied_module_has_all_of_its_names_and_one_candidate():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["c"] = model["a"]
    assert list(names.parameters(model)) == [f"{name}.{key}" for name in "abc" for key in ("weight", "bias")]
    assert [each.target for each in candidates(model)] == ["a", "b"]
    with pytest.raises(LayerMapError, match="c is the same module as a; write 'a'"):
        plan(model, "c", 1)
