"""The modes of an exported graph on CUDA by ONNX Runtime: their answers, and their times beside the merged one's."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ...measure import clocks
from ..exported import LARGE, SMALL, read, write, written
from ..figures import Pair, figures
from ..findings import Given, checked, left_out, tried

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
LEAST = 12  # seconds that have to be left for another mode
FAR = 1e-4
"""How far an answer may be off, as a part of the largest one where that is above 1: some thousand times float32's 2^-24, as each side
adds up in another order; a wrong entry of P moves it by 1e-3 and more."""


def findings(given: Given) -> Iterator[dict]:
    import onnxruntime  # within, so that its absence is told as one

    if given.gpu and CUDA not in onnxruntime.get_available_providers():
        yield left_out(
            "every mode", f"onnxruntime {onnxruntime.__version__} here has no {CUDA}: it is not onnxruntime-gpu"
        )
        return
    steps = {}
    for mode in written(given.files) or write(given.files, LARGE if given.gpu else SMALL):
        yield from tried(mode, _answers(given, given.files / f"{mode}.onnx", steps))
        if given.left() < LEAST:
            yield left_out("further modes", "no time was left")
            break
    if "merged" in steps:
        pairs = [Pair(f"{mode}, beside merged", mode, "merged") for mode in steps if mode != "merged"]
        yield from figures(given, steps, pairs, 60, seconds=lambda step: clocks(step)[0])


def _answers(given, path, steps):
    loaded = session(path, given.gpu)
    feed, expected = read(path.with_suffix(".npz"))
    got = dict(zip(expected, loaded.run(list(expected), feed)))
    faults = [f"{name} is off by {off:.2g}" for name in expected if not (off := _off(got[name], expected[name])) <= FAR]
    if (first := loaded.get_providers()[0]) != (CUDA if given.gpu else CPU):
        faults.append(f"it ran on {first}")
    yield checked(f"{path.stem}: its answers", 1, faults)
    steps[path.stem] = partial(loaded.run, list(expected), feed)


def session(path: Path, gpu: bool):
    """A file in ONNX Runtime. TF32 would round the factors of products to 10 bits."""
    import onnxruntime

    if gpu:
        onnxruntime.preload_dlls()  # CUDA's libraries as pip installs them beside torch
    providers = [(CUDA, {"use_tf32": "0"}), CPU] if gpu else [CPU]
    return onnxruntime.InferenceSession(path, providers=providers)


def _off(got, expected) -> float:
    return (
        float(np.abs(got - expected).max() / max(1.0, np.abs(expected).max()))
        if got.shape == expected.shape
        else np.inf
    )
