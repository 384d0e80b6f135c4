"""`vb`: A and B cut into sub-vectors, each a mix of a few rows of one bank (SPEC 11.11).

Li, Han and Ji, "VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks", arXiv 2405.15179. PEFT cuts A and B in the same way.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from ..errors import LayerMapError, LimitError
from ..layer_map import LayerMap
from ..program import OPERATIONS, Factored, Range, Start, Value, frozen
from ..projection import Option, Projection
from ..segment import Segment


class VB(Factored, kind="vb"):
    """A sub-vector is Σ w_m · bank[i_m] over its k rows: the file has their numbers, as ``index``, and k − 1 of the weights.

    Raises ``LayerMapError`` where the length of sub-vectors does not divide an in or out, ``LimitError`` for an ``index`` of
    another shape or with a row that the bank does not have. This form is for files: training takes ``Logits`` in its place.
    """

    known_options: ClassVar[dict[str, Option]] = {
        "length": Option(1, 256, "the length of a sub-vector"),
        "bank": Option(1, 90, "how many rows the bank has"),
        "topk": Option(1, 2, "how many rows a sub-vector is a mix of"),
    }
    stored: ClassVar[dict[str, str]] = {"index": "I32"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turned: dict[tuple[int, int], Value] = {}
        if self.stored:
            bank, count = self.options["bank"], self.D // self.options["length"] * self.options["topk"]
            possible = f"a row of the bank, from 0 to {bank - 1}"
            self.tensors["index"] = self.checked_index(count, bank, possible, "11.11")

    @classmethod
    def trained_as(cls) -> type[Projection]:
        return Logits

    @classmethod
    def shared(cls, layer_map: LayerMap, length: int, bank: int, topk: int) -> Iterator[Range]:
        yield Range("bank", (bank, length), Start("uniform", 0.02))

    @classmethod
    def own(cls, segment: Segment, length: int, bank: int, topk: int) -> Iterator[Range]:
        for name, side, size in (("A", "in", segment.in_features), ("B", "out", segment.out_features)):
            if size % length:
                raise LayerMapError(f"{segment.name} has {side} = {size}; give a length that divides it", "11.11")
            numbers, start = cls.of_sub_vector(bank, topk)
            yield Range(name, (segment.rank * (size // length), numbers), start)

    @staticmethod
    def of_sub_vector(bank: int, topk: int) -> tuple[int, Start]:
        """How many numbers of θ each sub-vector has for its own, and their initial values."""
        return topk - 1, Start("constant", 1 / topk)

    def factors(self, number: int, segment: Segment) -> tuple[Value, Value]:
        rank, out = segment.rank, segment.out_features
        first, length = int(self.rows[number]), self.options["length"]
        A = self._mixes(self.range("A", number), first // length)
        B = self._mixes(self.range("B", number), (first + rank * segment.in_features) // length)
        return A.reshape(rank, segment.in_features), B.reshape(rank * out).take(self._order(rank, out))

    def _mixes(self, own: Value, first: int) -> Value:
        """The sub-vectors of an A or a B, (many, length): ``own`` are their own numbers of θ, ``first`` is the number of the first one."""
        bank, chosen = self.range("bank"), self.chosen(own, first)
        mix, *others = (bank.take(rows) * weights for rows, weights in chosen)
        for each in others:
            mix = mix + each
        return mix

    def chosen(self, own: Value, first: int) -> list[tuple[Value, Value]]:
        """The k rows of the bank that each sub-vector of an A or a B mixes, (many,), and their weights, (many, 1)."""
        many, k = own.shape[0], self.options["topk"]
        index = self.tensors["index"].reshape(-1, k)[first : first + many].astype(np.int64)
        weights = [own[:, m : m + 1] for m in range(k - 1)]
        last = _ONE
        for weight in weights:
            last = last - weight
        return [(frozen((many,), index[:, m].copy), weight) for m, weight in enumerate([*weights, last])]

    def _order(self, rank: int, out: int) -> Value:
        """Where each entry of a B lies among those of its sub-vectors, which are pieces of its columns, the pieces at one height
        one after the other. One array for all B of a size."""
        if (rank, out) not in self._turned:
            pieces = np.arange(rank * out).reshape(-1, rank, self.options["length"])
            self._turned[rank, out] = frozen((out, rank), lambda: pieces.transpose(0, 2, 1).reshape(out, rank))
        return self._turned[rank, out]


_ONE = frozen((1, 1), lambda: np.ones((1, 1), np.float32))


class Logits(VB):
    """What is trained in place of ``VB``: the bank, and for each sub-vector one logit for each row of the bank. The k largest logits
    choose the rows that it mixes, and their softmax gives the weights. A file holds the ``VB`` that ``stored_as`` makes of them."""

    stored: ClassVar[dict[str, str]] = {}
    exact = False

    @classmethod
    def lengths(cls, layer_map: LayerMap, **options: int) -> dict[str, int]:
        if options["topk"] > options["bank"]:
            raise LimitError(
                f"topk is {options['topk']}; give no more than the bank has rows, {options['bank']}", "11.11"
            )
        return {}

    @staticmethod
    def of_sub_vector(bank: int, topk: int) -> tuple[int, Start]:
        return bank, Start("normal", 0.1)

    def chosen(self, own: Value, first: int) -> list[tuple[Value, Value]]:
        logits, k = own, self.options["topk"]
        many, bank = logits.shape
        rows = logits.largest(k)
        begins = frozen((many, 1), lambda: np.arange(0, many * bank, bank)[:, None])
        weights = logits.reshape(many * bank).take(rows + begins).softmax()
        return [(rows[:, m : m + 1].reshape(many), weights[:, m : m + 1]) for m in range(k)]

    def stored_as(self, theta: np.ndarray) -> tuple[Projection, np.ndarray]:
        length, bank, k = self.options.values()
        logits = theta[bank * length :].reshape(-1, bank)
        rows = OPERATIONS["largest"](k, logits)
        weights = OPERATIONS["softmax"](None, np.take_along_axis(logits, rows, axis=1).astype(np.float64))
        of_file = np.concatenate([theta[: bank * length], weights[:, : k - 1].ravel()]).astype(np.float32)
        given = {"layer_map": self.layer_map, "tensors": {"index": rows.ravel()}, **self.options}
        return VB("vb", D=self.D, d=len(of_file), seed=self.seed, **given), of_file
