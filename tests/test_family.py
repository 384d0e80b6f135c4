"""Every kind of the specification, through every package: a new one is tested here as soon as its file is there."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from adapters import OPTIONS, projection_for
from torch import nn

import unilora_spec
from backends.torch import attach, load_adapter
from backends.torch.adapter.theta.expansion import storage_of
from export.conformance import expanded
from unilora_spec import KindError, LimitError, Projection
from unilora_spec.gather import Gather
from unilora_spec.program import Program
from unilora_spec.projection import KINDS

ROOT = Path(__file__).parents[1]
every_kind = pytest.mark.parametrize("kind", KINDS)
programs = pytest.mark.parametrize("kind", [kind for kind, of_kind in KINDS.items() if issubclass(of_kind, Program)])


def drawn(p, seed=0):
    """θ and a gradient of θ_D, of numbers near 1."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(p.d).astype(np.float32), rng.standard_normal(p.D).astype(np.float32)


def agree(p, got, expected):
    """The same bits, or, where a kind multiplies matrices, sums of a few products of numbers near 1, in another order."""
    if isinstance(p, Gather) or p.exact:
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))
    else:
        assert np.allclose(got, expected, rtol=0, atol=1e-5)


@every_kind
def test_torch_and_its_gradient(kind):
    p = projection_for(kind)
    theta, g = drawn(p)
    trained = torch.tensor(theta, requires_grad=True)
    theta_D = storage_of(p, "cpu").expand(trained)
    agree(p, theta_D.detach().numpy(), p.expand(theta))
    theta_D.backward(torch.from_numpy(g))
    # Float32 sums of up to D products of numbers near 1, against float64 ones.
    assert np.allclose(trained.grad.numpy(), p.adjoint(g, 0, theta), rtol=1e-4, atol=1e-4)


@every_kind
def test_onnx(kind):
    p = projection_for(kind)
    theta, _ = drawn(p)
    agree(p, expanded(p, theta, 0, p.D), p.expand(theta))


@every_kind
def test_slices_and_copies(kind):
    p = projection_for(kind)
    theta, g = drawn(p)
    whole = p.expand(theta)
    for start, stop in ((0, 1), (7, 50), (p.D - 9, p.D), (5, 5)):
        assert np.array_equal(p.expand(theta, start, stop), whole[start:stop])
    parts = p.adjoint(g[:50], 0, theta).astype(np.float64) + p.adjoint(g[50:], 50, theta)
    assert np.allclose(parts, p.adjoint(g, 0, theta), rtol=1e-5, atol=1e-6)  # a rounding of each sum to float32
    for twin in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert twin == p and hash(twin) == hash(p) and np.array_equal(twin.expand(theta), whole)


@programs
def test_adjoint_is_the_transposed_jacobian(kind):
    """Against differences of a function that is linear in each number of θ by itself: no step is too large for it."""
    p = projection_for(kind)
    theta, g = drawn(p)
    exact = p.adjoint(g, 0, theta)
    for j in {0, 1, p.d // 2, p.d - 1}:
        further = theta.copy()
        further[j] += 1
        change = p.expand(further).astype(np.float64) - p.expand(theta)
        assert abs(change @ g - exact[j]) < 1e-5 * (1 + np.abs(change) @ np.abs(g)) + 1e-5 * p.d


@pytest.mark.parametrize("kind", ["dense", "fastfood", pytest.param("vb", marks=pytest.mark.thorough)])
def test_compiled(kind):
    """One graph, whose answers and gradients are the same: of those kinds that have all operations of files between them."""
    p = projection_for(kind)
    theta, g = (torch.from_numpy(each) for each in drawn(p))
    storage, answers = storage_of(p, "cpu"), []
    for expand in (storage.expand, torch.compile(storage.expand, fullgraph=True, backend="aot_eager")):
        trained = theta.clone().requires_grad_()
        theta_D = expand(trained)
        theta_D.backward(g)
        answers.append((theta_D.detach(), trained.grad))
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.allclose(
        answers[0][1], answers[1][1], rtol=1e-5, atol=1e-5
    )  # sums of up to D numbers in another order


@programs
def test_refused(kind):
    p = projection_for(kind)
    given = {"layer_map": p.layer_map, "tensors": p.tensors, **p.options}
    with pytest.raises(LimitError, match="SPEC 1.1" if p.d_is_free else "SPEC 11.1"):
        Projection(kind, D=p.D, d=p.D + 1 if p.d_is_free else p.d + 1, seed=0, **given)
    if p.layered:
        with pytest.raises(LimitError, match="layer map"):
            Projection(kind, D=p.D, d=p.d, seed=0, **given | {"layer_map": None})
    with pytest.raises(KindError, match="no option 'more'"):
        Projection(kind, D=p.D, d=p.d, seed=0, more=1, **given)


@every_kind
def test_trained_saved_loaded_merged(kind, tmp_path):
    """A model that trains with a kind moves; its file, on another model of the same base, gives its outputs."""
    if kind == "table":
        pytest.skip("a table comes with a file, not from training")
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 8))
    x, y = torch.randn(64, 12), torch.randn(64, 8)
    d = {"d": 40} if KINDS[kind].d_is_free else {}
    model = attach(copy.deepcopy(base), rank=2, targets=["0", "2"], kind=kind, seed=3, options=OPTIONS.get(kind), **d)
    optimizer = torch.optim.Adam([model.unilora.theta], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-3
    file = tmp_path / "adapter.safetensors"
    model.save_adapter(file)
    adapter = unilora_spec.load_adapter(file)
    assert adapter.projection.kind == kind
    again = copy.deepcopy(base)
    load_adapter(again, file)
    with torch.no_grad():
        assert torch.allclose(
            again(x), model(x), rtol=0, atol=1e-6
        )  # float32 sums of 12 products near 1, in another order
        assert torch.allclose(again.merge()(x), model(x), rtol=0, atol=1e-5)


HEADINGS = ("Formula", "Trained and stored", "Start", "When to use it", "Options", "Source")


@every_kind
def test_page(kind):
    """Each member of the family has a page, all in the same form, and SPEC.md a rule that names it."""
    page = (ROOT / f"docs/family/{kind}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {kind}: ") and len(page.splitlines()) < 60
    assert re.findall(r"^\*\*([^*]+)\.\*\*", page, re.MULTILINE) == list(HEADINGS)
    assert f"`{kind}`" in (ROOT / "unilora_spec/SPEC.md").read_text(encoding="utf-8")
    assert f"(family/{kind}.md)" in (ROOT / "docs/methods.md").read_text(encoding="utf-8")
