"""Several adapters in memory: loaded, changed by name, mixed."""

import contextlib
import copy
import threading
import warnings

import pytest
import torch
from attached_models import assert_same, bert, gpt2, run
from torch import nn

import unilora_spec
from backends.torch import load_adapter
from unilora_spec import LayerMapError, UniLoraError

pytest.importorskip("transformers")
from files_of_adapters import files, random

# Several in memory


def alone(base, path):
    with torch.no_grad():
        return run(load_adapter(copy.deepcopy(base), path))


def test_adapters_of_all_kinds_are_changed_by_name_and_keep_what_was_trained(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1, "b": 2}, train_in_full=["classifier"])
    paths |= files(base, tmp_path, {"seed": 3}, seed=9)
    paths |= files(
        base, tmp_path, {"other": 4}, targets=["key", "classifier"], rank=2, d=30
    )  # adapts what others train in full
    paths |= files(base, tmp_path, {"vera": 5}, kind="vera", d=None)
    model = load_adapter(copy.deepcopy(base), paths["a"])
    unilora, theta = model.unilora, model.unilora.theta
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the base is what all were trained on
        for name, path in paths.items():
            unilora.add_adapter(name, path if name != "b" else unilora_spec.load_adapter(path))
    assert unilora.names == ["default", *paths] and unilora.active == "default"
    unilora.set_adapter("b")
    assert unilora.theta is theta and model.unilora is unilora
    for _ in range(2):
        for name in [*paths, "default"]:
            unilora.set_adapter(name)
            with torch.no_grad():
                assert torch.equal(run(model), alone(base, paths.get(name, paths["a"])))
            unilora.save_adapter(tmp_path / "saved")
            assert (tmp_path / "saved").read_bytes() == paths.get(name, paths["a"]).read_bytes()
    random(model, 7)
    with torch.no_grad():
        trained = run(model)
        for name in ("other", "default"):
            unilora.set_adapter(name)
        assert torch.equal(run(model), trained)
    unilora.delete_adapter("other")
    assert unilora.names == ["default", "a", "b", "seed", "vera"]
    assert torch.equal(run(model.detach()), run(base)) and type(model.classifier) is nn.Linear


def test_one_index_serves_all_adapters_of_a_projection(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1, "b": 2})
    model = load_adapter(base, paths["a"])
    model.unilora.add_adapter("b", paths["b"])
    assert model.unilora.adapters.held("b").storage is model.unilora.storage


def test_load_adapter_takes_the_place_of_the_active_one(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1, "b": 2, "c": 3})
    paths |= files(base, tmp_path, {"c": 3}, seed=4)
    model = load_adapter(copy.deepcopy(base), paths["a"])
    model.unilora.add_adapter("b", paths["b"])
    assert model.load_adapter(paths["c"]) is model and model.unilora.names == ["default", "b"]
    with torch.no_grad():
        assert torch.equal(run(model), alone(base, paths["c"]))
        model.unilora.set_adapter("b")
        assert torch.equal(run(model), alone(base, paths["b"]))
        copied = copy.deepcopy(model)
        copied.unilora.set_adapter("default")
        assert torch.equal(run(copied), alone(base, paths["c"])) and model.unilora.active == "b"


def test_names_and_adapters_that_do_not_fit_are_refused(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1})
    paths |= files(gpt2(), tmp_path, {"gpt2": 1}, targets=["c_attn"])
    model = load_adapter(base, paths["a"])
    unilora = model.unilora
    refused = {
        "there is no adapter 'b'; there are default": lambda: unilora.set_adapter("b"),
        "default is the active adapter": lambda: unilora.delete_adapter("default"),
        "there is an adapter 'default' already": lambda: unilora.add_adapter("default", paths["a"]),
        "cannot be called 'base'": lambda: unilora.add_adapter("base", paths["a"]),
        "cannot be called None": lambda: unilora.add_adapter(None, paths["a"]),
        "gpt2.unilora: the base has no weight": lambda: unilora.add_adapter("g", paths["gpt2"]),
    }
    for sentence, call in refused.items():
        with pytest.raises(UniLoraError, match=sentence):
            call()
    unilora.add_adapter("b", paths["a"])
    with torch.no_grad(), unilora.merged():
        for call in (lambda: unilora.set_adapter("b"), lambda: model.load_adapter(paths["a"])):
            with pytest.raises(LayerMapError, match="leave merged"):
                call()
    assert unilora.names == ["default", "b"] and unilora.active == "default"


@pytest.mark.parametrize("kind", ["balanced", "uniform", "identity", "layerwise", "fastfood"])
def test_a_mix_is_the_sum_of_what_its_adapters_change(tmp_path, kind):
    base = bert()
    d = None if kind == "identity" else 40
    paths = files(base, tmp_path, {"a": 1, "b": 2}, rank=0, kind=kind, d=d, train_in_full=["classifier"])
    model = load_adapter(copy.deepcopy(base), paths["a"])
    model.unilora.add_adapter("b", paths["b"])
    model.unilora.mix("mixed", {"default": 0.75, "b": -0.5})
    model.unilora.set_adapter("mixed")
    changed = [dict(load_adapter(copy.deepcopy(base), paths[n]).merge().named_parameters()) for n in "ab"]
    start = dict(base.named_parameters())
    for name, parameter in model.merge().named_parameters():
        one, other = (of[name] - start[name] for of in changed)
        assert_same(parameter, start[name] + 0.75 * one - 0.5 * other)


def test_what_no_mix_is_exact_for_is_refused(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1}) | files(base, tmp_path, {"b": 1}, seed=1)
    paths |= files(base, tmp_path, {"c": 1}, targets=["key"])
    model = load_adapter(base, paths["a"])
    for name in "abc":
        model.unilora.add_adapter(name, paths[name])
    refused = {
        "has A and B, and their product is not linear": {"a": 0.5, "default": 0.5},
        "a and b have different projections": {"a": 0.5, "b": 0.5},
        "a and c adapt different weights|a and c have different projections": {"a": 0.5, "c": 0.5},
        "no adapter 'd'": {"d": 1.0},
        "needs adapters with their weights": {},
    }
    for sentence, weights in refused.items():
        with pytest.raises(LayerMapError, match=sentence):
            model.unilora.mix("m", weights)
    assert "m" not in model.unilora.names


def test_the_weights_are_fingerprinted_again_where_they_have_changed(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1})
    model, taken = load_adapter(base, paths["a"]), []
    same = unilora_spec.Adapter.same_contents

    def counted(adapter, read):
        taken.append(1)
        return same(adapter, read)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unilora_spec.Adapter, "same_contents", counted)
        for _ in range(3):
            model.load_adapter(paths["a"])
        assert len(taken) == 1
        weight = model.bert.encoder.layer[0].attention.self.query.weight
        with torch.no_grad():
            weight[0, 0] += 1
        for _ in range(2):
            with pytest.warns(UserWarning, match="weights are not those"):
                model.load_adapter(paths["a"])
        assert len(taken) == 2
        weight.data = weight.detach().clone()
        with pytest.warns(UserWarning, match="weights are not those"):
            model.load_adapter(paths["a"])
        assert len(taken) == 3


def test_under_inference_mode_theta_stays_one_that_can_be_trained(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1, "b": 2}, train_in_full=["classifier"]) | files(
        base, tmp_path, {"c": 3}, seed=2
    )
    model = load_adapter(copy.deepcopy(base), paths["a"])
    with torch.inference_mode():
        for name in "bc":
            model.unilora.add_adapter(name, paths[name])
            model.unilora.set_adapter(name)
            assert torch.equal(run(model), alone(base, paths[name]))
    assert not model.unilora.theta.is_inference()
    run(model).sum().backward()
    assert model.unilora.theta.grad.abs().sum() > 0
    model.unilora.set_adapter("b")
    run(model).sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0


def test_while_adapters_change_each_answer_is_that_of_one_of_them(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1, "b": 2}, train_in_full=["classifier"])
    paths |= files(base, tmp_path, {"c": 3}, targets=["key", "dense"], rank=2)
    model = load_adapter(copy.deepcopy(base), paths["a"])
    for name in "bc":
        model.unilora.add_adapter(name, paths[name])
    known = [alone(base, path) for path in paths.values()] + [run(base).detach()]
    wrong, seen, stop = [], set(), threading.Event()

    def serve(off):
        with torch.no_grad(), model.unilora.disabled() if off else contextlib.nullcontext():
            while not stop.is_set():
                given = run(model)
                number = next((i for i, each in enumerate(known) if torch.equal(each, given)), None)
                seen.add(number)
                if number is None or (number == 3) != off:
                    wrong.append(number)

    threads = [threading.Thread(target=serve, args=(off,)) for off in (False, False, True)]
    for thread in threads:
        thread.start()
    for i in range(60):
        model.unilora.set_adapter(("b", "c", "default")[i % 3])
        if i % 7 == 0:
            model.load_adapter(paths["a" if model.unilora.active == "default" else model.unilora.active])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and None not in seen and len(seen) > 1
