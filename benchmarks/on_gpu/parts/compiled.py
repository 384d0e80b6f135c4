"""The steps of ``steps`` under torch.compile, of fewer layers: compiling four models takes most of the time."""

from collections.abc import Iterator

import torch

from ..findings import Given, tried
from .steps import DTYPES, case_of, gradients_agree, race

HOW, LAYERS = "compiled", 2


def findings(given: Given) -> Iterator[dict]:
    case = case_of(given, DTYPES[0], LAYERS)
    yield from tried(HOW, gradients_agree(HOW, case, lambda backward, model: _compiled(backward, case, model)))
    yield from race(given, HOW, lambda case, model: case.step(torch.compile(model)), LAYERS)


def _compiled(backward, case, model):
    loss = case.loss(torch.compile(model))
    return lambda: backward(loss)
