"""What torch.compile leaves alone: code that decides what a call sees, once for each call.

Where a graph breaks within a model, the compiler goes on frame by frame. It would compile such code by itself, which would then take itself
for a part of a graph.
"""

from collections.abc import Callable

import torch
from torch._C._dynamo import eval_frame  # not torch._dynamo, whose import takes a second


def uncompiled(function: Callable) -> Callable:
    """A function that runs as it is written, with all that it calls; within a graph it can be traced like any other."""
    return _skipped(function, eval_frame._FrameAction.SKIP)


def itself_uncompiled(function: Callable) -> Callable:
    """The same of a function that calls what may well be compiled."""
    return _skipped(function, eval_frame._FrameAction.DEFAULT)


def _skipped(function, what_it_calls):
    strategy = eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, what_it_calls)
    eval_frame.set_code_exec_strategy(function.__code__, strategy)
    return function


def in_torch_func() -> bool:
    """Whether torch.func transforms what is computed, whose tensors have no values to look at."""
    return torch._C._functorch.peek_interpreter_stack() is not None
