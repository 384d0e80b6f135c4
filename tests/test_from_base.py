"""The kinds that begin with the base's weights, `xs`, `qr` and `tiny`: their matrices by another way, and where they come from (SPEC
11.9, 11.10, 11.16)."""

import copy

import numpy as np
import pytest
import transformers as T

torch = pytest.importorskip("torch")

from torch import nn

import unilora_spec
from backends.settings import AdapterSettings
from backends.torch import attach, load_adapter
from backends.torch.planning import planned
from unilora_spec import Adapter, LayerMap, LayerMapError, LimitError, Projection, Segment
from unilora_spec.from_base import FromBase, singular_vectors

each_kind = pytest.mark.parametrize("kind", ["xs", "qr", "tiny"])
SEGMENTS = [
    Segment("linear", 12, 9, 3),
    Segment("conv1d", 7, 10, 4, transposed=True),
    Segment("convolution", 5, 8, 2),
    Segment("qkv", 6, 9, 2, row=2),
    *(Segment("experts", 5, 6, 2, transposed=True, row=1, index=i) for i in (2, 0)),
    Segment("qkv", 4, 9, 3, row=8),
]
SHAPES = {"linear": (12, 9), "conv1d": (10, 7), "convolution": (5, 2, 4), "qkv": (13, 9), "experts": (3, 6, 8)}
LAYERS = LayerMap(SEGMENTS, alpha=3, scaling="rslora")


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def matrices(of):
    """What each of SEGMENTS adapts, (out, in), cut out by hand."""
    yield of["linear"]
    yield of["conv1d"].T
    yield of["convolution"].reshape(5, 8)
    yield of["qkv"][2:8]
    yield of["experts"][2][:, 1:6].T
    yield of["experts"][0][:, 1:6].T
    yield of["qkv"][8:12]


def signed_svd(W, rank):
    """By LAPACK's SVD, whose signs are put as SPEC 11.9 says, one column at a time."""
    U, S, Vt = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    for k in range(rank):
        first = next(x for x in U[:, k] if abs(x) >= 0.75 * max(abs(U[:, k])))
        if first < 0:
            U[:, k], Vt[k] = -U[:, k], -Vt[k]
    return U[:, :rank], S[:rank], Vt[:rank]


def agree(got, expected):
    """The same float32 numbers. Two computations in float64 differ by some 1e-15 here, so that about one number in 10^7 is on the other
    side of a half and has another last bit; a float32 computation would change half of them."""
    assert np.mean(got == expected.astype(np.float32)) > 0.95
    assert np.allclose(got, expected, rtol=2.0**-22, atol=1e-9)


def test_xs_is_the_published_implementation():
    """Of Wᵀ = U Σ Vᵀ it takes U_r Σ_r for the input's side and V_r for the output's, with a linear layer of weight R between."""
    of = weights()
    p = Projection.of(LAYERS, "xs", seed=5, read=of.get)
    theta = np.random.default_rng(1).standard_normal(p.d).astype(np.float32)
    at = 0
    for (s, delta), W in zip(Adapter(p, LAYERS, theta).delta_weights(), matrices(of), strict=True):
        R = theta[at : at + s.rank**2].reshape(s.rank, s.rank)
        at += s.rank**2
        V, S, Ut = signed_svd(W, s.rank)  # of W = V Σ Uᵀ
        encoder, decoder = Ut.T * S, V.T
        F, G = p.frozen_matrices(SEGMENTS.index(s), s)
        agree(F.array, encoder.T)
        agree(G.array, decoder.T)
        expected = np.zeros((s.out_features, s.in_features))
        for x in range(s.in_features):
            for y in range(s.out_features):
                expected[y, x] = sum(
                    encoder[x, i] * R[k, i] * decoder[k, y] for i in range(s.rank) for k in range(s.rank)
                )
        # The sums of some ten products near 10 in float32.
        assert np.allclose(delta, 3 / np.sqrt(s.rank) * expected, rtol=1e-5, atol=1e-5)
    assert at == p.d


def test_qr_is_the_published_implementation():
    of = weights()
    p = Projection.of(LAYERS, "qr", seed=5, read=of.get)
    for number, (s, W) in enumerate(zip(SEGMENTS, matrices(of), strict=True)):
        U, S, Vt = np.linalg.svd(W.astype(np.float64), full_matrices=False)
        Q, R = np.linalg.qr((U[:, : s.rank] * S[: s.rank]) @ Vt[: s.rank])
        expected = Q[:, : s.rank] * np.sign(np.diag(R))[: s.rank]
        agree(p.factors(number, s)[1].array, expected)
    theta = np.random.default_rng(1).standard_normal(p.d).astype(np.float32)
    A = [A for _, A, _ in Adapter(p, LAYERS, theta).factors()]
    assert np.array_equal(np.concatenate([each.ravel() for each in A]), theta)


@each_kind
def test_other_last_bits_and_another_order_of_columns_change_nothing(kind):
    """As another LAPACK would: the numbers agree to float32, with the same signs, and columns of W move those of A alone."""
    of, layer_map = weights(), LayerMap(SEGMENTS[:1])
    frozen = Projection.of(layer_map, kind, read=of.get).tensors["frozen"]
    noise = np.random.default_rng(2).standard_normal(SHAPES["linear"])
    other = Projection.of(layer_map, kind, read=lambda name: of[name] * (1 + noise * 2.0**-50)).tensors["frozen"]
    agree(frozen, other)
    turned = Projection.of(layer_map, kind, read=lambda name: of[name][:, ::-1]).tensors["frozen"]
    if kind != "qr":
        F, moved = frozen[:27].reshape(3, 9), turned[:27].reshape(3, 9)
        agree(F, moved[:, ::-1])
        agree(frozen[27:], turned[27:])
    else:  # the basis begins with another column, and spans the same
        Q, moved = frozen.reshape(12, 3), turned.reshape(12, 3)
        # Sums of three products below 1, of numbers rounded to float32.
        assert abs(Q - moved).max() > 0.1 and np.allclose(Q @ Q.T, moved @ moved.T, rtol=0, atol=1e-6)


def test_signs_of_entries_that_are_equal_but_for_their_last_bits():
    """Whichever of the two is larger by an ulp, the first one is positive."""
    for larger in (0, 1):
        u = np.array([-1.0, 1.0, 0.5])
        u[larger] *= 1 + 2.0**-40
        U, _, Vt = singular_vectors(np.outer(u, [2.0, 1.0]), 1)
        assert np.allclose(U[:, 0] * 1.5, [1, -1, -0.5]) and (Vt < 0).all()


def test_equal_singular_values_and_all_of_them():
    """Any orthonormal columns are right, and W is what they give back."""
    rng = np.random.default_rng(3)
    for W in (2 * np.eye(6), np.diag([3.0, 1, 3, 1]), np.ones((4, 5)) + np.eye(4, 5), rng.standard_normal((30, 8))):
        U, S, Vt = singular_vectors(W, min(W.shape))
        assert np.allclose((U * S) @ Vt, W, rtol=0, atol=1e-14 * 8)  # eight products of numbers up to 3 in float64
        assert np.allclose(U.T @ U, np.eye(len(S)), atol=1e-14) and np.allclose(Vt @ Vt.T, np.eye(len(S)), atol=1e-14)
        assert (np.diff(S) <= 1e-14).all()


def test_small_singular_values_beside_large_ones():
    """W is made of its vectors. LAPACK finds them to some 10⁻¹³, as W has them by then; its Gram matrix would to 10⁻⁹."""
    rng = np.random.default_rng(4)
    left, right = (np.linalg.qr(rng.standard_normal((40, 40)))[0] for _ in range(2))
    U, S, Vt = singular_vectors((left * np.geomspace(1, 1e-5, 40)) @ right, 32)
    signs = np.sign(U * left[:, :32]).sum(axis=0).clip(-1, 1)
    assert np.allclose(U * signs, left[:, :32], rtol=0, atol=1e-11)
    assert np.allclose(Vt * signs[:, None], right[:32], rtol=0, atol=1e-11)
    assert np.allclose(S, np.geomspace(1, 1e-5, 40)[:32], rtol=1e-10, atol=0)


@each_kind
def test_each_weight_is_read_once(kind):
    of, read, told = weights(), [], []
    Projection.of(LAYERS, kind, read=lambda name: read.append(name) or of[name])
    assert sorted(read) == sorted(SHAPES)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
    attach(model, 2, targets=["0", "1"], kind=kind, progress=lambda *done: told.append(done))
    assert told == [(0, 2), (1, 2), (2, 2)]


@each_kind
def test_a_file_needs_no_base(kind, tmp_path, monkeypatch):
    """Loaded and merged, also into another base, the adapter has the matrices of its own: nothing is decomposed again."""
    torch.manual_seed(0)
    base, other = (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)) for _ in range(2))
    model = attach(copy.deepcopy(base), 3, targets=["0", "2"], kind=kind, seed=4)
    with torch.no_grad():
        model.unilora.theta.normal_()
    size = model.save_adapter(tmp_path / "first")
    again = attach(copy.deepcopy(base), 3, targets=["0", "2"], kind=kind, seed=4)
    with torch.no_grad():
        again.unilora.theta.copy_(model.unilora.theta)
    again.save_adapter(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    p = model.unilora.projection
    assert size > 4 * (p.d + len(p.tensors["frozen"]))

    def fail(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(FromBase, "of_base", fail)
    monkeypatch.setattr(np.linalg, "eigh", fail)
    adapter = unilora_spec.load_adapter(tmp_path / "first")
    assert adapter.projection == p
    deltas = {segment.name: delta for segment, delta in adapter.delta_weights()}
    with pytest.warns(UserWarning, match="weights are not those"):
        merged = load_adapter(copy.deepcopy(other), tmp_path / "first").merge()
    for name, delta in deltas.items():
        difference = (merged.get_parameter(name) - other.get_parameter(name)).detach().numpy()
        assert np.allclose(
            difference, delta, rtol=0, atol=1e-5
        )  # float32 sums of numbers near 1 to 10, and one taken off again


@each_kind
@pytest.mark.parametrize(
    ("weight", "rank", "message"),
    [
        (np.zeros((5, 4)), 1, "w has a matrix of 5 × 4 (out × in), whose own rank is at most 0"),
        (np.outer(np.arange(5), [0.1, 0.7, 0.3, 0.9]).astype(np.float32), 2, "whose own rank is at most 1"),
        (np.full((5, 4), np.nan), 1, "w holds NaN or infinity"),
        (np.full((5, 4), np.inf), 1, "w holds NaN or infinity"),
    ],
)
def test_weights_without_so_many_singular_vectors_are_refused(kind, weight, rank, message):
    rule = {"xs": "11.9", "qr": "11.10", "tiny": "11.16"}[kind]
    with pytest.raises(LayerMapError, match=message.replace("(", r"\(").replace(")", r"\)")) as refusal:
        Projection.of(LayerMap([Segment("w", 5, 4, rank)]), kind, read={"w": weight}.get)
    assert refusal.value.rule == rule


@each_kind
def test_a_model_without_values_is_refused(kind):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(LayerMapError, match="on the meta device and has no values"):
        attach(model, 2, targets="0", kind=kind)
    assert not hasattr(model, "unilora")


@each_kind
def test_frozen_numbers_of_another_length(kind):
    p = Projection.of(LAYERS, kind, read=weights().get)
    for other in (p.tensors["frozen"][1:], p.tensors["frozen"][None]):
        with pytest.raises(LimitError, match=r"frozen has shape \[.*\]; it must be \["):
            Projection(kind, D=p.D, d=p.d, seed=0, layer_map=LAYERS, tensors={"frozen": other}, **p.options)


@each_kind
def test_planned_without_weights(kind, tmp_path):
    """The file is as long as said before there were any, and holds nothing in memory for it."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    T.BertModel(T.BertConfig(**sizes, vocab_size=50, max_position_embeddings=32)).save_pretrained(tmp_path)
    model = T.BertModel.from_pretrained(tmp_path)
    attach(model, rank=4, seed=3, targets=["query", "output.dense"], kind=kind)
    settings = AdapterSettings(base=str(tmp_path), targets="query,output.dense", rank=4, seed=3, kind=kind)
    said, p = planned(settings), model.unilora.projection
    assert said["d"] == p.d and "P" not in said["bytes"]
    assert said["bytes"]["frozen"] == p.tensors["frozen"].nbytes
    assert said["bytes"]["file"] == model.save_adapter(tmp_path / "vec.safetensors")
