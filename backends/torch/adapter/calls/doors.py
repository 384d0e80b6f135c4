"""Whoever asks for factors gets those of the θ of now, at the cost of one expansion for each call of the model or of a part.

A door is a module through which calls come in: the model, and its parts down to its lists of layers. The outermost door of a
call decides once, and its thread keeps the factors until the call ends; a module that is called by itself decides for itself. Nothing
is asked of optimizers, nor of tensors' versions, which fused optimizers, ``.data`` and inference mode leave as they are:

- A forward of the whole model that wants a gradient expands θ anew.
- Any other takes the last factors where θ has exactly the values that they were made of; if a gradient is wanted, where they have one, and no
  backward pass has come back through them yet.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from unilora_spec import LayerMapError

from ..targets.structure import Structure
from ..theta.factors import Factors
from ..theta.vector import Vector
from .compiling import in_torch_func, uncompiled
from .door import Door
from .eager import eager
from .threads import PerThread

_HALVES = ({torch.bfloat16}, {torch.float16})


class _Call(PerThread):
    """Of a thread: what its call of the model holds, of which ``depth`` doors are open, and that others wait for if it ``is_counted``; how
    often the adapter is ``off``, and the factors that act ``instead`` of θ's."""

    held: Factors | None = None
    instead: Factors | None = None
    depth = off = 0
    is_counted = False


class Doors:
    """The doors of ``model`` and the factors of its ``vector``; ``weights`` gives the adapted weights of now.

    ``parts`` are doors besides the model, ``structure`` is looked at when the model is called; ``enabled`` is whether the adapter acts, ``is_merged`` whether the weights hold W + ΔW for now.
    """

    def __init__(
        self,
        model: nn.Module,
        vector: Vector,
        structure: Structure,
        weights: Callable[[], Iterable[Tensor]],
        multiplied: Callable[[], dict[str, tuple[nn.Module, str]]],
        parts: Iterable[nn.Module],
    ):
        self.model, self.vector, self.structure = model, vector, structure
        self.weights, self.multiplied = weights, multiplied
        self.enabled, self.is_merged = True, False
        self._begin()
        self.doors = [Door(module, self) for module in dict.fromkeys([model, *parts])]

    def _begin(self):
        self._last, self._traced, self._traced_depth = None, None, 0
        self._call, self._inside, self._switcher, self._changed = _Call(), 0, None, threading.Condition()

    def now(self) -> Factors | None:
        """The factors of now; None where the adapter does not act."""
        if torch.compiler.is_compiling():
            return self._traced if self._acts() else None
        call = self._call
        held = call.held
        if held is None or call.off or call.instead is not None:
            return self._of_no_door(call)
        if torch.is_grad_enabled() and not held.has_grad and self.vector.theta.requires_grad:
            return self._current(fresh=False)  # a gradient is wanted in a part of a call that wants none
        return held

    def _of_no_door(self, call):
        if call.off or not self._acts():
            return None
        if call.instead is not None:
            self._check(call.instead)
            return call.instead
        return self._current(fresh=False)

    def current(self) -> Factors:
        """Those of now whether or not the adapter acts."""
        return self._call.held or self._current(fresh=False)

    @property
    def is_open(self) -> bool:
        """Whether this thread is within a call of the model or of a part."""
        return torch.compiler.is_compiling() or self._call.depth > 0

    @contextlib.contextmanager
    def off(self):
        """Within the block, the calls of this thread are the base's."""
        self._call.off += 1
        try:
            with eager():
                yield
        finally:
            self._call.off -= 1

    @property
    def is_off(self) -> bool:
        """Whether this thread sees the base, in calls and between them."""
        if self.is_merged:
            return False
        return not self.enabled or (not torch.compiler.is_compiling() and self._call.off > 0)

    @contextlib.contextmanager
    def instead(self, factors: Factors):
        """Within the block, these factors act in this thread, whatever θ is."""
        before, self._call.instead = self._call.instead, factors
        try:
            with eager():
                yield
        finally:
            self._call.instead = before

    @property
    def rows(self):
        """The ``Rows`` of this thread's batch; None where all rows have one adapter, or none."""
        if torch.compiler.is_compiling() or self._call.instead is None or self._call.off or not self._acts():
            return None
        return self._call.instead.rows

    def _check(self, instead):
        if instead.rows.layer_map is not self.vector.layer_map and instead.rows.layer_map != self.vector.layer_map:
            raise LayerMapError("an adapter of other weights was set within adapter_names; set it between two batches")

    def through(self, vector: Vector, structure: Structure, parts: Iterable[nn.Module]) -> None:
        """Takes another vector, of another structure and other parts; within ``switching()``. The model's own door stays, so that calls
        wait."""
        self.vector, self.structure, self._last, self._traced = vector, structure, None, None
        there = {door.module: door for door in self.doors}
        wanted = dict.fromkeys([self.model, *parts])
        for module, door in there.items():
            if module not in wanted:
                door.close()
        self.doors = [there.get(module) or Door(module, self) for module in wanted]
        for door in self.doors:
            door.is_probed = False

    def remove(self) -> None:
        """Takes the doors away."""
        for door in self.doors:
            door.close()

    @contextlib.contextmanager
    def switching(self):
        """Within the block nobody else is in a call: those of other threads end first, and those that come wait.

        Raises ``LayerMapError`` within a call of the model itself.
        """
        if self._call.depth:
            raise LayerMapError("the adapter cannot be changed within a forward of its model; change it between two")
        me = threading.get_ident()
        with self._changed:
            nested = self._switcher == me
            if not nested:
                self._changed.wait_for(lambda: self._switcher is None)
                self._switcher = me  # from here on calls wait: a model that serves without a break would never be free
        try:
            if not nested:
                with self._changed:
                    self._changed.wait_for(lambda: not self._inside)
            yield
        finally:
            if not nested:
                with self._changed:
                    self._switcher = None
                    self._changed.notify_all()

    def enter_graph(self) -> None:
        """A graph is traced, whose outermost door makes factors as a part of it, if it is not itself within a call."""
        self._traced_depth += 1
        if self._traced_depth == 1 and not self._inside and self._acts():
            self._traced = self._made()

    def leave_graph(self) -> None:
        self._traced_depth -= 1

    @uncompiled
    def enter(self, module: nn.Module) -> None:
        """A call comes in by ``module``; ``leave`` ends it."""
        call = self._call
        call.depth += 1
        if call.depth > 1:
            return
        with self._changed:
            if self._switcher != threading.get_ident():
                self._changed.wait_for(lambda: self._switcher is None)
            self._inside += 1
            call.is_counted = True
        if module is self.model:
            self.structure.check()
        if self.is_merged and (call.off or call.instead):
            raise LayerMapError("the adapter is merged for evaluation; other outputs are had outside of merged()")
        if call.instead is not None and not call.off and self._acts():
            if self._wants_grad():
                raise LayerMapError("adapter_names is for inference; call the model within torch.no_grad()")
            self._check(call.instead)
            return
        if self.is_merged and self._wants_grad():
            raise LayerMapError("the adapter is merged for evaluation; train outside of merged(), or use no_grad()")
        if not call.off and self._acts():
            # Of the whole model, a step compares nothing: a GPU would wait for it, and CUDA graphs could not hold it.
            call.held = self._traced = self._current(fresh=module is self.model and self._wants_grad())

    @uncompiled
    def leave(self) -> None:
        call = self._call
        call.depth = max(0, call.depth - 1)  # an interrupt may come before ``enter`` has counted
        if call.depth == 0:
            call.held = None
            with self._changed:
                self._inside -= call.is_counted
                call.is_counted = False
                self._changed.notify_all()

    def _acts(self):
        return self.enabled and not self.is_merged

    def _wants_grad(self):
        return torch.is_grad_enabled() and self.vector.theta.requires_grad

    @uncompiled
    def _current(self, fresh: bool) -> Factors:
        last = self._last  # another thread may put its own there
        theta = self.vector.theta
        seen = not fresh and last and not _is_unseen(theta)
        if seen and last.are_usable_for(theta, self.dtype, self._wants_grad()):
            return last
        last = self._last = self._traced = None  # the memory of the last ones before that of the next
        self._last = made = self._made()
        return made

    @property
    def dtype(self) -> torch.dtype:
        """What factors are made in: the adapted weights' own where all are of one half precision, else float32."""
        dtypes = {weight.dtype for weight in self.weights()}
        return dtypes.pop() if dtypes in _HALVES else torch.float32

    def _made(self) -> Factors:
        theta, seen, spent = self.vector.theta, None, []
        # FSDP gathers θ for each forward, and where is told by nothing.
        if not (torch.compiler.is_compiling() or _is_unseen(theta) or hasattr(self.model, "unshard")):
            seen = theta.detach().clone()
        theta_D = self.vector.expand(self.dtype)
        if seen is not None and theta_D.requires_grad:
            theta_D.register_hook(lambda gradient: spent.append(True))
        return Factors(self.vector.cut(theta_D), seen, spent, self.vector.storage.keeps_nothing, {})

    def __getstate__(self):
        # Factors are part of one forward's graph; a copy of the model makes its own, and has threads of its own.
        names = ("_last", "_traced", "_traced_depth", "_call", "_inside", "_switcher", "_changed")
        return {name: value for name, value in vars(self).items() if name not in names}

    def __setstate__(self, state):
        vars(self).update(state)
        self._begin()


def _is_unseen(theta: Tensor) -> bool:
    """Whether the values of θ cannot be looked at: within torch.func, on the meta device, while a CUDA graph is captured."""
    if theta.is_meta or in_torch_func():
        return True
    return theta.is_cuda and torch.cuda.is_current_stream_capturing()
