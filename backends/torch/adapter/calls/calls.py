"""The calls of an adapted model: each gets factors of the current θ, for one expansion of θ in each call of the model
or of a part.

An entry point is a module by which calls come in: the model, and its parts down to its lists of layers. The outermost
entry point of a call decides once which factors act, and its thread keeps them until the call ends; a module that is
called by itself decides for itself. The decision asks neither optimizers nor tensors' versions, which fused optimizers,
``.data`` and inference mode leave as they are:

- A forward of the whole model that wants a gradient expands θ anew.
- Any other call takes the last factors if θ has exactly the values that they were made of, and, where a gradient is
  wanted, if they have one and no backward pass has gone through them yet.
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
from .eager import eager
from .entry_point import EntryPoint
from .threads import PerThread

_HALVES = ({torch.bfloat16}, {torch.float16})


class _Call(PerThread):
    """Of each thread: ``held``, the factors of its call of the model; ``depth``, how many entry points the call is
    within; ``is_counted``, whether other threads wait for its end; ``off``, how many blocks switch the adapter off;
    ``instead``, the factors that act in place of θ's."""

    held: Factors | None = None
    instead: Factors | None = None
    depth = off = 0
    is_counted = False


class Calls:
    """The entry points of ``model`` and the factors of its ``vector`` that act in each call.

    ``structure``           checked when the model is called
    ``adapted_weights``     gives the adapted weights as they are now
    ``multiplied_weights``  gives, by name, the module and key of each weight that acts only where its module multiplies
                            by it
    ``parts``               the entry points besides the model
    ``enabled``             whether the adapter acts
    ``is_merged``           whether the weights hold W + ΔW for a while
    """

    def __init__(
        self,
        model: nn.Module,
        vector: Vector,
        structure: Structure,
        adapted_weights: Callable[[], Iterable[Tensor]],
        multiplied_weights: Callable[[], dict[str, tuple[nn.Module, str]]],
        parts: Iterable[nn.Module],
    ):
        self.model, self.vector, self.structure = model, vector, structure
        self.adapted_weights, self.multiplied_weights = adapted_weights, multiplied_weights
        self.enabled, self.is_merged = True, False
        self._begin()
        self.entry_points = [EntryPoint(module, self) for module in dict.fromkeys([model, *parts])]

    def _begin(self):
        self._last, self._traced, self._traced_depth = None, None, 0
        self._call, self._open_calls, self._pauser, self._changed = _Call(), 0, None, threading.Condition()

    def acting_factors(self) -> Factors | None:
        """The factors that act in this thread; None where the adapter does not act."""
        if torch.compiler.is_compiling():
            return self._traced if self._acts() else None
        call = self._call
        held = call.held
        if held is None or call.off or call.instead is not None:
            return self._outside_of_calls(call)
        if torch.is_grad_enabled() and not held.has_grad and self.vector.theta.requires_grad:
            return self._factors(fresh=False)  # a gradient is wanted in a part of a call that wants none
        return held

    def _outside_of_calls(self, call):
        if call.off or not self._acts():
            return None
        if call.instead is not None:
            self._check_layer_map(call.instead)
            return call.instead
        return self._factors(fresh=False)

    def current_factors(self) -> Factors:
        """The factors of the current θ, whether or not the adapter acts."""
        return self._call.held or self._factors(fresh=False)

    @property
    def is_in_call(self) -> bool:
        """Whether this thread is within a call of the model or of a part."""
        return torch.compiler.is_compiling() or self._call.depth > 0

    @contextlib.contextmanager
    def of_base(self):
        """Within the block, the calls of this thread are the base's: the adapter is off."""
        self._call.off += 1
        try:
            with eager():
                yield
        finally:
            self._call.off -= 1

    @property
    def is_off(self) -> bool:
        """Whether the adapter is off for this thread, in calls and between them."""
        if self.is_merged:
            return False
        return not self.enabled or (not torch.compiler.is_compiling() and self._call.off > 0)

    @contextlib.contextmanager
    def with_factors(self, factors: Factors):
        """Within the block, ``factors`` act in this thread in place of those of θ."""
        before, self._call.instead = self._call.instead, factors
        try:
            with eager():
                yield
        finally:
            self._call.instead = before

    @property
    def rows(self):
        """The ``Rows`` of this thread's batch; None where all rows have one adapter or none of them has one."""
        if torch.compiler.is_compiling() or self._call.instead is None or self._call.off or not self._acts():
            return None
        return self._call.instead.rows

    def _check_layer_map(self, instead):
        if instead.rows.layer_map is not self.vector.layer_map and instead.rows.layer_map != self.vector.layer_map:
            raise LayerMapError("an adapter of other weights was set within adapter_names; set it between two batches")

    def replace(self, vector: Vector, structure: Structure, parts: Iterable[nn.Module]) -> None:
        """Takes another vector, structure and parts; to be called within ``paused()``. The model's own entry point
        stays, so that calls wait."""
        self.vector, self.structure, self._last, self._traced = vector, structure, None, None
        there = {entry_point.module: entry_point for entry_point in self.entry_points}
        wanted = dict.fromkeys([self.model, *parts])
        for module, entry_point in there.items():
            if module not in wanted:
                entry_point.close()
        self.entry_points = [there.get(module) or EntryPoint(module, self) for module in wanted]
        for entry_point in self.entry_points:
            entry_point.is_probed = False

    def remove(self) -> None:
        """Takes the entry points off their modules."""
        for entry_point in self.entry_points:
            entry_point.close()

    @contextlib.contextmanager
    def paused(self):
        """Within the block no other thread is in a call: open calls end first, and calls that begin meanwhile wait.

        Raises ``LayerMapError`` within a call of the model itself.
        """
        if self._call.depth:
            raise LayerMapError("the adapter cannot be changed within a forward of its model; change it between two")
        me = threading.get_ident()
        with self._changed:
            nested = self._pauser == me
            if not nested:
                self._changed.wait_for(lambda: self._pauser is None)
                self._pauser = me  # from here on calls wait: a model that is called without a break would never be free
        try:
            if not nested:
                with self._changed:
                    self._changed.wait_for(lambda: not self._open_calls)
            yield
        finally:
            if not nested:
                with self._changed:
                    self._pauser = None
                    self._changed.notify_all()

    def enter_graph(self) -> None:
        """Begins an entry point within a graph that is traced: the outermost one makes the factors as a part of the
        graph, unless the graph is itself traced within a call."""
        self._traced_depth += 1
        if self._traced_depth == 1 and not self._open_calls and self._acts():
            self._traced = self._make_factors()

    def leave_graph(self) -> None:
        self._traced_depth -= 1

    @uncompiled
    def enter(self, module: nn.Module) -> None:
        """Begins a call that comes in by ``module``; ``leave`` ends it."""
        call = self._call
        call.depth += 1
        if call.depth > 1:
            return
        with self._changed:
            if self._pauser != threading.get_ident():
                self._changed.wait_for(lambda: self._pauser is None)
            self._open_calls += 1
            call.is_counted = True
        if module is self.model:
            self.structure.check()
        if self.is_merged and (call.off or call.instead):
            raise LayerMapError("the adapter is merged for evaluation; leave merged() for other outputs")
        if call.instead is not None and not call.off and self._acts():
            if self._wants_grad():
                raise LayerMapError("adapter_names is for inference; call the model within torch.no_grad()")
            self._check_layer_map(call.instead)
            return
        if self.is_merged and self._wants_grad():
            raise LayerMapError("the adapter is merged for evaluation; train outside of merged(), or use no_grad()")
        if not call.off and self._acts():
            # A training step of the whole model compares no values: a GPU would wait for it, and CUDA graphs could not
            # hold it.
            call.held = self._traced = self._factors(fresh=module is self.model and self._wants_grad())

    @uncompiled
    def leave(self) -> None:
        call = self._call
        call.depth = max(0, call.depth - 1)  # an interrupt may come before ``enter`` has counted
        if call.depth == 0:
            call.held = None
            with self._changed:
                self._open_calls -= call.is_counted
                call.is_counted = False
                self._changed.notify_all()

    def _acts(self):
        return self.enabled and not self.is_merged

    def _wants_grad(self):
        return torch.is_grad_enabled() and self.vector.theta.requires_grad

    @uncompiled
    def _factors(self, fresh: bool) -> Factors:
        """The last factors if they may be used again and ``fresh`` is false, else new ones."""
        last = self._last  # another thread may put its own there
        theta = self.vector.theta
        comparable = not fresh and last and not _has_no_values(theta)
        if comparable and last.are_usable_for(theta, self.dtype, self._wants_grad()):
            return last
        last = self._last = self._traced = None  # frees the memory of the last ones before the next are made
        self._last = made = self._make_factors()
        return made

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of factors: that of the adapted weights where all have the same half precision, else float32."""
        dtypes = {weight.dtype for weight in self.adapted_weights()}
        return dtypes.pop() if dtypes in _HALVES else torch.float32

    def _make_factors(self) -> Factors:
        theta, values, spent = self.vector.theta, None, []
        # FSDP gathers θ for each forward, and nothing says where its values are.
        if not (torch.compiler.is_compiling() or _has_no_values(theta) or hasattr(self.model, "unshard")):
            values = theta.detach().clone()
        theta_D = self.vector.expand(self.dtype)
        if values is not None and theta_D.requires_grad:
            theta_D.register_hook(lambda gradient: spent.append(True))
        return Factors(self.vector.cut(theta_D), values, spent, self.vector.storage.keeps_nothing, {})

    def __getstate__(self):
        # Factors are part of one forward's graph; a copy of the model makes its own, and has threads of its own.
        names = ("_last", "_traced", "_traced_depth", "_call", "_open_calls", "_pauser", "_changed")
        return {name: value for name, value in vars(self).items() if name not in names}

    def __setstate__(self, state):
        vars(self).update(state)
        self._begin()


def _has_no_values(theta: Tensor) -> bool:
    """Whether the values of θ cannot be read: within torch.func, on the meta device, while a CUDA graph is captured."""
    if theta.is_meta or in_torch_func():
        return True
    return theta.is_cuda and torch.cuda.is_current_stream_capturing()
