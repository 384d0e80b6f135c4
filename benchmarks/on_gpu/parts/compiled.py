"""The steps of ``steps`` under torch.compile, of fewer layers: compiling four models takes most of the time."""

from collections.abc import Iterator
from functools import partial

import torch

from ..findings import Given, tried
from .steps import DTYPES, case_of, gradients_agree, race

HOW, LAYERS = "compiled", 2


def findings(given: Given) -> Iterator[dict]:
    # A rehearsal captures the graphs alone: a C++ compiler would take a minute for them.
    compiled = partial(torch.compile, backend="inductor" if given.gpu else "aot_eager")
    case = case_of(given, DTYPES[0], LAYERS)
    yield from tried(
        HOW, gradients_agree(HOW, case, lambda backward, model: partial(backward, case.loss(compiled(model))))
    )
    yield from race(given, HOW, lambda case, model: case.step(compiled(model)), LAYERS)
