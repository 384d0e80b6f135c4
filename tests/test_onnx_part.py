"""The part of a graph that an output needs: the same nodes as onnx's own extraction, the same numbers, and no weight twice."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import onnxruntime
import pytest
from bag_of_words import adapter_for, write_graph
from onnx import numpy_helper, parser

from backends.onnx import StepGraph
from backends.onnx.part import part_for
from backends.runs.state import State
from unilora_spec import UniLoraError, WorkFailed, save_adapter

BATCH = {
    "input_ids": np.arange(12).reshape(3, 4),
    "attention_mask": np.ones((3, 4), np.int64),
    "labels": np.array([0, 1, 1]),
}
BRANCHES = """
<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
g (float[n, 64] x, bool which, float[n] unused) => (float[n, 64] y, float[n, 64] z)
{
  bias = Relu (offset)
  y = If (which) <
    then_branch = one () => (float[n, 64] a) { w = MatMul (x, weight)  a = Add (w, bias) },
    else_branch = two () => (float[n, 64] b) { b = own.Twice (x) }
  >
  z = MatMul (x, other)
}
<domain: "own", opset_import: ["" : 20]>
Twice (i) => (o) { o = Add (i, i) }
"""


@pytest.fixture
def branches(tmp_path):
    """A graph in whose branches values of the outer graph are used; of its weights two are large, and ``y`` needs one of them."""
    model, numbers = parser.parse_model(BRANCHES), np.random.default_rng(0)
    sizes = {"weight": (64, 64), "other": (64, 64), "offset": (64,)}
    for name, size in sizes.items():
        model.graph.initializer.append(numpy_helper.from_array(numbers.normal(size=size).astype(np.float32), name))
    onnx.save(model, tmp_path / "branches.onnx")
    return tmp_path / "branches.onnx"


def test_it_has_what_the_output_needs_and_large_weights_stay_in_the_file(branches):
    part = part_for(branches, "y")
    model = onnx.load_from_string(part)
    assert [node.op_type for node in model.graph.node] == ["Relu", "If"] and [o.name for o in model.graph.output] == [
        "y"
    ]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    assert set(tensors) == {"weight", "offset"} and tensors["offset"].HasField("raw_data")
    assert not tensors["weight"].HasField("raw_data") and len(part) < 2000 < branches.stat().st_size
    onnx.load_external_data_for_model(model, str(branches.parent))
    whole = onnx.load(branches)
    assert np.array_equal(*(numpy_helper.to_array(each.graph.initializer[0]) for each in (model, whole)))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(branches.parent))
    mine, theirs = (onnxruntime.InferenceSession(each, options) for each in (part, branches))
    for which in (True, False):
        feed = {"x": np.ones((2, 64), np.float32), "which": np.array(which), "unused": np.zeros(2, np.float32)}
        assert np.array_equal(mine.run(["y"], feed)[0], theirs.run(["y"], feed)[0])


def test_it_is_what_onnx_extracts(tmp_path):
    path = tmp_path / "step.onnx"
    write_graph(path, adapter_for(20, "base"))
    model = onnx.load(path)
    inputs = [each.name for each in model.graph.input]
    theirs = onnx.utils.Extractor(model).extract_model(inputs, ["logits"])
    mine = onnx.load_from_string(part_for(path, "logits"))
    assert list(mine.graph.node) == list(theirs.graph.node) and len(mine.graph.node) < len(model.graph.node) / 2 + 2
    assert list(mine.graph.input) == list(model.graph.input) and list(mine.metadata_props) == list(model.metadata_props)


def test_the_logits_are_the_step_s_and_no_step_is_loaded_for_them(tmp_path):
    adapter, path = adapter_for(20, "base"), tmp_path / "there" / "step.onnx"
    path.parent.mkdir()
    save_adapter(adapter, path.with_suffix(".safetensors"))
    write_graph(path, adapter)
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    state = State.of(adapter)
    for each in (path, link):
        forward, both = StepGraph(each, adapter, path, learn=False), StepGraph(each, adapter, path)
        logits = both.logits(BATCH, state)
        feed = BATCH | {name.removeprefix("saved."): value for name, value in state.values.items()}
        # Other nodes may be fused where others are left: sums of four numbers, rounded at 6e-8 of them.
        (wanted,) = onnxruntime.InferenceSession(path).run(["logits"], feed)
        np.testing.assert_allclose(logits, wanted, rtol=1e-6, atol=1e-7)
        assert np.array_equal(logits, forward.logits(BATCH, state)) and forward.inputs == both.inputs
        assert both.step(BATCH, state).gradients.keys() == state.values.keys()


def test_a_file_that_changes_between_the_two_halves_is_refused(tmp_path):
    adapter, path = adapter_for(20, "base"), tmp_path / "step.onnx"
    write_graph(path, adapter)
    graph = StepGraph(path, adapter, path)
    write_graph(path, adapter, note="another")
    with pytest.raises(WorkFailed, match="has changed since it was opened"):
        graph.logits(BATCH, State.of(adapter))


def test_what_is_damaged_is_refused(tmp_path, branches):
    data, path = branches.read_bytes(), tmp_path / "damaged.onnx"
    for size in range(0, len(data), 89):
        path.write_bytes(data[:size])
        with pytest.raises(UniLoraError, match="is no ONNX file, or a damaged one|has no output 'y'"):
            part_for(path, "y")
    for garbage in (b"\x3b", b"\x38\x01", b"\xff" * 30, b"\x3a\x02\x0b\x00", b"\x3a\xff\xff\xff\xff\x0f"):
        path.write_bytes(garbage)
        with pytest.raises(UniLoraError, match="is no ONNX file, or a damaged one"):
            part_for(path, "y")
    with pytest.raises(UniLoraError, match="has no output 'w', which a step needs"):
        part_for(branches, "w")


FOLDED = """
import sys
from pathlib import Path

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

import onnxruntime
from backends.onnx.graph import opened

before = peak()
opened(Path(sys.argv[1]), 1, Path(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_small_graph_asks_for_when_it_is_loaded_is_not_computed(tmp_path):
    """400 MB of a constant in a file of 200 bytes, which ONNX Runtime folds by default; a session by itself takes 9 MiB."""
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y)'
        " { s = Constant <value = int64[1] {104857600}> ()  z = ConstantOfShape (s)  m = ReduceMean <keepdims = 0> (z)  y = Add (x, m) }"
    )
    onnx.save(model, tmp_path / "g.onnx")
    call = [sys.executable, "-c", FOLDED, tmp_path / "g.onnx"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    assert int(done.stdout) < 100 * 2**20
