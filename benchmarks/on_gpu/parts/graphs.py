"""The steps of ``steps`` as CUDA graphs: forward, backward and AdamW in one."""

from collections.abc import Iterator

from ..figures import captured
from ..findings import Context, guarded, left_out
from .steps import DTYPES, case_of, gradients_agree, race

HOW, LAYERS = "as a CUDA graph", 8


def findings(context: Context) -> Iterator[dict]:
    if not context.gpu:
        yield left_out(HOW, "a CUDA graph needs a GPU")
        return
    case = case_of(context, DTYPES[0], LAYERS)
    yield from guarded(HOW, gradients_agree(HOW, case, lambda backward, model: captured(backward)))
    yield from race(context, HOW, lambda case, model: captured(case.step(model, capturable=True)), LAYERS)
