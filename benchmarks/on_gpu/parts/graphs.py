"""The steps of ``steps`` as CUDA graphs: forward, backward and AdamW in one."""

from collections.abc import Iterator

from ..figures import captured
from ..findings import Given, left_out, tried
from .steps import DTYPES, case_of, gradients_agree, race

HOW, LAYERS = "as a CUDA graph", 8


def findings(given: Given) -> Iterator[dict]:
    if not given.gpu:
        yield left_out(HOW, "a CUDA graph needs a GPU")
        return
    case = case_of(given, DTYPES[0], LAYERS)
    yield from tried(HOW, gradients_agree(HOW, case, lambda backward, model: captured(backward)))
    yield from race(given, HOW, lambda case, model: captured(case.step(model, capturable=True)), LAYERS)
