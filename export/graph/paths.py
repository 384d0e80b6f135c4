"""What is added beside a use of a weight: the low-rank path s·x·Aᵀ·Bᵀ, or x·ΔWᵀ of rank 0, for a batch a path for each row."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from unilora_spec import Adapter, UniLoraError

from .rebuild import GraphTape, Pair, product, scale_of
from .sites import Use, uses_in_turn


def add_beside(use: Use, change: Callable[[GraphTape, ir.Value], ir.Value], instead: bool = False) -> None:
    """Adds ``change(tape, x)`` to the result of a product or a lookup, or puts it in the place of the result (``instead``)."""
    tape = GraphTape(f"{use.result[0].name}.lora")
    x = use.x[0] if len(use.x) == 1 else tape.add("DequantizeLinear", *use.x, dtype=use.dtype)
    result, *quantization = use.result
    after = change(tape, x)
    if not instead:
        before = tape.add("DequantizeLinear", *use.result, dtype=use.dtype) if quantization else result
        after = tape.add("Add", before, after, dtype=use.dtype)
    if quantization:
        after = tape.add("QuantizeLinear", after, *quantization, dtype=quantization[1].dtype)
    _put_after(result, tape, after)


def _put_after(result, tape, after):
    """Inserts the nodes behind the one that gives ``result``; ``after`` takes its place, and its name as an output."""
    ours, node = set(tape.nodes), result.producer()
    graph = node.graph  # of the model, or a branch of an If
    for user, position in result.uses():
        if user not in ours:
            user.replace_input_with(position, after)
    after.shape = result.shape
    if result.is_graph_output():
        graph.outputs[:] = [after if value is result else value for value in graph.outputs]
        after.name, result.name = result.name, f"{result.name}.base"
    graph.insert_after(node, tape.nodes)


@dataclass(frozen=True)
class Paths:
    """Adds low-rank paths to a graph.

    ``tape``     takes what depends on no input of the model, and is put in front of the graph by the caller
    ``factors``  A and B, of rank 0 M, or what is fed as a ``Pair``, in float32 by the offsets of the segments in θ_D; where
                 ``rows``, the name of the batch's axis, is given, each with the rows of the batch in front
    """

    tape: GraphTape
    adapter: Adapter
    factors: dict[int, tuple[ir.Value, ...]]
    rows: str | None

    def add(self, use: Use, placed) -> None:
        """What the segments ``placed`` of one weight add to a product or a lookup."""
        if self.rows and self._is_shared(use):
            raise UniLoraError(
                f"{placed[0][0].name} is used by {use}, where the rows of the batch share one input: there is not one row for"
                " each adapter; give adapters without it, or another mode than bank"
            )
        calls = list(self._within(use, placed))

        def change(tape, x):
            as_rows = self.rows is not None and use.form == "product" and not self._has_rows(x)
            flat = tape.call("Rows", x, calls[0][1], dtype=use.dtype) if as_rows else x
            pieces = [tape.call(function, flat, *inputs, dtype=use.dtype) for function, *inputs in calls]
            path = pieces[0] if len(pieces) == 1 else tape.add("Concat", *pieces, axis=-1, dtype=use.dtype)
            return tape.call("Unrows", path, x, dtype=use.dtype) if as_rows else path

        add_beside(use, change)

    def add_saved(self, value: ir.Value, rows: ir.Value) -> None:
        """Puts a parameter for each row of the batch, ``rows``, in the place of ``value``."""
        is_bias = len(value.shape) == 1
        for use in uses_in_turn(value):
            sums = use.node.op_type == "Add" or (use.node.op_type == "Gemm" and use.node.inputs[-1] is value)
            if use.quantized or not (sums if is_bias else use.form == "product"):
                raise UniLoraError(
                    f"the adapters differ in {value.name}, which is used by {use}; in the mode bank they can differ in"
                    " products and in what is added to them: give adapters that agree in it, or another mode"
                )
            if is_bias:
                result, dtype = use.node.outputs[0], value.dtype
                tape = GraphTape(f"{result.name}.own")
                flat = tape.call("Rows", result, rows, dtype=dtype)
                after = tape.call("Unrows", tape.call("AddRows", flat, rows, dtype=dtype), result, dtype=dtype)
                _put_after(result, tape, after)
            else:
                add_beside(use, _product_with(rows))
        # What a row has for itself is added to a product with zeros.
        value.const_value = ir.Tensor(np.zeros(tuple(value.shape), value.dtype.numpy()))

    def _within(self, use, placed):
        """The function that gives each segment's piece of the result, and what it takes beside x in the dtype of the use: A, B
        and s, a pair as it is fed, or of rank 0 ΔW. There are zeros for the rows in between that are not adapted."""
        with_pair, alone = {"product": ("LowRank", "Product"), "lookup": ("LowRankLookup", "Lookup")}[use.form]
        of_rows = "Rows" if self.rows else ""
        placed = sorted(placed, key=lambda item: item[0].row or 0)
        end, first = 0, [0] if self.rows else []
        for segment, offset in placed:
            above = (segment.row or 0) - end
            end += above + segment.out_features
            below = use.shape[0] - end if segment is placed[-1][0] else 0
            *A, last = self.factors[offset]
            fed = isinstance(self.factors[offset], Pair)
            if above or below:
                pads = [0, above, 0, below] if fed else [*first, above, 0, *first, below, 0]
                last = self.tape.add("Pad", last, self.tape.integers(f"pads.{'.'.join(map(str, pads))}", pads))
            if fed:
                yield f"Pair{use.form.title()}", *(self.tape.cast(factor, use.dtype) for factor in (*A, last))
            elif A:
                s = scale_of(self.tape, self.adapter, segment, use.dtype)
                yield with_pair + of_rows, *(self.tape.cast(factor, use.dtype) for factor in (*A, last)), s
            else:
                delta = product(self.tape, self.adapter, segment, [last])
                yield alone + of_rows, self.tape.cast(delta, use.dtype)

    def _is_shared(self, use) -> bool:
        """Whether x is known not to start with the batch, as positions and tables of relative ones do not."""
        shape = use.x[0].shape
        if not shape or str(shape[0]) == self.rows:
            return False
        others = {str(axis) for value in use.node.graph.inputs for axis in value.shape or ()}
        return isinstance(shape[0], int) or str(shape[0]) in others

    def _has_rows(self, x) -> bool:
        return x.shape is not None and len(x.shape) == 3 and str(x.shape[0]) == self.rows


def _product_with(rows):
    def change(tape, x):
        product = tape.call("ProductRows", tape.call("Rows", x, rows, dtype=rows.dtype), rows, dtype=rows.dtype)
        return tape.call("Unrows", product, x, dtype=rows.dtype)

    return change
