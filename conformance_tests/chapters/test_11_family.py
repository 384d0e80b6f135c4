"""SPEC chapter 11: the kinds that know the layer map, each by the same checks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance_tests.judge import differs
from conformance_tests.oracle import family, files
from conformance_tests.oracle.kinds import LAYERED, PROGRAMS
from conformance_tests.rules import check
from conformance_tests.spelling import canonical
from conformance_tests.strategies import adapters, few, moderate, projections, slices, vectors
from unilora_spec.protocol import field_of


def of_each(kinds, *rules, needs):
    """A mark for each kind: its own rule beside these."""
    return pytest.mark.parametrize(
        "kind", [pytest.param(kind, marks=check(LAYERED[kind].RULE, *rules, needs=needs)) for kind in kinds]
    )


@of_each(PROGRAMS, "6.2", "9.3", "11.2", "11.3", needs="expand")
@few()
@given(data=st.data())
def test_expand(judge, kind, data):
    """All of θ_D, and any slice of it: by its bits, or, where matrices are multiplied, within the roundings of that."""
    p = data.draw(projections(kind))
    start, stop = data.draw(st.just((0, p["D"])) | slices(p["D"]))
    fields = {"projection": p, "theta": data.draw(vectors(p["d"], moderate)), "start": start, "stop": stop}
    exact, bound = family.expand(p, fields["theta"], start, stop)
    got = judge.ask("expand", **fields)["theta_D"]
    if any(bound):
        judge.within("theta_D", got, exact, bound, "expand", fields)
    elif fault := differs("theta_D", got, exact):
        judge.fail(fault, "expand", fields)


@of_each(PROGRAMS, "11.4", needs="adjoint")
@few()
@given(data=st.data())
def test_adjoint(judge, kind, data):
    """The transposed Jacobian at θ, times the gradient of any slice of θ_D."""
    p = data.draw(projections(kind))
    start, stop = data.draw(slices(p["D"]))
    theta, g = data.draw(vectors(p["d"], moderate)), data.draw(vectors(stop - start, moderate))
    fields = {"projection": p, "theta": theta, "g": g, "start": start, "stop": stop}
    got = judge.ask("adjoint", **fields)["theta"]
    judge.within("theta", got, *family.adjoint(p, theta, g, start), "adjoint", fields)


@of_each(PROGRAMS, "11.5", needs="initial")
@few()
@given(data=st.data())
def test_initial(judge, kind, data):
    """What training begins with, range by range; the bound has no use here."""
    p = data.draw(projections(kind))
    expected = LAYERED[kind].start(p, family.segments_of(p))
    judge.gives({"theta": expected}, "initial", projection=p, bound=0.02)


@of_each(
    [kind for kind, module in LAYERED.items() if kind not in PROGRAMS and hasattr(module, "start")], needs="initial"
)
@few()
@given(data=st.data())
def test_initial_of_a_gather(judge, kind, data):
    """What training begins with, where that is not 6.4."""
    p, bound = data.draw(projections(kind)), data.draw(st.sampled_from([0.02, 0.5]))
    expected = LAYERED[kind].start(p, family.segments_of(p), bound)
    judge.gives({"theta": expected}, "initial", projection=p, bound=bound)


@of_each(LAYERED, "1.3", needs="expand adjoint")
@few()
@given(data=st.data())
def test_what_is_outside(judge, kind, data):
    """Rows outside, and vectors of another length, are refused."""
    p = data.draw(projections(kind))
    D, d = p["D"], p["d"]
    theta, g = np.ones(d), np.ones(D)
    cases = [(theta, *rows) for rows in ((0, D + 1), (D + 1, D + 1), (D, D - 1), (-1, 0))]
    cases += [(np.ones(length), 0, D) for length in (d - 1, d + 1, 0)]
    judge.each(
        cases,
        lambda case: judge.refuses("1.3", "expand", projection=p, theta=case[0], start=case[1], stop=case[2]),
    )
    judge.refuses("1.3", "adjoint", projection=p, theta=theta, g=g[1:], start=0, stop=D)
    judge.refuses("1.3", "adjoint", projection=p, theta=theta, g=g, start=1, stop=D + 1)


@of_each(PROGRAMS, "9.3", needs="index members scale")
@few()
@given(data=st.data())
def test_no_index(judge, kind, data):
    """Rows and columns are refused: an entry depends on more than one trained number."""
    p = data.draw(projections(kind))
    judge.each(
        ("index", "members", "scale"), lambda request: judge.refuses("9.3", request, projection=p, start=0, stop=0)
    )


@of_each([kind for kind in LAYERED if kind not in PROGRAMS], needs="index members")
@few()
@given(data=st.data())
def test_index(judge, kind, data):
    """The column of each row, and the rows of each column."""
    p = data.draw(projections(kind))
    index = LAYERED[kind].index(p, family.segments_of(p))
    start, stop = data.draw(slices(p["D"]))
    judge.gives({"index": index[start:stop]}, "index", projection=p, start=start, stop=stop)
    start, stop = data.draw(slices(p["d"]))
    columns = [[i for i, column in enumerate(index) if column == j] for j in range(start, stop)]
    expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
    judge.gives(expected, "members", projection=p, start=start, stop=stop)


@of_each([kind for kind, module in LAYERED.items() if module.OPTIONS], "8.6", "11.1", needs="write read")
@few()
@given(data=st.data())
def test_options(judge, kind, data):
    """A kind's own numbers are in the file, all of them and no others, and not below their least."""
    judge.needs_kind(kind)
    description, tensors = data.draw(adapters([kind]))
    judge.gives({"file": canonical(description, tensors)}, "write", description=description, tensors=tensors)
    name = data.draw(st.sampled_from(list(LAYERED[kind].OPTIONS)))
    p = description["projection"]
    least = LAYERED[kind].OPTIONS[name][0]
    cases = (
        ({"8.6", "11.1"}, {key: value for key, value in p.items() if key != name}),
        ({"8.6"}, p | {"more": 1}),
        ({"8.6", "11.1"}, p | {name: str(p[name])}),
        ({"11.1", LAYERED[kind].RULE}, p | {name: least - 1}),
    )
    judge.each(
        cases,
        lambda case: judge.refuses(case[0], "read", file=canonical(description | {"projection": case[1]}, tensors)),
    )


@of_each([kind for kind, module in LAYERED.items() if hasattr(module, "own")], "8.3", needs="read")
@few()
@given(data=st.data())
def test_own_tensors(judge, kind, data):
    """A kind's tensors are in the file, all of them, of their dtype and length."""
    judge.needs_kind(kind)
    description, tensors = data.draw(adapters([kind]))

    def ask(name):
        without = {key: tensor for key, tensor in tensors.items() if key != name}
        rule = LAYERED[kind].RULE
        judge.refuses({"8.3", rule}, "read", file=canonical(description, without))
        numbers = files.numbers(tensors[name])
        dtype = tensors[name]["dtype"]
        longer = {"dtype": dtype, "shape": [len(numbers) + 1], field_of(dtype): [*numbers, 0]}
        judge.refuses({"8.3", "8.8", rule}, "read", file=canonical(description, tensors | {name: longer}))

    judge.each(LAYERED[kind].own(description["projection"], description["layers"]), ask)
