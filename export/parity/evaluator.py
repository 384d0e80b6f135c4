"""onnx's reference evaluator for graphs in which each run brings its θ.

Its own GatherElements (onnx 1.23) is made of numpy.choose, which knows 64 choices at most, and within local functions it knows no
other operators than its own.
"""

import numpy as np
import onnx.inliner
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class GatherElements(OpRun):
    """The operator of the standard, along axes of any length."""

    op_domain = ""

    def _run(self, data, indices, axis=None):
        return (np.take_along_axis(data, indices.astype(np.int64), axis or 0),)


def evaluator(path) -> ReferenceEvaluator:
    """The graph in a file, with its functions inlined: ``evaluator(path).run(None, feed)``."""
    graph = onnx.inliner.inline_local_functions(onnx.load(str(path)))
    return ReferenceEvaluator(graph, new_ops=[GatherElements])
