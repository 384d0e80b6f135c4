"""Keeps torch.compile away from code that decides, once for each call, which factors act.

Where a graph breaks within a model, the compiler goes on frame by frame. It would compile such code by itself, and the
code would then behave as if it were a part of a graph.
"""

from collections.abc import Callable

import torch
from torch._C._dynamo import eval_frame  # not torch._dynamo, whose import takes a second


def uncompiled(function: Callable) -> Callable:
    """Marks a function that is to run as it is written, with all that it calls; within a graph it is traced like any
    other."""
    return _skipped(function, eval_frame._FrameAction.SKIP)


def itself_uncompiled(function: Callable) -> Callable:
    """Marks a function that is to run as it is written itself, while what it calls may be compiled."""
    return _skipped(function, eval_frame._FrameAction.DEFAULT)


def _skipped(function, what_it_calls):
    strategy = eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, what_it_calls)
    eval_frame.set_code_exec_strategy(function.__code__, strategy)
    return function


def in_torch_func() -> bool:
    """Whether the code runs within a transform of torch.func, whose tensors have no values that can be read."""
    return torch._C._functorch.peek_interpreter_stack() is not None
