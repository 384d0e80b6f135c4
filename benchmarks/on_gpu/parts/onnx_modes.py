"""The modes of an exported graph on CUDA by ONNX Runtime: their answers, and their times beside the merged one's."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ...measure import clocks
from ..exported import LARGE, SMALL, modes_in, read, write
from ..figures import Pair, figures
from ..findings import Context, checked, guarded, left_out

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
LEAST = 12  # seconds that have to be left for another mode
FAR = 1e-4
"""How far an answer may be off, as a part of the largest one where that is above 1: some thousand times float32's 2^-24, as each side
adds up in another order; a wrong entry of P moves it by 1e-3 and more."""


def findings(context: Context) -> Iterator[dict]:
    import onnxruntime  # imported here, so that its absence is a finding

    if context.gpu and CUDA not in onnxruntime.get_available_providers():
        yield left_out(
            "every mode", f"onnxruntime {onnxruntime.__version__} here has no {CUDA}: it is not onnxruntime-gpu"
        )
        return
    steps = {}
    for mode in modes_in(context.files) or write(context.files, LARGE if context.gpu else SMALL):
        yield from guarded(mode, _answers(context, context.files / f"{mode}.onnx", steps))
        if context.left() < LEAST:
            yield left_out("further modes", "no time was left")
            break
    if "merged" in steps:
        pairs = [Pair(f"{mode}, beside merged", mode, "merged") for mode in steps if mode != "merged"]
        yield from figures(context, steps, pairs, 60, seconds=lambda step: clocks(step)[0])


def _answers(context, path, steps):
    loaded = session(path, context.gpu)
    feed, expected = read(path.with_suffix(".npz"))
    got = dict(zip(expected, loaded.run(list(expected), feed)))
    faults = [f"{name} is off by {off:.2g}" for name in expected if not (off := _off(got[name], expected[name])) <= FAR]
    if (first := loaded.get_providers()[0]) != (CUDA if context.gpu else CPU):
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
