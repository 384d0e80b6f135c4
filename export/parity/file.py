"""A file run as it is, and compared in a form in which both sides can agree."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from .. import external
from . import compare, unrounded

NO_ROUNDING = "without rounding what is computed to 8 bits, which would make any difference large"


def compare_file(path: Path, cases: Sequence[tuple[Mapping, Mapping]]) -> tuple[dict, list[str]]:
    """The comparison of ``compare.compare`` for a file, and the providers that it ran on.

    Raises ``WorkFailed`` where ONNX Runtime refuses the file or an output has another shape than is expected.
    """
    graph = ir.load(path)
    external.resolve(graph, path)
    floats, note = compare.precision(graph), {}
    if unrounded.rounds(graph):
        note = {"note": NO_ROUNDING}
        if not unrounded.rounds_in_products_alone(graph):  # else what runs below has the same nodes
            session = compare.session_to_compare(path)
            for feed, expected in cases:
                compare.run(session, feed, list(expected))
            del session  # it has the weights in memory, as the next one will
        session = unrounded.session(graph)
    else:
        session = compare.session_to_compare(path)
    return compare.compare(session, cases, floats) | note, session.get_providers()


def compare_step(path: Path, cases: Sequence[tuple[Mapping, Mapping]]) -> tuple[dict, list[str]]:
    """``compare_file`` for the graph of a step, which computes in float32 however its weights are stored."""
    session = compare.session(path)
    return compare.compare(session, cases), session.get_providers()
