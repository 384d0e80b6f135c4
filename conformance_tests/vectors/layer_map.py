"""The layer map: how it is written, what it refuses, and the delta weights that it gives (SPEC 7)."""

from .. import hostile
from ..oracle import files
from .case import projection, vector
from .file import hostile_files


def layer_map():
    yield from hostile_files("7")
    tensors = {"theta": {"dtype": "F32", "shape": [2], "values": [1.0, -0.5]}}
    for case, names in hostile.FOLDINGS.items():
        segments = [{"name": name, "out": 1, "in": 1, "rank": 1} for name in names]
        text = hostile.text_of(segments)
        file = files.write(text, {"theta": ("F32", [2], [1.0, -0.5])})
        yield vector("7.9", f"folding: {case}", "write", {"file": file}, description=text, tensors=tensors)
    yield from delta_weights()


def small(rank, scaling="lora", **segment):
    """An adapter whose products are exact in float32, in any order: small whole numbers."""
    layers = [{"name": "w", "out": 2, "in": 3, "rank": rank, **segment}]
    D = files.size(layers[0])
    text = {"projection": projection("identity", D, D), "alpha": 2 * (rank or 1), "layers": layers, "scaling": scaling}
    theta = [float(i % 7 - 3) for i in range(D)]
    return text, theta, files.write(text, {"theta": ("F32", [D], theta)})


def delta_weights():
    for rank in (0, 1, 2):
        text, theta, file = small(rank)
        s = files.factor_scale(text, text["layers"][0])
        A, B = (theta[: 3 * rank], theta[3 * rank :]) if rank else ([], [])
        product = [sum(B[o * rank + r] * A[r * 3 + i] for r in range(rank)) for o in range(2) for i in range(3)]
        delta = files.delta(s, product if rank else theta)
        expected = {"A": A, "B": B, "delta": delta}
        yield vector("7.7", f"rank {rank}, whole numbers", "delta_weight", expected, file=file, segment=0)
        weights = {"w": {"shape": [2, 3], "values": [1.0] * 6}}
        merged = {"w": {"shape": [2, 3], "values": [1.0 + x for x in delta]}}
        yield vector(
            "7.10", f"rank {rank}", "merge", {"weights": merged, "same_contents": None}, file=file, weights=weights
        )
        _, _, file = small(rank, transposed=True)
        turned = {"w": {"shape": [3, 2], "values": [1.0 + delta[o * 3 + i] for i in range(3) for o in range(2)]}}
        weights = {"w": {"shape": [3, 2], "values": [1.0] * 6}}
        yield vector("7.3", f"rank {rank}, stored (in, out)", "merge", {"weights": turned}, file=file, weights=weights)
