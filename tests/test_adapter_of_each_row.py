"""A batch whose rows have different adapters."""

import copy
import queue
import threading

import pytest
import torch
from attached_models import assert_same, bert, gpt2, mixtral
from torch import nn

from backends.torch import attach, load_adapter
from unilora_spec import LayerMapError

pytest.importorskip("transformers")
from files_of_adapters import QV, files, linear, random


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
