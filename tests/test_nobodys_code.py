"""A base from a stranger: no command runs code of its folder, whatever is typed, or reads data of elsewhere, or waits for a pipe."""

import ast
import io
import json
import os
import pickle
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from adapters import adapter_of
from onnx import TensorProto, helper, numpy_helper
from test_train import base, refusal, reviews, small  # noqa: F401  fixtures

import backends.torch.training.strangers
import export.torch_base.strangers
from backends.rows.reading import read
from backends.settings import TrainSettings
from backends.torch.planning import skeleton
from backends.torch.training.base import prepare
from export.check import check_with_file
from export.folders.shell import shell_of
from export.kernels.nodes import nodes
from export.onnx_base.from_file import export_onnx_file
from export.torch_base.base import load_base
from unilora_spec import LayerMap, Projection, Segment, UniLoraError, save_adapter
from unilora_spec.adapter import Adapter

ROOT = Path(__file__).parents[1]
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(autouse=True)
def yes(monkeypatch):
    """Standard input that says yes to everything, and no hour spent on a pipe that nobody writes to."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(60)
    yield
    signal.alarm(0)


def _hangs(*_):
    raise TimeoutError("it waits")


@pytest.fixture
def stranger(base, tmp_path):  # noqa: F811
    """A copy of a small model's folder, which knows what is written when code of it runs."""
    folder = tmp_path / "stranger"
    shutil.copytree(base, folder)
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import BertConfig as C, BertForSequenceClassification as M, BertTokenizer as T\n"
    )
    yield folder
    assert not (tmp_path / "ran").exists(), "its code has run"


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def adapter_for(folder):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig.from_pretrained(folder))
    return adapter_of(model, [Segment(QUERY, 32, 32, 2)], folder, ("bad", "good"))


AUTO = {
    "auto_map": {
        "AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForSequenceClassification": "evil.M",
        "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"],
    }
}  # fmt: skip


# Code that a folder brings


@pytest.mark.parametrize(
    "kind", [{"model_type": "evil"}, {}, {"model_type": "vit"}, {"model_type": "dpr"}, {"model_type": None}]
)
def test_code_of_a_configuration(stranger, small, kind):  # noqa: F811
    """Of a kind that transformers knows as well, one that it has no such model for, and none."""
    adapter = adapter_for(stranger)
    change(stranger / "config.json", **AUTO, **kind)
    change(stranger / "tokenizer_config.json", **AUTO)
    for load in (
        lambda: prepare(TrainSettings(**small | {"base": stranger})),
        lambda: prepare(TrainSettings(**small | {"base": stranger, "task": "causal-lm"})),
        lambda: skeleton(str(stranger)),
        lambda: load_base(adapter, str(stranger)),
        lambda: load_base(adapter),
        lambda: shell_of(stranger, None, "SEQ_CLS"),
        lambda: shell_of(stranger, None, None),
    ):
        try:
            load()
        except UniLoraError as error:
            assert "\n" not in str(error) and "trust_remote_code" not in str(error)
    assert sys.stdin.tell() == 0, "somebody asked"


def test_its_own_classes_are_refused_in_a_sentence(stranger, small):  # noqa: F811
    change(stranger / "config.json", **AUTO, model_type="evil")
    words = "needs code of its own, which is never run"
    assert words in refusal(**small | {"base": stranger})
    with pytest.raises(UniLoraError, match=words):
        load_base(adapter_for(small["base"]), str(stranger))
    with pytest.raises(UniLoraError, match=words):
        shell_of(stranger, None, None)


def test_code_of_a_tokenizer_and_of_generation(stranger, small):  # noqa: F811
    change(
        stranger / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.T", "evil.T"]},
    )
    (stranger / "custom_generate").mkdir()
    shutil.copy(stranger / "evil.py", stranger / "custom_generate" / "generate.py")
    *_, task = prepare(TrainSettings(**small | {"base": stranger}))
    assert type(task.tokenize).__module__.startswith("transformers.")
    load_base(adapter_for(stranger))


class Evil:
    def __init__(self, ran):
        self.ran = ran

    def __reduce__(self):
        return open, (str(self.ran), "w")


def test_pickled_weights_are_not_opened(stranger, small, tmp_path, monkeypatch):  # noqa: F811
    (stranger / "model.safetensors").unlink()
    torch.save({"w": Evil(tmp_path / "ran")}, stranger / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle is opened"))
    assert "a pickle (.bin, .pt) is a program" in refusal(**small | {"base": stranger})
    with pytest.raises(UniLoraError, match="is a program"):
        load_base(adapter_for(stranger))


def test_an_adapter_in_the_base_s_folder(stranger, small):  # noqa: F811
    """transformers would load it with the base, and where there is no config.json the base that it names."""
    (stranger / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "evil/base"})
    )
    words = r"an adapter of PEFT's is in it"
    assert words in refusal(**small | {"base": stranger})
    with pytest.raises(UniLoraError, match=words):
        load_base(adapter_for(stranger))
    with pytest.raises(UniLoraError, match=words):
        shell_of(stranger, None, None)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_of_the_hub(stranger, small, monkeypatch, key):  # noqa: F811
    """A configuration may name code of the hub; transformers would fetch it where the package kernels is installed."""
    for fetch in ("lazy_import_flash_attention", "is_kernel"):
        before = getattr(transformers.modeling_utils, fetch)

        def watched(name, *more, before=before, **options):
            assert "evil" not in str(name), "it would be fetched"
            return before(name, *more, **options)

        monkeypatch.setattr(transformers.modeling_utils, fetch, watched)
    change(stranger / "config.json", **{key: "evil/kernel"})
    model, *_ = prepare(TrainSettings(**small | {"base": stranger}))
    assert model.config._attn_implementation == "sdpa"
    load_base(adapter_for(small["base"]), str(stranger))
    skeleton(str(stranger))
    shell_of(stranger, None, None)
    change(stranger / "config.json", **{key: "eager"})
    if key == "attn_implementation":  # a plain choice stays one
        assert prepare(TrainSettings(**small | {"base": stranger}))[0].config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["BertConfig", "pipeline", "__class__", 3, "AutoModel", "PreTrainedModel"])
def test_an_architecture_is_a_model_s_class(stranger, name):
    change(stranger / "config.json", architectures=[name])
    try:
        assert type(skeleton(str(stranger))).__name__ == "BertModel"
    except UniLoraError as error:
        assert "cannot build a model" in str(error)


def test_data_sets_bring_no_code(stranger, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(stranger / "evil.py", data / "data.py")
    with pytest.raises(UniLoraError, match="scripts are no longer supported"):
        read(str(data))
    (data / "data.py").unlink()
    (data / "a.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    (data / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.pkl\n---\n")
    with pytest.raises(UniLoraError, match="data set that can be loaded here"):
        read(str(data))


def test_every_load_is_told():
    """Each use of from_pretrained and from_config in the packages hands NO_CODE or WEIGHTS over."""
    uses = 0
    for path in (file for package in ("backends", "export", "unilora_spec") for file in (ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text if "from_" in text else "")
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config"):
                around = [call for call in calls if node is call.func or node in call.args]
                told = [word.value.id for call in around for word in call.keywords if word.arg is None]
                assert set(told) & {"NO_CODE", "WEIGHTS"}, f"{path}:{node.lineno}"
                uses += 1
    assert uses >= 8
    ours, theirs = (
        Path(module.__file__).read_bytes()
        for module in (backends.torch.training.strangers, export.torch_base.strangers)
    )
    assert ours == theirs  # the two packages do not know each other
    assert backends.torch.training.strangers.WEIGHTS == {"trust_remote_code": False, "use_safetensors": True}


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "adapter_config.json", "vocab.txt"]
)
def test_a_pipe_is_not_waited_for(stranger, small, name):  # noqa: F811
    (stranger / name).unlink(missing_ok=True)
    os.mkfifo(stranger / name)
    for load in (
        lambda: prepare(TrainSettings(**small | {"base": stranger})),
        lambda: skeleton(str(stranger)),
        lambda: load_base(adapter_for(small["base"]), str(stranger)),
    ):
        try:
            load()
        except UniLoraError as error:
            assert "\n" not in str(error)


# A base that only a record names


def test_a_base_that_a_record_names(stranger, capsys):
    adapter = adapter_for(stranger)
    load_base(adapter)
    assert f"the adapter names its base: {stranger}\n" in capsys.readouterr().err
    load_base(adapter, str(stranger))
    assert "names its base" not in capsys.readouterr().err
    unknown = replace(adapter, base=replace(adapter.base, name="org/model"))
    with pytest.raises(UniLoraError, match="nothing is fetched because a file names it; give --base"):
        load_base(unknown)


def test_an_id_in_a_record_is_not_looked_up_in_the_cache(base, tmp_path, monkeypatch):  # noqa: F811
    cache = tmp_path / "models--org--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.copytree(base, cache / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    adapter = adapter_for(base)
    with pytest.raises(UniLoraError, match="is no folder here, and nothing is fetched"):
        load_base(replace(adapter, base=replace(adapter.base, name="org/model")))


# Outputs of a training run


def test_outputs_of_training(small, tmp_path):  # noqa: F811
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "checkpoint-1").mkdir()
    (mine / "checkpoint-1" / "model.safetensors").write_text("mine")
    (tmp_path / "link.safetensors").symlink_to(mine / "checkpoint-1" / "model.safetensors")
    assert "is a link" in refusal(**small | {"output": tmp_path / "link.safetensors"})
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe" in refusal(**small | {"output": tmp_path / "pipe"})
    own = tmp_path / "own"
    shutil.copytree(small["base"], own)
    assert "in what --base reads" in refusal(**small | {"base": own, "output": own / "model.safetensors"})
    assert "in what --data reads" in refusal(**small | {"output": small["data"]})
    folder = small["output"].with_suffix(".checkpoints")
    folder.symlink_to(mine)
    for how in ({}, {"overwrite": True}, {"resume": True}):
        assert "is a link" in refusal(**small | how)
    folder.unlink()
    folder.mkdir()
    (folder / "checkpoint-9").symlink_to(mine / "checkpoint-1")
    assert "is a link" in refusal(**small | {"overwrite": True})
    assert (mine / "checkpoint-1" / "model.safetensors").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".partial"]


# Data of an ONNX file


def linear(folder, location=None, name="m.onnx", **more):
    """An adapter and an ONNX file of one product, whose weight is at ``location`` outside of it."""
    W = np.random.default_rng(0).normal(size=(8, 8)).astype("f4")
    stored = numpy_helper.from_array(W, "w.weight")
    if location is not None:
        stored.ClearField("raw_data")
        stored.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            stored.external_data.add(key=key, value=str(value))
    value = [helper.make_tensor_value_info(name, 1, ["n", 8]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w.weight"], ["y"])], "g", value[:1], value[1:], [stored]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(model.SerializeToString())
    layer_map = LayerMap([Segment("w.weight", 8, 8, 2, transposed=True)], alpha=2)
    return Adapter(Projection(D=layer_map.D, d=4, seed=0), layer_map, np.ones(4, "f4")), folder / name, W.tobytes()


def all_commands(adapter, path, tmp_path):
    """The commands that read an ONNX file of others."""
    yield lambda: export_onnx_file(path, adapter, tmp_path / "out.onnx", "reconstruct")
    yield lambda: check_with_file(path, [adapter], path, None, {}, lambda step: None)
    yield lambda: nodes(path)


def test_data_in_hugging_face_s_cache(tmp_path):
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "0123" / "onnx", tmp_path / "models--x" / "blobs"
    adapter, _, W = linear(blobs, "m.onnx_data")
    (blobs / "beef").write_bytes(W)
    snapshot.mkdir(parents=True)
    (snapshot / "m.onnx").symlink_to("../../../blobs/m.onnx")
    (snapshot / "m.onnx_data").symlink_to("../../../blobs/beef")
    x = {"x": np.ones((2, 8), "f4")}
    before = onnxruntime.InferenceSession(snapshot / "m.onnx").run(None, x)[0]
    report = export_onnx_file(snapshot / "m.onnx", adapter, tmp_path / "out.onnx", "reconstruct")
    assert report["comparison"]["within"] and (blobs / "beef").read_bytes() == W
    ((_, delta),) = adapter.delta_weights()
    after = onnxruntime.InferenceSession(tmp_path / "out.onnx").run(None, x)[0]
    assert (
        np.abs(after - before - x["x"] @ delta.reshape(8, 8)).max() < 1e-4
    )  # sums of 8 numbers of size 1 in another order
    assert check_with_file(tmp_path / "out.onnx", [adapter], snapshot / "m.onnx", None, {}, lambda s: None)[
        "comparison"
    ]["within"]
    assert nodes(snapshot / "m.onnx")["count"]


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "ABSOLUTE",
        "link",
        "inner/secret",
        "pipe",
        "/dev/zero",
        "device",
        ".",
        "",
        "none",
        "..",
        "a\\..\\b",
        "C:\\secret",
    ],
)
def test_data_of_elsewhere_are_refused(tmp_path, location):
    folder, secret = tmp_path / "theirs", tmp_path / "secret"
    adapter, path, W = linear(folder, str(secret) if location == "ABSOLUTE" else location)
    secret.write_bytes(W)
    (folder / "link").symlink_to(secret)
    (folder / "inner").symlink_to(tmp_path)
    (folder / "device").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    for command in all_commands(adapter, path, tmp_path):
        with pytest.raises(UniLoraError, match="which is no regular file in the graph's folder") as caught:
            command()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("more", [{"offset": 4}, {"offset": 2**62}, {"length": 2**40}, {"length": 8}, {"offset": -4}])
def test_data_that_are_not_there_are_refused(tmp_path, more):
    """A part of the file, or a pointer of Git LFS in its place."""
    adapter, path, W = linear(tmp_path, "w.data", **more)
    (tmp_path / "w.data").write_bytes(W)
    for command in all_commands(adapter, path, tmp_path):
        with pytest.raises(UniLoraError, match="get the whole file|is no ONNX file|does not load"):
            command()


def test_data_of_a_function_s_constant(tmp_path):
    """They become the graph's when functions are inlined."""
    secret = tmp_path / "secret"
    adapter, path, W = linear(tmp_path / "theirs")
    secret.write_bytes(W)
    model = onnx.load(path)
    stored = TensorProto(name="c", data_type=1, dims=[8, 8], data_location=TensorProto.EXTERNAL)
    stored.external_data.add(key="location", value=str(secret))
    constant = helper.make_node("Constant", [], ["c"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=stored)
    model.functions.append(
        helper.make_function(
            "theirs",
            "F",
            ["a"],
            ["b"],
            [constant, helper.make_node("MatMul", ["a", "c"], ["b"])],
            [helper.make_opsetid("", 18)],
        )
    )
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(helper.make_node("F", ["z"], ["y"], domain="theirs"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UniLoraError, match="which is no regular file in the graph's folder"):
        export_onnx_file(path, adapter, tmp_path / "out.onnx", "reconstruct")
    (tmp_path / "theirs" / "own").write_bytes(W)
    model.functions[0].node[0].attribute[0].t.external_data[0].value = "own"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UniLoraError, match="would replace the data of the base"):
        export_onnx_file(path, adapter, tmp_path / "theirs" / "own", "reconstruct")
    assert export_onnx_file(path, adapter, tmp_path / "out.onnx", "reconstruct")["comparison"]["within"]
    (tmp_path / "theirs" / "own").unlink()
    onnxruntime.InferenceSession(tmp_path / "out.onnx")  # it has the constant in it


def test_an_onnx_file_that_is_a_pipe(tmp_path):
    adapter, _, _ = linear(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    for command in all_commands(adapter, tmp_path / "pipe.onnx", tmp_path):
        with pytest.raises(UniLoraError, match="is a pipe"):
            command()


# Outputs of an export


@pytest.mark.parametrize("kind", ["link", "regular", "twice"])
def test_what_a_replaced_graph_refers_to_stays(tmp_path, kind):
    """A graph of a stranger at the output's place, with data of the form that ours have: a link, or a file that we did not write."""
    adapter, base_file, W = linear(tmp_path / "base")
    mine, theirs = tmp_path / "thesis.txt", tmp_path / "theirs"
    mine.write_bytes(W)
    linear(theirs, "m.onnx.aaaaaaaaaaaa.data")
    data = theirs / "m.onnx.aaaaaaaaaaaa.data"
    if kind == "link":
        data.symlink_to(mine)
    elif kind == "twice":
        os.link(mine, data)
    else:
        data.write_bytes(W)
    export_onnx_file(base_file, adapter, theirs / "m.onnx", "merged")
    assert mine.read_bytes() == data.read_bytes() == W


@pytest.mark.parametrize("beside", ["out.onnx", "out.expander.onnx", "out.onnx_adapter"])
def test_files_of_an_export_take_no_link_s_place(tmp_path, beside):
    adapter, path, _ = linear(tmp_path / "base")
    mine = tmp_path / "thesis.txt"
    mine.write_text("mine")
    (tmp_path / beside).symlink_to(mine)
    with pytest.raises(UniLoraError, match=f"{beside} is a link"):
        export_onnx_file(path, adapter, tmp_path / "out.onnx", "factored")
    assert mine.read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["base", beside, "thesis.txt"]


def test_an_export_does_not_replace_what_it_reads(tmp_path):
    adapter, path, W = linear(tmp_path, "m.data")
    (tmp_path / "m.data").write_bytes(W)
    with pytest.raises(UniLoraError, match="would replace the data of the base"):
        export_onnx_file(path, adapter, tmp_path / "m.data", "merged")
    assert (tmp_path / "m.data").read_bytes() == W


def test_the_command_asks_first(tmp_path):
    from typer.testing import CliRunner

    from export.__main__ import app

    adapter, path, _ = linear(tmp_path / "base")
    file = tmp_path / "a.onnx_adapter"
    save_adapter(adapter, file)
    os.mkfifo(tmp_path / "pipe")
    for output, mode, words in (
        (tmp_path / "pipe", "merged", "is a pipe"), (tmp_path / "a.onnx", "factored", "is the adapter itself"), (".", "merged", "is a folder"),
    ):  # fmt: skip
        call = ["onnx", "--adapter", file, "--base", path, "-o", output, "--mode", mode]
        ended = CliRunner().invoke(app, [*map(str, call)])
        assert isinstance(ended.exception, UniLoraError) and words in str(ended.exception)
    assert file.is_file()
