"""An entry point: a module by which calls of an adapted model come in."""

import torch

from .compiling import in_torch_func, itself_uncompiled
from .in_place import InPlaceOfForward
from .probe import probing, runs_compiled


class EntryPoint(InPlaceOfForward):
    """Reports to ``calls`` (``Calls``) each call that comes in by ``module``, also by its ``forward``, and the end of
    the call, also by an interrupt. The first call checks that no adapted weight is read without a call of its module
    (probe.py)."""

    def __init__(self, module, calls):
        super().__init__(module)
        self.calls, self.is_probed = calls, False

    def run(self, *inputs, **named):
        if torch.compiler.is_compiling():
            return self._traced(inputs, named)
        return self._called(inputs, named)

    def _traced(self, inputs, named):
        self.calls.enter_graph()
        try:
            return self.inner(*inputs, **named)
        finally:
            self.calls.leave_graph()

    @itself_uncompiled
    def _called(self, inputs, named):
        try:
            self.calls.enter(self.module)
            if self.is_probed or in_torch_func() or runs_compiled(self.module):
                return self.inner(*inputs, **named)
            with probing(self.calls.multiplied_weights()):
                result = self.inner(*inputs, **named)
            self.is_probed = True
            return result
        finally:
            self.calls.leave()

    remove = InPlaceOfForward.close
