"""Whether the tests find faults: ``python -m conformance_tests.faults`` changes the reference in one place, and asks again.

Each fault is a small mistake that somebody could make, as a replacement in one file of ``unilora_spec``. The changed copy is
judged as any implementation is, by the checks of the rule that the fault breaks, and has to fail.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import unilora_spec
from unilora_spec.command import run as run_command
from unilora_spec.errors import UniLoraError

from .client import Failed, GaveUp, Implementation
from .rules import Selection
from .run import EXAMPLES, FAILED, run

PACKAGE = Path(unilora_spec.__file__).parent


@dataclass(frozen=True)
class Fault:
    """``old`` stands once in ``file``; with ``new`` in its place, rule ``rule`` is broken."""

    name: str
    rule: str
    file: str
    old: str
    new: str


def _in(file, *faults):
    return [Fault(name, rule, file, old, new) for name, rule, old, new in faults]


FAULTS = [
    *_in(
        "permutation.py",
        ("a constant of SplitMix64", "2.1", "0x9E3779B97F4A7C15", "0x9E3779B97F4A7C16"),
        ("a shift of SplitMix64", "2.1", "(z >> 27)", "(z >> 28)"),
        ("the seed cut to 32 bits", "2.1", "state, result = seed, []", "state, result = seed % 2**32, []"),
        ("the seed as a float64", "1.2", "state, result = seed, []", "state, result = int(float(seed)), []"),
        ("the low half for a key", "2.2", "(z ^ (z >> 31)) >> 32", "(z ^ (z >> 31)) & 0xFFFFFFFF"),
        ("keys counted from 1", "2.2", "return result\n\n\ndef check_D", "return [*result[1:], 0]\n\n\ndef check_D"),
        ("a seed that wraps", "1.2", "if not 0 <= seed < MAX_SEED:", "seed %= MAX_SEED\n    if False:"),
        ("a multiplier of mix", "3.1", "0x297A2D39", "0x297A2D3B"),
        ("the multipliers exchanged", "3.1", "0x7FEB352D", "0x297A2D39"),
        ("a shift of mix", "3.1", "x ^= x >> np.uint32(15)", "x ^= x >> np.uint32(16)"),
        ("an arithmetic shift", "3.1", "x ^= x >> np.uint32(15)", "x ^= (x.view(np.int32) >> 15).view(np.uint32)"),
        ("mix without its last shift", "3.1", "    x ^= x >> np.uint32(16)\n    return x", "    return x"),
        ("the key added, not xored", "3.1", "x = x ^ np.uint32(key)", "x = x + np.uint32(key)"),
        ("a side of floor(√D)", "4.1", "math.isqrt(D - 1) + 1", "max(math.isqrt(D), 1)"),
        ("a side of floor(√D) + 1", "4.1", "math.isqrt(D - 1) + 1", "math.isqrt(D) + 1"),
        ("a side from a float32 root", "4.1", "math.isqrt(D - 1) + 1", "int(np.ceil(np.sqrt(np.float32(D))))"),
        ("a round fewer", "4.2", "ROUNDS = 6", "ROUNDS = 5"),
        ("a round more", "4.2", "ROUNDS = 6", "ROUNDS = 7"),
        ("L and R exchanged at the end", "4.2", "np.multiply(L, self._word(self.a), out=x)\n        x += R",
         "np.multiply(R, self._word(self.a), out=x)\n        x += L"),
        ("L mixed in place of R", "4.2", "self._round(read, key, f, t)", "self._round(changed, key, f, t)"),
        ("overflow at 32 bits", "4.2", "(mix(x, key).astype(np.uint64) * np.uint64(self.a)) >> np.uint64(32)",
         "(mix(x, key) * np.uint32(self.a)) >> np.uint32(16)"),
        ("overflow of a half", "4.2", "        f &= np.uint32(0xFFFF)\n", ""),
        ("a half of the product lost", "4.2", "        f += t\n        f >>= np.uint32(16)", "        f[:] = t >> np.uint32(16)"),
        ("the key's shift lost", "4.2", "key ^ (key >> 16)", "key"),
        ("mix mod a in place of its high part", "4.2", "* np.uint64(self.a)) >> np.uint64(32)", ") % np.uint64(self.a)"),
        ("a division in float32", "4.2", 'np.floor_divide(x, self._word(self.a), out=L, casting="unsafe")',
         "L[:] = x.astype(np.float32) / np.float32(self.a)"),
        ("a modulus off by one", "4.2", "unshift(changed, a, out=f)", "unshift(changed, a + np.uint32(1), out=f)"),
        ("no walk", "4.3", "while x.max(initial=0) >= self.D:", "while False:"),
        ("a walk of one step", "4.3", "while x.max(initial=0) >= self.D:", "if x.max(initial=0) >= self.D:"),
        ("a modulus in place of the walk", "4.3", "            self._pass(again, space, inverse)\n", "            again %= self.D\n"),
        ("a walk that starts anew", "4.3", "again = x[outside]", "again = x[outside] - self._word(self.D)"),
        ("the inverse with its keys forwards", "4.4", "reversed(self.keys) if inverse else self.keys", "self.keys"),
        ("the inverse that mixes the other half", "4.4", "(R, L, np.subtract, np.add) if inverse", "(L, R, np.subtract, np.add) if inverse"),
        ("entries outside that are permuted", "1.3", "if len(x) and not 0 <= x.min() <= x.max() < self.D:", "if False:"),
        ("a larger limit of D", "1.1", "MAX_D = 2**40", "MAX_D = 2**53"),
    ),
    *_in(
        "projection.py",
        ("a column beyond theta", "9.4", "<= index.max() < end:", "<= index.max() <= end:"),
        ("a column below 0", "9.4", "if not 0 <= index.min() <=", "if not -end <= index.min() <="),
        ("a table of another length", "9.4", "index.shape != (length,) or", "index.size < length or"),
        ("a row beyond the bank", "11.11", "<= index.max() < end:", "<= index.max() <= end:"),
        ("a row below 0", "11.11", "if not 0 <= index.min() <=", "if not -end <= index.min() <="),
        ("an index of another length", "11.11", "index.shape != (length,) or", "index.size < length or"),
        ("d up to 2^32", "1.1", "MAX_DIM = 2**31 - 1", "MAX_DIM = 2**32 - 1"),
        ("slices that are clipped", "1.3", "if not 0 <= start <= stop <= end:", "start, stop = max(start, 0), min(stop, end)\n        if False:"),
        ("vectors that are padded", "1.3", "if value.shape != (length,):", "value = np.resize(value, length)\n        if False:"),
        ("an unknown kind for the default", "9.1", "if kind not in KINDS:", "if kind not in KINDS:\n        return KINDS['balanced']\n    if False:"),
        ("a scale in float32", "6.1", "n = self.counts(start, stop).astype(np.float64)", "n = self.counts(start, stop).astype(np.float32)"),
        ("a scale that is rounded twice", "6.1", "np.divide(1.0, np.sqrt(n),", "np.divide(1.0, np.sqrt(n).astype(np.float32),"),
        ("a scale of 1 / n", "6.1", "np.divide(1.0, np.sqrt(n),", "np.divide(1.0, n,"),
        ("an infinite scale of empty columns", "5.2", "out=np.zeros_like(n), where=n > 0)", "out=np.full_like(n, np.inf), where=n > 0)"),
        ("a product in float64", "6.2", 'self.vector(theta, self.d, "theta") * self.scale()',
         '(self.vector(theta, self.d, "theta") / np.sqrt(np.maximum(self.counts(), 1))).astype(np.float32)'),
        ("numbers below the normal range flushed", "6.2", "result = np.empty(stop - start, dtype=np.float32)",
         "scaled[abs(scaled) < 2.0**-126] = 0\n        result = np.empty(stop - start, dtype=np.float32)"),
        ("minus zero lost", "6.2", "result = np.empty(stop - start, dtype=np.float32)",
         "scaled += np.float32(0)\n        result = np.empty(stop - start, dtype=np.float32)"),
        ("a slice that begins at 0", "6.2", "in self.columns(start, stop):\n            # No index",
         "in ((i + start, block) for i, block in self.columns(0, stop - start)):\n            # No index"),
        ("an adjoint without the scale", "6.3", "(self.scale() * total)", "(total)"),
        ("an adjoint of means", "6.3", "(self.scale() * total)", "(self.scale() ** 2 * total)"),
        ("an adjoint in float16", "6.3", "total = np.zeros(self.d)", "g, total = g.astype(np.float16), np.zeros(self.d)"),
        ("an adjoint that adds each column once", "6.3", "np.add.at(total, block, g[i - start : i - start + len(block)].astype(np.float64))",
         "total[block] += g[i - start : i - start + len(block)]"),
        ("a start from 0 to the bound", "6.4", "self.keys[9]) / 2.0**32) - 1", "self.keys[9]) / 2.0**32)"),
        ("a start divided by 2^32 − 1", "6.4", "self.keys[9]) / 2.0**32) - 1", "self.keys[9]) / (2.0**32 - 1)) - 1"),
        ("rank 0 with a kind of A and B", "11.1", "            if segment.rank == 0:", "            if False:"),
        ("a stream that begins a key early", "11.2", "12 + 2 * stream", "11 + 2 * stream"),
        ("a stream with its keys exchanged", "11.2", "mix(mix(i.astype(np.uint32), first) ^ (i >> 32).astype(np.uint32), second)",
         "mix(mix(i.astype(np.uint32), second) ^ (i >> 32).astype(np.uint32), first)"),
        ("a stream from 0 to 1", "11.2", "2 * (self.hashes(stream, start, stop) / 2.0**32) - 1", "self.hashes(stream, start, stop) / 2.0**32"),
        ("the keys of the start exchanged", "6.4", "mix(mix(j, self.keys[8]), self.keys[9])", "mix(mix(j, self.keys[9]), self.keys[8])"),
        ("a start's product in float32", "6.4", "(self.uniform_start(0, self.d) * bound).astype(np.float32)",
         "self.uniform_start(0, self.d).astype(np.float32) * np.float32(bound)"),
    ),
    *_in(
        "kinds/balanced.py",
        ("columns in stretches", "4.5", "            y -= turns\n", "            y[:] = y.astype(np.int64) * self.d // self.D\n"),
        ("members not ascending", "4.6", "np.sort(self.permutation.inverse(np.arange(self._column(j), self.D, self.d)))",
         "self.permutation.inverse(np.arange(self._column(j), self.D, self.d))"),
        ("members without the last", "4.6", "self.D, self.d)))", "self.D - self.D % self.d, self.d)))"),
        ("n_j off by one", "4.6", "< self.D % self.d)", "<= self.D % self.d)"),
        ("n_j without the rest", "4.6", " + (np.arange(start, stop) < self.D % self.d)", " + 0 * np.arange(start, stop)"),
    ),
    *_in(
        "kinds/uniform.py",
        ("the keys of the index exchanged", "5.1", "self.keys[6]) ^ (i >> 32).astype(np.uint32), self.keys[7])",
         "self.keys[7]) ^ (i >> 32).astype(np.uint32), self.keys[6])"),
        ("the high half of the row ignored", "5.1", " ^ (i >> 32).astype(np.uint32)", ""),
        ("h mod d", "5.1", "(h.astype(np.int64) * self.d) >> 32", "h.astype(np.int64) % self.d"),
        ("h·d in float64", "5.3", "(h.astype(np.int64) * self.d) >> 32", "(h.astype(np.float64) * self.d / 2**32).astype(np.int64)"),
    ),
    *_in(
        "kinds/identity.py",
        ("identity with d below D", "9.2", "if self.d != self.D:", "if False:"),
        ("a B that does not start at 0", "9.2", "stop = start + segment.rank * segment.in_features", "stop = start + segment.size"),
        ("a ΔW that starts as an A does", "9.2", "segment.rank * segment.in_features", "(segment.rank * segment.in_features or segment.size)"),
        ("a start with the bound of the others", "9.2", "(1 / math.sqrt(segment.in_features))", "bound"),
    ),
    *_in(
        "kinds/table.py",
        ("a table of floats", "8.3", '= {"index": "I32"}', '= {"index": "F32"}'),
        ("a part of the table from its start", "9.4", 'self.tensors["index"][i:end]', 'self.tensors["index"][i - start : end - start]'),
    ),
    *_in(
        "kinds/vera.py",
        ("the vectors of vera exchanged", "11.6",
         'yield Range((number, "d"), (segment.rank,), Start("constant", 0.1))\n            yield Range((number, "b"), (segment.out_features,), Start("constant", 0.0))',
         'yield Range((number, "b"), (segment.out_features,), Start("constant", 0.0))\n            yield Range((number, "d"), (segment.rank,), Start("constant", 0.1))'),
        ("a λ_d that begins at 1", "11.6", 'Start("constant", 0.1)', 'Start("constant", 1.0)'),
        ("the last rows of A₀", "11.6", "self._A[:rank,", "self._A[-rank:,"),
        ("a stream for both matrices", "11.6", "self._kaiming(2,", "self._kaiming(1,"),
        ("a bound by the rows", "11.6", "math.sqrt(6 / columns)", "math.sqrt(6 / rows)"),
        ("a bound of LoRA's", "11.6", "math.sqrt(6 / columns)", "math.sqrt(1 / columns)"),
        ("a frozen product in float32", "11.6", "rows * columns) * bound).astype(np.float32)",
         "rows * columns).astype(np.float32) * np.float32(bound))"),
    ),
    *_in(
        "kinds/tied.py",
        ("the vectors of tied exchanged", "11.7",
         'yield Range((number, "u"), (segment.rank,), Start("constant", 1.0))\n            yield Range((number, "v"), (segment.out_features,), Start("constant", 1.0))',
         'yield Range((number, "v"), (segment.out_features,), Start("constant", 1.0))\n            yield Range((number, "u"), (segment.rank,), Start("constant", 1.0))'),
        ("a shared A that begins by its rank", "11.7", "1 / math.sqrt(in_features)", "1 / math.sqrt(rank)"),
        ("a shared B that is not 0 at first", "11.7", '(out_features, rank), Start("constant", 0.0)', '(out_features, rank), Start("constant", 1.0)'),
        ("the last columns of a shared B", "11.7", "[:out, :rank]", "[:out, -rank:]"),
    ),
    *_in(
        "kinds/dense.py",
        ("M on the other side", "11.8",
         'A = self.range("encoder")[:rank, : segment.in_features]\n        B = self.range("decoder")[: segment.out_features, :rank] @ self.range(number)',
         'A = self.range(number) @ self.range("encoder")[:rank, : segment.in_features]\n        B = self.range("decoder")[: segment.out_features, :rank]'),
        ("an M that begins by the largest rank", "11.8", "1 / math.sqrt(segment.rank)", "1 / math.sqrt(rank)"),
        ("an encoder by Kaiming without √5", "11.8", "1 / math.sqrt(in_features)", "math.sqrt(6 / in_features)"),
        ("the last columns of the decoder", "11.8", "segment.out_features, :rank]", "segment.out_features, -rank:]"),
    ),
    *_in(
        "from_base.py",
        ("frozen numbers of any length", "11.9", "if numbers.shape != (length,):", "if numbers.size < length:"),
        ("the first segment's matrices for all", "11.9", "start = self._starts[number]", "start = 0"),
        ("matrices column by column", "11.9", ".reshape(shape)", '.reshape(shape, order="F")'),
    ),
    *_in(
        "kinds/xs.py",
        ("R on the side of A", "11.9", "return A, U @ self.range(number)", "return self.range(number) @ A, U"),
        ("an R that begins larger", "11.9", "1e-5", "1e-4"),
        ("an R that begins uniform", "11.9", '"normal"', '"uniform"'),
        ("the segments of xs backwards", "11.9", "in enumerate(layer_map.segments):", "in reversed([*enumerate(layer_map.segments)]):"),
    ),
    *_in(
        "kinds/qr.py",
        ("a ΔR that begins as A does", "11.10", 'Start("constant", 0.0)', 'Start("uniform", 0.02)'),
        ("the segments of qr backwards", "11.10", "in enumerate(layer_map.segments):", "in reversed([*enumerate(layer_map.segments)]):"),
        ("a Q that is added to itself", "11.10", "return self.range(number), Q", "return self.range(number), Q + Q"),
    ),
    *_in(
        "program.py",
        ("a d that does not follow from the layer map", "11.1", "if self.d != (needed :=", "if self.d < (needed :="),
        ("a start counted from each range on", "11.5", "unit(start, stop) * size", "unit(0, stop - start) * size"),
        ("an adjoint at a θ of ones", "11.4", 'theta = self.vector(theta, self.d, "theta").astype(np.float64)', "theta = np.ones(self.d)"),
        ("a product's adjoint without its transpose", "11.4", "g @ y.T, x.T @ g", "g @ y, x.T @ g"),
    ),
    *_in(
        "parts.py",
        ("a part's seed with its halves exchanged", "11.13", "high << 32 | low", "low << 32 | high"),
        ("parts dealt by the seed of the file", "11.13", "high << 32 | low", "self.seed"),
        ("parts keyed from K_8 on", "11.13", "len(self._sizes))[10:]", "len(self._sizes))[8:]"),
        ("columns of each part from 0", "11.13", "self._first[part] + self._permutation(part)(", "self._permutation(part)("),
        ("n_j off by one in a part", "11.13", "< size % dim)", "<= size % dim)"),
    ),
    *_in(
        "kinds/layerwise.py",
        ("a layer's columns rounded up", "11.13", "self.d * end // self.D", "-(-self.d * end // self.D)"),
        ("a layer's share in float64", "11.13", "self.d * end // self.D", "int(self.d * (end / self.D))"),
        ("a layer without a column", "11.13", "if dim == 0:", "if dim < 0:"),
        ("a layer's entries from 0 in each segment", "11.13", "entries[part] = entry + segment.size", "entries[part] = 0"),
    ),
    *_in(
        "kinds/vb.py",
        ("a B cut as A is", "11.11", ".take(self._order(rank, out))", ".reshape(out, rank)"),
        ("sub-vectors of B column after column", "11.11", "np.arange(rank * out).reshape(-1, rank, self.options[\"length\"])",
         "np.arange(rank * out).reshape(rank, -1, self.options[\"length\"]).transpose(1, 0, 2)"),
        ("the last weight first", "11.11", "enumerate([*weights, last])", "enumerate([last, *weights])"),
        ("a last weight that is not what is left", "11.11", "            last = last - weight\n", "            last = _ONE - weight\n"),
        ("the index by rows of sub-vectors", "11.11", ".reshape(-1, k)[first", ".reshape(k, -1).T[first"),
        ("a length that does not divide", "11.11", "                if size % length:", "                if False:"),
        ("weights that begin at 1", "11.11", 'Start("constant", 1 / topk)', 'Start("constant", 1.0)'),
    ),
    *_in(
        "kinds/fastfood.py",
        ("blocks of no more than d", "11.12", "(self.d - 1).bit_length()", "max(self.d.bit_length() - 1, 0)"),
        ("zeros up to L left out", "11.12", "            signs[:, self.d :] = 0\n", ""),
        ("an S of one block", "11.12", "math.sqrt(self.D * L)", "math.sqrt(L * L)"),
        ("signs of the first block for all", "11.12", "self.hashes(1, start, stop)", "self.hashes(1, 0, stop - start)"),
        ("the permutation's inverse", "11.12", "return order + np", "return np.argsort(order, axis=1) + np"),
        ("differences the other way", "11.12", "np.array([1, -1], np.float32)", "np.array([-1, 1], np.float32)"),
        ("sums beside differences", "11.12", "pairs[:, :, :, 1:2] * _SIGNS).reshape(n, L)",
         "pairs[:, :, :, 1:2] * _SIGNS.reshape(1, 1, 1, 2)).reshape(n, L)"),
    ),
    *_in(
        "kinds/nonuniform.py",
        ("A's share rounded up", "11.14", 'self.d * self.options["of_A"] // sum(self.options.values())',
         '-(-self.d * self.options["of_A"] // sum(self.options.values()))'),
        ("the shares exchanged", "11.14", '* self.options["of_A"] //', '* self.options["of_B"] //'),
        ("more numbers than entries", "11.14", "if not 1 <= dim <= size:", "if not 1 <= dim:"),
        ("B's entries as if A stood before them", "11.14", "entry_B + segment.size - size_A", "entry_B + segment.size"),
    ),
    *_in(
        "kinds/chain.py",
        ("a link's columns of B as if they were rows", "11.15", "entry + size_A, rank, links)", "entry + size_A, rank * segment.out_features, links)"),
        ("all links begin at once", "11.15", "theta = np.zeros(self.d, dtype=np.float32)", "theta = super().initial(layer_map, bound)"),
        ("ranks that links do not divide", "11.15", "if links > MAX_LINKS or number % links:", 'if links > MAX_LINKS or (what == "d" and number % links):'),
        ("more links than there may be", "11.15", "MAX_LINKS = 65_536", "MAX_LINKS = 65_537"),
        ("fewer links than there may be", "11.15", "MAX_LINKS = 65_536", "MAX_LINKS = 65_535"),
    ),
    *_in(
        "parts.py",
        ("members of the first link for all", "11.15", "(turn * b.count[k] + part - b.part[k])", "(turn * b.count[k])"),
    ),
    *_in(
        "layer_map.py",
        ("a layer by its last number", "11.13", "next(numbers, len(parts))", "max(numbers, default=len(parts))"),
        ("A and B exchanged", "7.2", "A = theta_D[:split].reshape(self.rank, self.in_features)\n        return A, theta_D[split:].reshape(self.out_features, self.rank)",
         "split = self.rank * self.out_features\n        B = theta_D[:split].reshape(self.out_features, self.rank)\n        return theta_D[split:].reshape(self.rank, self.in_features), B"),
        ("A column by column", "7.2", "theta_D[:split].reshape(self.rank, self.in_features)", "theta_D[:split].reshape(self.in_features, self.rank).T"),
        ("the length of a name in characters", "7.2", 'len(self.name.encode("utf-8", "surrogatepass")) <= MAX_NAME', "len(self.name) <= MAX_NAME"),
        ("transposed weights as others", "7.3", "(delta.T if self.transposed else delta)", "(delta)"),
        ("rows from the first on", "7.5", "rows = slice(self.row, self.row + self.out_features)", "rows = slice(0, self.out_features)"),
        ("the first matrix of a stack", "7.5", "weight = weight[self.index]", "weight = weight[0]"),
        ("no segment without A and B", "7.2", '("rank", 0), ("row", 0)', '("rank", 1), ("row", 0)'),
        ("rank 0 of the size of rank 1", "7.2", "return self.out_features * self.in_features", "return self.out_features + self.in_features"),
        ("ΔW column by column", "7.2", "theta_D.reshape(self.out_features, self.in_features)", "theta_D.reshape(self.in_features, self.out_features).T"),
        ("rslora as lora", "7.7", "alpha / math.sqrt(rank or 1)", "alpha / (rank or 1)"),
        ("rank 0 without its alpha", "7.7", '"lora": lambda alpha, rank: alpha / (rank or 1)', '"lora": lambda alpha, rank: alpha / rank if rank else 1.0'),
        ("an alpha of any size", "7.7", "if not ALPHA_RANGE[0] <= self.alpha <= ALPHA_RANGE[1]:", "if False:"),
        ("leading zeros in layer numbers", "7.9", '"0|[1-9][0-9]{0,8}"', '"[0-9]{1,9}"'),
        ("layer numbers of ten digits", "7.9", '"0|[1-9][0-9]{0,8}"', '"0|[1-9][0-9]{0,9}"'),
        ("a ninth number counts", "7.9", "MAX_NUMBERS = 8", "MAX_NUMBERS = 9"),
        ("more segments than the limit", "7.1", "MAX_SEGMENTS = 65_536", "MAX_SEGMENTS = 65_537"),
        ("longer names than the limit", "7.1", "MAX_NAMES = 2**22", "MAX_NAMES = 2**24"),
        ("a range of one", "7.8", "if bounds[1] - bounds[0] < 2:", "if bounds[1] - bounds[0] < 1:"),
    ),
    *_in(
        "canonical_json.py",
        ("a key twice accepted", "8.5", "if len(value) != len(pairs):", "if False:"),
        ("keys sorted by code points", "8.5", 'key=lambda item: item[0].encode("utf-16-be", "surrogatepass")', "key=lambda item: item[0]"),
        ("texts escaped beyond need", "8.5", "ensure_ascii=False", "ensure_ascii=True"),
        ("whole numbers with a point", "8.5", "if isinstance(value, float) and value.is_integer():", "if False:"),
        ("JSON with blanks", "8.5", '"{" + ",".join', '"{" + ", ".join'),
        ("a byte order mark accepted", "8.5", 'text = data.decode("utf-8")', 'text = data.decode("utf-8-sig")'),
    ),
    *_in(
        "serialization.py",
        ("trailing bytes accepted", "8.2", "if end != size - 8 - length:", "if end > size - 8 - length:"),
        ("overlap accepted", "8.2", "if begin != end:", "if begin > end:"),
        ("a gap accepted", "8.2", "if begin != end:", "if begin < end:"),
        ("a product that wraps at 64 bits", "8.2", '* _SIZES[entry["dtype"]]\n', '* _SIZES[entry["dtype"]] % 2**64\n'),
        ("a huge shape behind a zero accepted", "8.2", 'math.prod(filter(None, entry["shape"]))', 'math.prod(entry["shape"])'),
        ("truth for a number", "8.2", "type(v) is int and v >= 0", "isinstance(v, int) and v >= 0"),
        ("a header of any length", "8.2", "MAX_HEADER = 2**18", "MAX_HEADER = 2**30"),
        ("NaN accepted", "8.3", "finite = np.isfinite(value)", "finite = ~np.isinf(value)"),
        ("infinity accepted", "8.3", "finite = np.isfinite(value)", "finite = ~np.isnan(value)"),
        ("BF16 cut off, not rounded", "8.3", "((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)", "(bits >> 16)"),
        ("BF16 with ties upwards", "8.3", "(bits + 0x7FFF + ((bits >> 16) & 1))", "(bits + 0x8000)"),
        ("F16 that saturates", "8.3", "stored = value.astype(_NUMPY[dtype])", "stored = np.clip(value, *((-65504, 65504) if dtype == 'F16' else (None, None))).astype(_NUMPY[dtype])"),
        ("unknown version accepted", "8.4", 'if (version := metadata.get("version")) != VERSION:', 'if (version := metadata.get("version")) is None:'),
        ("the version looked at last", "8.4", 'header, start = read_header(data, first=_check_version)\n    metadata = header.pop("__metadata__")',
         'header, start = read_header(data)\n    metadata = header.pop("__metadata__", {})\n    _check_version(metadata)'),
        ("unknown fields ignored", "8.6", "if key not in known:", "if key not in known:\n            continue\n        if False:"),
        ("a seed with a zero before it", "8.6", 'r"0|[1-9][0-9]{0,19}"', 'r"[0-9]{1,20}"'),
        ("digits of other scripts in a seed", "8.6", 'r"0|[1-9][0-9]{0,19}"', r'r"0|[1-9]\d{0,19}|[^\W0-9]\d*"'),
        ("the default scaling written out", "8.6", 'if adapter.layer_map.scaling != "lora":', "if True:"),
        ("fingerprints in capitals", "8.6", '"[0-9a-f]{32}"', '"[0-9a-fA-F]{32}"'),
        ("tensors in the order of their names alone", "8.7", "(-_SIZES[item[1][0]], item[0])", "item[0]"),
        ("smaller elements first", "8.7", "(-_SIZES[item[1][0]], item[0])", "(_SIZES[item[1][0]], item[0])"),
        ("a header without padding", "8.7", 'head += b" " * (-len(head) % 8)', 'head += b""'),
        ("padding as if the length were in the header", "8.7", 'head += b" " * (-len(head) % 8)', 'head += b" " * (-len(head) % 16)'),
        ("every file called canonical", "8.10", "return encode(adapter) == bytes(data)", "return True"),
    ),
    *_in(
        "adapter.py",
        ("a parameter adapted and saved", "8.8", "for segment in self.layer_map.segments if segment.name in self.saved}", "for segment in ()}"),
        ("structure in the order of the file", "10.1", "for name, shape in sorted(shapes.items())", "for name, shape in shapes.items()"),
        ("contents in the order of the file", "10.2", "for name in sorted(names):", "for name in names:"),
        ("contents in big-endian", "10.2", 'dtype="<f4"', 'dtype=">f4"'),
        ("ΔW in place of W", "7.10", "widen(part) + band.stored", "0 * widen(part) + band.stored"),
        ("ΔW subtracted", "7.10", "widen(part) + band.stored", "widen(part) - band.stored"),
        ("saved parameters added", "7.10", "weights[name][...] = value", "weights[name][...] += value"),
        ("another structure accepted", "10.3", "if self.base and structure_fingerprint(adapted) != self.base.structure:", "if False:"),
        ("saved parameters of another shape", "10.3", "if shapes.get(name) != value.shape:", "if name not in shapes or np.prod(shapes[name]) != value.size:"),
    ),
]  # fmt: skip


def changed(fault: Fault, folder: Path) -> None:
    """A copy of ``unilora_spec`` in ``folder``, with the fault. Raises ``UniLoraError`` where its place is gone."""
    shutil.copytree(PACKAGE, folder / "unilora_spec", ignore=shutil.ignore_patterns("__pycache__", "vectors"))
    path = folder / "unilora_spec" / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise UniLoraError(
            f"{fault.name}: {fault.old!r} stands {text.count(fault.old)} times in {fault.file}, not once"
        )
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")


def caught_by(fault: Fault, seed: int) -> str | None:
    """The check of the fault's rule that fails with the changed copy, and what it says; None where all pass."""
    with tempfile.TemporaryDirectory() as folder:
        changed(fault, Path(folder))
        path = os.pathsep.join([folder, str(PACKAGE.parent)])
        serve = [sys.executable, "-m", "conformance_tests.serve", "unilora_spec.conformance"]
        try:
            implementation = Implementation(["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={path}", *serve])
        except (Failed, GaveUp) as failure:
            raise UniLoraError(f"{fault.name}: the changed copy does not run: {failure}") from None
        results = run(implementation, EXAMPLES, seed, Selection(frozenset([fault.rule])), first=True)
    return next((f"{result.name}: {result.message}" for result in results if result.outcome == FAILED), None)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m conformance_tests.faults",
        description=f"{len(FAULTS)} faults, each set into a copy of unilora_spec, and the check that finds it.",
        epilog="Example: python -m conformance_tests.faults --seeds 10. Exit status 1 where a fault stays unseen.",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each fault, with the seeds 0, 1, …; by default 1")
    parser.add_argument("--only", default="", help="the faults whose names have this text")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="a sample: every Nth of these faults")
    parser.add_argument("--json", action="store_true", help="for machines")
    call = parser.parse_args()
    faults = [fault for fault in FAULTS if call.only in fault.name][:: max(call.every, 1)]
    jobs = [(fault, seed) for fault in faults for seed in range(call.seeds)]
    with ProcessPoolExecutor() as pool:
        found = pool.map(caught_by, *zip(*jobs, strict=True)) if jobs else []
        found = list(track(found, "faults", len(jobs), console=Console(stderr=True), transient=True))
    rows = [
        {
            "fault": fault.name,
            "file": fault.file,
            "rule": fault.rule,
            "by": found[n * call.seeds : (n + 1) * call.seeds],
        }
        for n, fault in enumerate(faults)
    ]
    if call.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        table = Table("rule", "fault", "found", "by the check, for example", title="Faults set into unilora_spec")
        for row in rows:
            times = sum(check is not None for check in row["by"])
            first = next((check for check in row["by"] if check), "")
            table.add_row(row["rule"], row["fault"], f"{times} of {call.seeds}", first.partition(":")[0])
        Console().print(table)
        Console().print(f"{sum(None not in row['by'] for row in rows)} of {len(rows)} faults found in every run.")
    return 1 if any(None in row["by"] for row in rows) else 0


if __name__ == "__main__":
    run_command(main)
