"""A module through which calls come in."""

import torch

from .compiling import in_torch_func, itself_uncompiled
from .in_place import InPlaceOfForward
from .probe import is_made, probing


class Door(InPlaceOfForward):
    """Tells ``doors`` (``Doors``) when a call comes in by ``module``, also by its ``forward``, and when it ends, by an interrupt too. The first
    one proves that no adapted weight is read past its module."""

    def __init__(self, module, doors):
        super().__init__(module)
        self.doors, self.is_probed = doors, False

    def run(self, *inputs, **named):
        if torch.compiler.is_compiling():
            return self._traced(inputs, named)
        return self._called(inputs, named)

    def _traced(self, inputs, named):
        self.doors.enter_graph()
        try:
            return self.inner(*inputs, **named)
        finally:
            self.doors.leave_graph()

    @itself_uncompiled
    def _called(self, inputs, named):
        try:
            self.doors.enter(self.module)
            if self.is_probed or in_torch_func() or is_made(self.module):
                return self.inner(*inputs, **named)
            with probing(self.doors.multiplied()):
                result = self.inner(*inputs, **named)
            self.is_probed = True
            return result
        finally:
            self.doors.leave()

    remove = InPlaceOfForward.close
