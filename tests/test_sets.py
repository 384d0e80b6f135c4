"""A graph of the mode "factored", its expander and its adapter belong together: ONNX Runtime and `check` refuse what is mixed."""

import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from linear_graphs import X, linear

from export import export_onnx_file
from export.check import check_with_file
from unilora_spec import LayerMap, Projection, Segment, UniLoraError, WorkFailed

BESIDE = {"expander": "out.expander.onnx", "adapter": "out.onnx_adapter"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """An export, and others that differ in one thing each: {what differs: (its folder, the adapter)}, and the base."""
    folder = tmp_path_factory.mktemp("sets")
    adapter, base = linear(folder)
    adapter.saved.clear()
    layer_map, p = adapter.layer_map, adapter.projection
    others = {
        "nothing": adapter,
        "theta": replace(adapter, theta=adapter.theta * np.float32(2)),
        "seed": replace(adapter, projection=Projection(p.kind, D=p.D, d=p.d, seed=p.seed + 1)),
        "alpha": replace(adapter, layer_map=LayerMap(layer_map.segments, alpha=2 * layer_map.alpha)),
        "scaling": replace(adapter, layer_map=LayerMap(layer_map.segments, alpha=layer_map.alpha, scaling="rslora")),
        "base": replace(adapter, base=adapter.base and replace(adapter.base, contents="0" * 32)),
        "rank": _of_another_rank(adapter),
    }
    assert others["base"].base
    found = {}
    for what, one in others.items():
        (folder / what).mkdir()
        export_onnx_file(base, one, folder / what / "out.onnx", "factored")
        found[what] = folder / what, one
    return found, base


def _of_another_rank(adapter):
    (segment,) = adapter.layer_map.segments
    layer_map = LayerMap([Segment(segment.name, segment.out_features, segment.in_features, segment.rank + 1)], alpha=8)
    return replace(
        adapter,
        layer_map=layer_map,
        projection=Projection(D=layer_map.D, d=adapter.projection.d, seed=adapter.projection.seed),
    )


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run_with(graph, beside):
    """The graph of one folder with the adapter's file of another, and with what the expander of another gives."""
    graph = session(graph / "out.onnx")
    file, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    file.Load(str(beside / BESIDE["adapter"]))
    options.add_active_adapter(file)
    expander = session(beside / BESIDE["expander"])
    names = [value.name for value in expander.get_outputs()]
    yield lambda: graph.run(["y"], {"x": X}, options)
    yield lambda: graph.run(["y"], {"x": X} | dict(zip(names, expander.run(names, {}))))


@pytest.mark.parametrize(
    ("what", "adapter_fits", "expander_fits"),
    [
        ("nothing", True, True), ("theta", True, True), ("seed", True, False), ("alpha", True, False),
        ("scaling", True, False), ("base", False, False), ("rank", True, False),
    ],
)  # fmt: skip
def test_onnx_runtime_runs_what_fits_and_refuses_the_rest(sets, what, adapter_fits, expander_fits):
    """A and s·B of another seed, alpha or rank are data like any other; an expander of others makes something else of a theta."""
    (graph, _), (beside, other) = sets[0]["nothing"], sets[0][what]
    (_, delta) = next(other.delta_weights())
    wanted = session(graph / "out.onnx").run(["y"], {"x": X})[0] + X @ delta.T
    for fits, running in zip((adapter_fits, expander_fits), run_with(graph, beside)):
        if fits:
            assert np.allclose(
                running()[0], wanted, rtol=0, atol=1e-5
            )  # sums of 8 products of order 1, in another order
        else:
            with pytest.raises(Exception, match="Invalid input name: unilora"):
                running()


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("what", ["theta", "seed", "alpha", "base"])
def test_check_refuses_a_mixed_set(sets, tmp_path, what, beside):
    (graph, adapter), (other, _), base = sets[0]["nothing"], sets[0][what], sets[1]
    shutil.copytree(graph, tmp_path, dirs_exist_ok=True)

    def checked():
        return check_with_file(tmp_path / "out.onnx", [adapter], base, None, {}, lambda step: None)

    assert checked()["comparison"]["within"]
    shutil.copy(other / BESIDE[beside], tmp_path)
    with pytest.raises(
        UniLoraError, match=f"{BESIDE[beside]} is another adapter's than .*out.onnx beside it; export them again"
    ):
        checked()
    (tmp_path / BESIDE[beside]).write_bytes((other / BESIDE[beside]).read_bytes()[:100])
    with pytest.raises(UniLoraError, match=BESIDE[beside]):
        checked()
    (tmp_path / BESIDE[beside]).unlink()
    assert checked()["comparison"]["within"]  # a graph may go its way alone


def test_a_full_disk_is_told_by_its_name(sets, tmp_path, monkeypatch):
    """ONNX Runtime writes its adapters itself, and raises what it likes."""

    class Full:
        def __getattr__(self, name):
            def refuse(*_):
                if name == "export_adapter":
                    raise RuntimeError("/their/source.cc:151 Failed to write")

            return refuse

    monkeypatch.setattr(onnxruntime, "AdapterFormat", Full)
    (_, adapter), base = sets[0]["nothing"], sets[1]
    with pytest.raises(
        WorkFailed, match="could not be written: ONNX Runtime could not write out.onnx_adapter; the disk may be full"
    ):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", "factored")
    assert not [*tmp_path.iterdir()]
