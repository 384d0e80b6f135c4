"""SPEC chapter 6: scale, expansion, adjoint and the initial vector."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance_tests.oracle import arithmetic
from conformance_tests.oracle.family import of
from conformance_tests.oracle.kinds import LAYERED
from conformance_tests.rules import GATHERS, check
from conformance_tests.strategies import few, floats, projections, slices, small_sizes, vectors

OTHER_STARTS = ("identity", *(kind for kind, module in LAYERED.items() if hasattr(module, "start")))


@check("6.1", needs="scale")
@given(projections("balanced"), st.data())
def test_scale(judge, p, data):
    """scale_j = float32(1 / √n_j): root and quotient in float64, one rounding to float32."""
    start, stop = data.draw(slices(p["d"]))
    expected = [arithmetic.scale(arithmetic.count(*of(p), j)) for j in range(start, stop)]
    judge.gives({"scale": expected}, "scale", projection=p, start=start, stop=stop)


@check("6.1", needs="scale")
@given(st.integers(1, 2**31) | st.integers(1, 2000))
def test_scale_of_one_column(judge, D):
    """With d = 1, n_0 = D: every count up to 2^31 may come."""
    p = {"kind": "balanced", "seed": "0", "d": 1, "D": D}
    judge.gives({"scale": [arithmetic.scale(D)]}, "scale", projection=p, start=0, stop=1)


@check("6.2", needs="expand")
@pytest.mark.parametrize("kind", GATHERS)
@few()
@given(data=st.data())
def test_expand(judge, kind, data):
    """θ_D = Pθ by its bits, denormals, signed zeros and the largest numbers among them."""
    p = data.draw(projections(kind, small_sizes))
    theta = data.draw(vectors(p["d"]))
    judge.gives(
        {"theta_D": arithmetic.expand(*of(p), theta)}, "expand", projection=p, theta=theta, start=0, stop=p["D"]
    )


@check("6.2", "9.3", needs="expand")
@pytest.mark.parametrize("kind", GATHERS)
@few()
@given(data=st.data())
def test_slice_of_expand(judge, kind, data):
    """Any slice of θ_D without the rest; of `balanced` also where D is too large to be expanded."""
    p = data.draw(projections(kind, **({"largest_d": 500} if kind == "balanced" else {"sizes": small_sizes})))
    theta, (start, stop) = data.draw(vectors(p["d"])), data.draw(slices(p["D"]))
    expected = arithmetic.expand(*of(p), theta, start, stop)
    judge.gives({"theta_D": expected}, "expand", projection=p, theta=theta, start=start, stop=stop)


@check("6.3", needs="adjoint")
@pytest.mark.parametrize("kind", GATHERS)
@few()
@given(data=st.data())
def test_adjoint(judge, kind, data):
    """Pᵀg within n_j · 2^-23 · scale_j · Σ|g_i| + 2^-149: twice what n_j roundings to float32 can lose."""
    p = data.draw(projections(kind, small_sizes))
    start, stop = data.draw(st.just((0, p["D"])) | slices(p["D"], 300))
    g = data.draw(vectors(stop - start, floats.filter(lambda x: abs(x) < 2.0**118)))  # 300 of them are below 2^127
    fields = {"projection": p, "g": g, "start": start, "stop": stop}
    theta = judge.array("theta", p["d"], "adjoint", **fields)
    exact, bound = arithmetic.adjoint(*of(p), g.tolist(), start)
    judge.within("theta", theta, exact, bound, "adjoint", fields)


@check("6.4", needs="initial")
@pytest.mark.parametrize("kind", [kind for kind in GATHERS if kind not in OTHER_STARTS])
@few()
@given(data=st.data())
def test_initial(judge, kind, data):
    """θ_j = float32((2u − 1) · bound), the product in float64."""
    p = data.draw(projections(kind, largest_d=300))
    bound = data.draw(st.sampled_from([0.02, 1, 0.5, 1e-3, 0]) | st.floats(1e-6, 10))
    expected = [arithmetic.f32(arithmetic.start(int(p["seed"]), j) * bound) for j in range(p["d"])]
    judge.gives({"theta": expected}, "initial", projection=p, bound=bound)
