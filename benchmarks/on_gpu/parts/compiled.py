"""The steps of ``steps`` under torch.compile, of fewer layers: compiling four models takes most of the time."""

from collections.abc import Iterator
from functools import partial

import torch

from ..findings import Context, guarded
from .steps import DTYPES, case_of, gradients_agree, race

HOW, LAYERS = "compiled", 2


def findings(context: Context) -> Iterator[dict]:
    # A rehearsal captures the graphs alone: a C++ compiler would take a minute for them.
    compiled = partial(torch.compile, backend="inductor" if context.gpu else "aot_eager")
    case = case_of(context, DTYPES[0], LAYERS)
    yield from guarded(
        HOW, gradients_agree(HOW, case, lambda backward, model: partial(backward, case.loss(compiled(model))))
    )
    yield from race(context, HOW, lambda case, model: case.step(compiled(model)), LAYERS)
