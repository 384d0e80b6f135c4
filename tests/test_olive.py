"""LoRA adapters in ONNX Runtime's format, to and from Olive's `convert-adapters`: the same names, shapes and numbers."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from adapters import adapter_of
from exports import session_of
from linear_graphs import X, linear
from onnx_bases import llama, write

from export import export_onnx_file
from export.folders.lora import export_lora
from export.graph.expander import write_adapter
from export.onnx_base.feeds import feeds_for
from export.onnx_base.from_file import read
from unilora_spec import save_adapter

peft = pytest.importorskip("peft")


def converted(folder):
    """What Olive 0.13 makes of a LoRA in PEFT's folder, by name: olive/cli/convert_adapters.py says it in these lines."""
    config = peft.LoraConfig.from_pretrained(folder)
    scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    found = {}
    for name, value in peft.load_peft_weights(folder, device="cpu").items():
        value = value.numpy().transpose().copy()
        found[name.replace("base_model.model.model", "model")] = (
            value * np.float32(scaling) if "lora_B" in name else value
        )
    return found


def stored(path):
    file = onnxruntime.AdapterFormat.read_adapter(str(path))  # the values are views of it, which do not keep it
    return {name: value.numpy().copy() for name, value in file.get_parameters().items()}


def written(path, arrays):
    file = onnxruntime.AdapterFormat()
    file.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in arrays.items()})
    file.export_adapter(str(path))
    return path


def run(session, feed, adapter=None, output="logits"):
    options = onnxruntime.RunOptions()
    if adapter:
        file = onnxruntime.LoraAdapter()
        file.Load(str(adapter))
        options.add_active_adapter(file)
    return session.run([output], feed, options)[0]


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_an_adapter_is_written_as_olive_writes_it(tmp_path, scaling):
    model, segments, _ = llama()
    model.save_pretrained(tmp_path / "base")
    adapter = adapter_of(model, segments, tmp_path / "base", scaling=scaling)
    save_adapter(adapter, tmp_path / "a.safetensors")
    export_lora(tmp_path / "a.safetensors", tmp_path / "lora")
    write_adapter(adapter, "factored", tmp_path / "a.onnx_adapter", marked=False)
    ours, theirs = stored(tmp_path / "a.onnx_adapter"), converted(tmp_path / "lora")
    assert "model.layers.0.self_attn.q_proj.lora_A.weight" in ours and ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert value.shape == ours[name].shape and np.allclose(
            value, ours[name], rtol=1e-6, atol=0
        )  # s is rounded in another place


@pytest.mark.parametrize("options", [{"r": 1, "lora_alpha": 3}, {"r": 8, "lora_alpha": 5, "use_rslora": True}])
def test_a_graph_runs_what_olive_writes(tmp_path, options):
    """A LoRA that PEFT made, of another rank, alpha and scaling than the adapter that the graph was made with."""
    model, segments, _ = llama()
    base = write(model, tmp_path / "base.onnx")
    export_onnx_file(base, adapter_of(model, segments, "base"), tmp_path / "m.onnx", "factored")
    modules = [segment.name.removesuffix(".weight") for segment in segments]
    config = peft.LoraConfig(target_modules=modules, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    lora = peft.get_peft_model(copy.deepcopy(model), config).eval()
    lora.save_pretrained(tmp_path / "lora")
    file = written(tmp_path / "theirs.onnx_adapter", converted(tmp_path / "lora"))
    feed, session = feeds_for(read(base))[0], session_of(tmp_path / "m.onnx")
    with torch.no_grad():
        said, plain = (
            each(**{k: torch.from_numpy(np.asarray(v)) for k, v in feed.items()}).logits.numpy()
            for each in (lora, model)
        )
    assert np.abs(said - plain).max() > 0.1
    # Float32 sums in other orders, of logits up to 20, where the last bit is 1.9e-6.
    assert np.allclose(run(session, feed, file), said, rtol=0, atol=2e-5)
    assert np.allclose(run(session, feed), plain, rtol=0, atol=2e-5)


def test_a_graph_of_others_takes_a_file_without_a_mark(tmp_path):
    """A graph that has no inputs but A and B refuses the mark: what it belongs to is nothing that it knows."""
    adapter, base = linear(tmp_path)
    export_onnx_file(base, adapter, tmp_path / "marked.onnx", "factored")
    export_onnx_file(base, adapter, tmp_path / "out.onnx", "factored", marked=False)
    marked, unmarked = (stored(tmp_path / f"{name}.onnx_adapter") for name in ("marked", "out"))
    assert marked.keys() - unmarked.keys() == {name for name in marked if name.startswith("unilora.fits.")} != set()
    session = session_of(tmp_path / "out.onnx")
    wanted = run(session, {"x": X}, tmp_path / "marked.onnx_adapter", "y")
    assert np.array_equal(run(session, {"x": X}, tmp_path / "out.onnx_adapter", "y"), wanted)
    assert not np.allclose(run(session, {"x": X}, output="y"), wanted)
