"""One file in three frameworks: trained in PyTorch and run in JAX, trained in JAX and run in PyTorch and ONNX Runtime, and back."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the JAX backend needs jax: pip install -e .[jax]")
nnx = pytest.importorskip("flax.nnx", reason="the example needs flax: pip install -e .[jax]")
pytest.importorskip("optax", reason="the example needs optax: pip install -e .[jax]")
import jax.numpy as jnp
import torch
from small_models import bert

from backends.jax import from_checkpoint, init, load, merged, plan, save
from backends.torch import attach, load_adapter
from export import export_onnx
from unilora_spec import BaseMismatch, LayerMapError
from unilora_spec import load_adapter as read

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from jax_reviews import Bert, names

IDS = np.random.default_rng(0).integers(1, 50, (3, 7))
SAME = (
    1e-5  # of logits near 1: some hundred roundings of 6e-8 in a layer of width 32, in another order in each framework
)


@pytest.fixture(scope="module")
def base():
    """A tiny BERT of transformers, and its numbers in the tree of the example's."""
    torch.manual_seed(0)
    model = bert()[0].eval()
    graph, state = nnx.split(Bert(model.config.to_dict(), 2, nnx.Rngs(0)))
    numbers = {name: value.numpy() for name, value in model.state_dict().items()}
    return model, graph, state, from_checkpoint(numbers, nnx.to_pure_dict(state), names)


def in_jax(base, params):
    _, graph, state, _ = base
    filled = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(filled, params)
    return nnx.merge(graph, filled)(IDS, np.ones_like(IDS, bool))


def in_torch(model):
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.numpy()


def fresh():
    torch.manual_seed(0)
    return bert()[0].eval()


def test_trained_in_torch_and_run_in_jax(base, tmp_path):
    model = attach(fresh(), 4, 60, 3, ["query", "value"], train_in_full=["classifier"])
    with torch.no_grad():
        model.unilora.theta.add_(0.5)
        model.classifier.bias.add_(0.5)
    model.save_adapter(tmp_path / "vec.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the tree is the base that the file records
        adapter, params = load(tmp_path / "vec.safetensors", base[3], names)
    got = jax.jit(lambda theta, params: in_jax(base, merged(adapter.spec, theta, params)))(adapter.theta, params)
    assert abs(got - in_torch(model)).max() < SAME
    assert abs(got - in_torch(base[0])).max() > 0.1
    saved = save(tmp_path / "back.safetensors", adapter.spec, adapter.theta, params, in_full=["classifier"])
    (again, once) = (read(tmp_path / name) for name in ("back.safetensors", "vec.safetensors"))
    assert (
        saved
        and again.layer_map == once.layer_map
        and again.projection == once.projection
        and again.base.rest == once.base.rest
    )
    assert (
        np.array_equal(again.theta, once.theta)
        and again.base.contents == once.base.contents
        and again.base.structure == once.base.structure
    )
    assert all(np.array_equal(again.saved[name], value) for name, value in once.saved.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trained_in_jax_and_run_in_torch_and_onnx(base, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    params = base[3]
    spec = plan(params, ["query", "value"], 4, 60, 3, names=names)
    names_of = [segment.name for segment in spec.layer_map.segments]
    assert names_of == [f"bert.encoder.layer.0.attention.self.{part}.weight" for part in ("query", "value")]
    trained, labels = {"theta": init(spec), "classifier": params["classifier"]}, jnp.array([0, 1, 1])

    def logits(trained):
        return in_jax(base, merged(spec, trained["theta"], params) | {"classifier": trained["classifier"]})

    def loss(trained):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits(trained)), labels[:, None], 1).mean()

    step = jax.jit(jax.value_and_grad(loss))
    first, _ = step(trained)
    for _ in range(8):
        _, gradient = step(trained)
        trained = jax.tree.map(lambda x, g: x - 0.5 * g, trained, gradient)
    ours = jax.jit(logits)(trained)
    assert step(trained)[0] < first - 0.1  # 0.7 before; it learns three rows
    path = tmp_path / "vec.safetensors"
    save(
        path,
        spec,
        trained["theta"],
        params | {"classifier": trained["classifier"]},
        in_full=["classifier"],
        labels=["bad", "good"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_adapter(fresh(), path)
    assert abs(in_torch(model) - ours).max() < SAME
    inputs = {"input_ids": torch.from_numpy(IDS), "attention_mask": torch.ones(IDS.shape, dtype=torch.int64)}
    export_onnx(fresh(), read(path), inputs, tmp_path / "vec.onnx", "reconstruct")
    session = onnxruntime.InferenceSession(tmp_path / "vec.onnx", providers=["CPUExecutionProvider"])
    wanted = {each.name: inputs[each.name].numpy() for each in session.get_inputs() if each.name in inputs}
    assert abs(session.run(None, wanted)[0] - ours).max() < SAME


def test_what_does_not_fit_is_refused_by_name(base, tmp_path):
    params, path = base[3], tmp_path / "vec.safetensors"
    spec = plan(params, ["query"], 2, 20, names=names)
    save(path, spec, init(spec), params, base="tiny")
    with pytest.raises(BaseMismatch, match="the base has no weight bert.encoder.layer.0.attention.self.query.weight"):
        load(path, {"other": jnp.zeros((2, 2))})
    with pytest.warns(UserWarning, match="the tree's weights are not those of tiny"):
        load(path, jax.tree.map(lambda leaf: leaf + 1, params), names)
    with pytest.raises(LayerMapError, match="in_full names clasifier"):
        save(path, spec, init(spec), params, in_full=["clasifier"])
    with pytest.raises(LayerMapError, match="give those too"):
        save(path, spec, init(spec), in_full=["classifier"])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="theta"):
        save(path, spec, init(spec) * jnp.nan, params)
    assert path.read_bytes() == before
