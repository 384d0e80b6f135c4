"""What is done with adapters beside training them: left out for a while, several in memory, a reference without a copy."""

import contextlib
import copy
import queue
import threading
import warnings

import pytest
import torch
from test_attach import FORMS, IDS, assert_same, bert, gpt2, mixtral, run
from torch import nn

import unilora_spec
from backends.torch import attach, load_adapter, reference
from unilora_spec import LayerMapError, UniLoraError

pytest.importorskip("transformers")
QV = ("query", "value")


@torch.no_grad()
def random(model, seed):
    """Other values for all that is trained."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def tuned():
    """A base with a head, and the same with an adapter whose vector and head have been trained."""
    base = bert()
    return base, random(attach(copy.deepcopy(base), d=40, targets=QV, train_in_full=["classifier"]), 1)


# The base without taking the adapter off


@pytest.mark.parametrize("way", ["disabled", "disable_adapter", "enabled", "reference"])
def test_the_base_is_what_it_was_before_to_the_bit(tuned, way):
    base, model = tuned
    trained = run(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with contextlib.ExitStack() as stack:
        shown = model
        if way == "enabled":
            model.unilora.enabled = False
        elif way == "reference":
            shown = reference(model)
        else:
            stack.enter_context(getattr(model.unilora if way == "disabled" else model, way)())
        assert torch.equal(run_of(shown), run(base)) and not torch.equal(run(base), trained)
        assert torch.equal(shown.bert(IDS).pooler_output, base.bert(IDS).pooler_output) or way == "reference"
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        saved = model.unilora.adapter().saved["classifier.weight"]
        assert torch.equal(torch.from_numpy(saved), state["classifier.weight"])
    model.unilora.enabled = True
    assert torch.equal(run(model), trained)


def run_of(model):
    return model(IDS).logits


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_site_can_be_left_out(form):
    make, targets = FORMS[form]
    base = make()
    model = attach(copy.deepcopy(base), rank=3, d=40, targets=targets, bound=4.0)
    with torch.no_grad(), model.unilora.disabled():
        assert_same(run(model), run(base))  # not to the bit: a layer of torch's encoder without hooks is one kernel
    with pytest.raises(AssertionError):
        assert_same(run(model), run(base))


def test_a_head_that_is_tied_to_an_embedding_is_the_bases_in_both_places():
    base = gpt2()
    model = random(attach(copy.deepcopy(base), d=20, targets=["c_attn"], train_in_full=["wte"]), 1)
    assert model.lm_head.weight is model.transformer.wte.weight
    with model.unilora.disabled():
        assert torch.equal(run(model), run(base))
    assert not torch.equal(run(model), run(base))


def test_leaving_the_adapter_out_is_one_threads_own(tuned):
    base, model = tuned
    trained, of_base, found = run(model).detach(), run(base).detach(), []
    inside, looked = threading.Event(), threading.Event()

    def other():
        with torch.no_grad(), model.unilora.disabled():
            inside.set()
            looked.wait(10)
            found.append(run(model))

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with torch.no_grad():
        assert torch.equal(run(model), trained)
    looked.set()
    thread.join()
    assert torch.equal(found[0], of_base) and torch.equal(run(model), trained)


def test_the_optimizer_steps_what_is_trained_between_two_looks_at_the_base(tuned):
    _, model = tuned
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    before = run(model).detach()
    with torch.no_grad(), model.unilora.disabled():
        of_base = run(model)
    (run(model) - of_base).square().sum().backward()
    optimizer.step()
    with torch.no_grad(), model.unilora.disabled():
        assert torch.equal(run(model), of_base)
    assert not torch.equal(run(model), before)
    assert model.classifier.weight.grad.abs().sum() > 0 and model.unilora.theta.grad.abs().sum() > 0


def test_a_compiled_model_leaves_the_adapter_out_too(tuned):
    base, model = tuned
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        trained = compiled(IDS).logits
        with model.unilora.disabled(), model.unilora.disabled():
            assert torch.equal(compiled(IDS).logits, run(base))
        assert torch.equal(compiled(IDS).logits, trained) and not torch.equal(trained, run(base))
        model.unilora.enabled = False
        assert torch.equal(compiled(IDS).logits, run(base))


def test_what_cannot_be_left_out_is_refused(tuned):
    _, model = tuned
    with torch.no_grad(), model.unilora.merged():
        for way in (model.unilora.disabled, model.disable_adapter):
            with pytest.raises(LayerMapError, match=r"leave merged\(\) first"), way():
                pass
    recurrent = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    attach(recurrent, rank=1, d=4, targets=["0"], train_in_full=["1"])
    with pytest.raises(LayerMapError, match=r"1\.weight_ih_l0 was trained in full, and nn\.LSTM"):
        recurrent.unilora.enabled = False
    assert recurrent.unilora.enabled
    with pytest.raises(LayerMapError, match="no adapter"):
        reference(nn.Linear(2, 2))


def test_merge_and_detach_leave_the_classes_as_they_were(tuned):
    base, model = tuned
    other = copy.deepcopy(model)
    assert issubclass(type(model.classifier), nn.Linear) and type(model.classifier) is not nn.Linear
    assert type(other.merge().classifier) is nn.Linear and type(model.detach().classifier) is nn.Linear
    assert vars(model.classifier).keys() == vars(base.classifier).keys()
    assert torch.equal(run(model), run(base))


def test_the_class_that_shows_a_weight_has_the_names_of_the_modules_own():
    class Own(nn.Conv1d):
        pass

    model = attach(nn.Sequential(Own(8, 6, 1, groups=2)), 2, d=10, targets=["0"])
    shown = type(model[0])
    assert shown is not Own
    assert all(getattr(shown, name) == getattr(Own, name) for name in ("__module__", "__name__", "__qualname__"))


def test_torch_saves_the_whole_model_with_its_adapter(tuned, tmp_path):
    model = tuned[1]
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(run(torch.load(tmp_path / "model.pt", weights_only=False)), run(model))


def test_a_reference_shares_the_model_and_has_nothing_to_train(tuned):
    base, model = tuned
    of_model = reference(model)
    assert not list(of_model.parameters()) and not of_model.training and of_model.config is model.config
    model.train()
    of_model.eval()
    state = of_model.state_dict()
    assert state.keys() == dict(base.named_parameters()).keys()
    assert all(torch.equal(value, state[name]) for name, value in base.named_parameters())
    assert model.training and "bert" not in dict(of_model.named_children())

    def forward(ids):  # as TRL does: through the parts, past the model's own forward
        return of_model.classifier(of_model.bert(ids).pooler_output)

    of_model.forward = forward
    model.eval()
    assert torch.equal(of_model(IDS), run(base))
    model.detach()
    with pytest.raises(AttributeError):
        of_model(IDS)


# Several in memory


def files(model, folder, seeds, **arguments):
    """Adapters of a copy of a model as files, by name, with what they give."""
    found = {}
    for name, seed in seeds.items():
        tuned = attach(copy.deepcopy(model), **({"d": 40, "targets": QV} | arguments))
        found[name] = folder / f"{name}.unilora"
        random(tuned, seed).save_adapter(found[name])
    return found


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


# An adapter for each row


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)).eval()


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv1d(8, 4, 1), nn.Flatten()).eval()


def served(model, x):
    output = model(x)
    return getattr(output, "logits", output)


TEXTS = torch.randint(0, 50, (5, 7), generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
SERVED = {
    "linear": (linear, VECTORS, {"targets": ["0", "2"]}),
    "linear, three dimensions": (linear, VECTORS[:, None].repeat(1, 3, 1), {"targets": ["0", "2"]}),
    "linear, row range": (linear, VECTORS, {"targets": ["0[3:9]", "2[1:3]"], "rank": 2}),
    "linear, rank 0": (linear, VECTORS, {"targets": ["0", "2"], "rank": 0}),
    "convolutions": (lambda: convolutional()[:1], IMAGES, {"targets": ["0"]}),
    "convolutions, rank 0": (lambda: convolutional()[:1], IMAGES, {"targets": ["0"], "rank": 0}),
    "bert with a head": (bert, TEXTS, {"targets": QV, "train_in_full": ["classifier", "LayerNorm"]}),
    "bert, tables": (bert, TEXTS, {"targets": ["word_embeddings", "query"]}),
    "bert, tables of rank 0": (bert, TEXTS, {"targets": ["word_embeddings[3:40]"], "rank": 0, "d": 60}),
    "bert, vera": (bert, TEXTS, {"targets": QV, "kind": "vera", "d": None}),
    "bert, vb": (bert, TEXTS, {"targets": QV, "kind": "vb", "d": None, "options": {"length": 2, "bank": 5, "topk": 3}}),
    "bert, fastfood": (bert, TEXTS, {"targets": QV, "kind": "fastfood"}),
    "bert, xs": (bert, TEXTS, {"targets": QV, "kind": "xs", "d": None}),
    "bert, tiny": (bert, TEXTS, {"targets": QV, "kind": "tiny", "d": None, "options": {"u": 5, "groups": 2}}),
    "bert, computed": (bert, TEXTS, {"targets": QV, "storage": "computed"}),
    "gpt2": (gpt2, TEXTS, {"targets": ["c_attn[0:32]", "c_attn[64:96]", "c_fc", "c_proj"]}),
    "gpt2, tied head": (gpt2, TEXTS, {"targets": ["c_attn"], "train_in_full": ["wte"]}),
}


@pytest.mark.parametrize("case", SERVED)
def test_each_row_has_what_its_adapter_gives_alone(tmp_path, case):
    make, x, arguments = SERVED[case]
    base = make()
    paths = files(base, tmp_path, {"a": 1, "b": 2, "c": 3}, **{"d": 12} | arguments)
    model = load_adapter(copy.deepcopy(base), paths["a"])
    for name in ("b", "c"):
        model.unilora.add_adapter(name, paths[name])
    names, order = ["b", "default", None, "b", "c"], ["b", "a", None, "b", "c"]
    with torch.no_grad():
        each = {n: served(load_adapter(copy.deepcopy(base), paths[n]) if n else base, x) for n in order}
        expected = torch.stack([each[name][i] for i, name in enumerate(order)])
        with model.unilora.adapter_names(names):
            assert_same(served(model, x), expected)
            assert_same(served(model, x.repeat_interleave(2, 0)), expected.repeat_interleave(2, 0))
            with model.unilora.disabled():
                assert torch.equal(served(model, x), served(base, x))
            with model.unilora.adapter_names(["base", "c", "c", "c", "c"]):
                assert_same(served(model, x)[1:], each["c"][1:])
        assert torch.equal(served(model, x), each["a"])
    assert not any(torch.equal(each["b"], each[name]) for name in ("a", "c", None))


def test_rows_are_computed_in_the_precision_of_the_base(tmp_path):
    base = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 5)).double()
    paths = files(base, tmp_path, {"a": 1, "b": 2}, targets=["0", "1"], d=12)
    model = load_adapter(copy.deepcopy(base), paths["a"])
    model.unilora.add_adapter("b", paths["b"])
    with torch.no_grad(), model.unilora.adapter_names(["default", "b"]):
        given = model(TEXTS[:2])
    expected = torch.stack(
        [load_adapter(copy.deepcopy(base), paths[name])(TEXTS[:2])[i] for i, name in enumerate("ab")]
    )
    assert_same(given, expected, 1e-13)  # some hundred roundings of 2⁻⁵³; a product in float32 would be off by 2⁻²⁴


def test_rows_may_have_other_kinds_and_seeds_of_one_layer_map(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1, "b": 2})
    for name, arguments in {"seed": {"seed": 5}, "vera": {"kind": "vera", "d": None}, "long": {"d": 60}}.items():
        paths |= files(base, tmp_path, {name: 3}, **arguments)
    model = load_adapter(copy.deepcopy(base), paths["a"])
    for name, path in paths.items():
        model.unilora.add_adapter(name, path)
    with torch.no_grad(), model.unilora.adapter_names(list(paths)):
        expected = torch.cat(
            [served(load_adapter(copy.deepcopy(base), paths[n]), TEXTS[i : i + 1]) for i, n in enumerate(paths)]
        )
        assert_same(served(model, TEXTS), expected)


def test_texts_are_continued_with_an_adapter_for_each(tmp_path):
    base = gpt2()
    paths = files(base, tmp_path, {"a": 1, "b": 2}, targets=["c_attn"])
    model = load_adapter(copy.deepcopy(base), paths["a"])
    model.unilora.add_adapter("b", paths["b"])
    for arguments in ({}, {"num_beams": 3}):
        arguments = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, **arguments}
        with model.unilora.adapter_names(["b", "default", "base"]):
            given = model.generate(TEXTS[:3], **arguments)
        each = [load_adapter(copy.deepcopy(base), paths["b"]), load_adapter(copy.deepcopy(base), paths["a"]), base]
        for i, one in enumerate(each):
            own = one.generate(TEXTS[i : i + 1], **arguments)[0]
            assert torch.equal(given[i][: len(own)], own) and not given[i][len(own) :].any()


def test_rows_follow_the_values_of_now_and_are_one_threads_own(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1, "b": 2}, train_in_full=["classifier"])
    model = load_adapter(copy.deepcopy(base), paths["a"])
    model.unilora.add_adapter("b", paths["b"])
    names = ["default", "b", "b", "default", "base"]
    with torch.no_grad():
        for seed in (1, 5):
            random(model, seed)
            own, found = run_on(model, TEXTS), queue.SimpleQueue()
            with model.unilora.adapter_names(names):
                given = run_on(model, TEXTS)
                thread = threading.Thread(target=answer, args=(model, found))
                thread.start()
                thread.join()
                model.unilora.set_adapter("b")  # of one layer map: the block goes on with what it began with
                assert torch.equal(run_on(model, TEXTS), given)
                model.unilora.set_adapter("default")
            assert torch.equal(found.get(timeout=10), own)
            assert_same(given[0], own[0])
            assert_same(given[1], alone_on(base, paths["b"], TEXTS)[1])


def run_on(model, x):
    return model(x).logits


def answer(model, found):
    found.put(no_grad(run_on, model, TEXTS))


def no_grad(call, *arguments):
    with torch.no_grad():
        return call(*arguments)


def alone_on(base, path, x):
    return no_grad(run_on, load_adapter(copy.deepcopy(base), path), x)


def test_a_compiled_model_has_an_adapter_for_each_row_too(tmp_path):
    base = linear()
    paths = files(base, tmp_path, {"a": 1, "b": 2}, targets=["0"], d=12)
    model = load_adapter(copy.deepcopy(base), paths["a"])
    model.unilora.add_adapter("b", paths["b"])
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        before = compiled(VECTORS)
        with model.unilora.adapter_names(["b"] * 5):
            assert_same(compiled(VECTORS), load_adapter(copy.deepcopy(base), paths["b"])(VECTORS))
        assert torch.equal(compiled(VECTORS), before)


def test_what_cannot_have_an_adapter_for_each_row_is_refused(tmp_path):
    base = bert()
    paths = files(base, tmp_path, {"a": 1}) | files(base, tmp_path, {"key": 1}, targets=["key"])
    paths |= files(base, tmp_path, {"head": 1}, train_in_full=["classifier"])
    model = load_adapter(base, paths["a"])
    for name, path in paths.items():
        model.unilora.add_adapter(name, path)

    def called(names, x=TEXTS, grad=False, unilora=model.unilora):
        with torch.set_grad_enabled(grad), unilora.adapter_names(names):
            unilora.model(x)

    refused = {
        "key adapts other weights than default": lambda: called(["a", "key"]),
        "classifier.(bias|weight) is trained in full by one of head and default": lambda: called(["a", "head"]),
        "no adapter 'nobody'": lambda: called(["nobody"]),
        "needs a name for each row": lambda: called([]),
        "does not go by the 2 rows": lambda: called(["a", "a"]),
        "is for inference": lambda: called(["a"] * 5, grad=True),
    }
    mixture = attach(mixtral(), d=20, targets=["gate_up_proj"])
    refused["acts as a whole weight"] = lambda: called(["default"], unilora=mixture.unilora)
    table = attach(bert(), d=20, targets=["word_embeddings"])
    refused["word_embeddings.weight gets an input of shape"] = lambda: called(2 * ["default"], unilora=table.unilora)
    for sentence, call in refused.items():
        with pytest.raises(LayerMapError, match=sentence):
            call()
    with torch.no_grad(), model.unilora.adapter_names(["a"] * 5):
        model.unilora.set_adapter("key")
        with pytest.raises(LayerMapError, match="other weights was set within adapter_names"):
            model(TEXTS)
