"""What a stranger has put beside a base, a training run or an export is neither read nor waited for."""

import os
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from runs import base, refusal, reviews, small  # noqa: F401  fixtures
from strange_bases import yes  # noqa: F401  fixtures

from export.check import check_with_file
from export.kernels.nodes import nodes
from export.onnx_base.from_file import export_onnx_file
from unilora_spec import LayerMap, Projection, Segment, UniLoraError, save_adapter
from unilora_spec.adapter import Adapter

# Outputs of a training run


def test_outputs_of_training(small, tmp_path):
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
