"""Callbacks of transformers' Trainer that move ranks during training, by the rank-one components of plain LoRA.

Component k of a pair is row k of A and column k of B, and adds s·B[:, k]·A[k] to the weight. With kind ``identity``
both are entries of θ, so that a component can be pruned or put in another's place; with other kinds entries are shared
or computed from others.

A pruned component has A[k] = 0 and B[:, k] = 0. Its gradient is then exactly zero, as each half's is a product with the other half,
and with its moments at zero too the optimizer leaves it where it is, so that no mask is kept. What a callback has to
remember is in the optimizer's state of θ, so that checkpoints hold it and ``--resume`` goes on with the same bytes.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from transformers import TrainerCallback

from unilora_spec import Adapter, LayerMap, Projection


def pairs(layer_map: LayerMap, vector):
    """A and B of every segment, as views of a vector of θ's length: θ itself, its gradient or a moment."""
    return [segment.factors(vector[start : start + segment.size]) for segment, start in layer_map.placed()]


def norms(pair) -> torch.Tensor:
    """The Frobenius norm ‖B[:, k]·A[k]‖ of each component k of a pair: float32[rank]."""
    A, B = pair
    return A.norm(dim=1) * B.norm(dim=0)


def _moments(state, theta):
    """The tensors of the optimizer's state that have a number for each entry of θ."""
    return [state[name] for name in sorted(state) if torch.is_tensor(state[name]) and state[name].shape == theta.shape]


class Dora(TrainerCallback):
    """Prunes the components of all targets, from ``unilora``'s layer map down to ``budget``, the least important first.

    Source: Mao, Huang, Guan, Bao, Mo, Xu 2024, arXiv 2405.17357, "DoRA: Enhancing Parameter-Efficient Fine-Tuning with Dynamic
    Rank Distribution", and its code, whose values these are. A component's importance is its norm as a share of ‖B·A‖ of its
    pair, an exponential mean over the steps; as many are pruned at each step as the cube of the time since the start of pruning
    says. Until pruning ends, the loss has the mean variance of the rows of A and columns of B on top, so that no component
    counts for a few large entries (the paper's dimensional equilibrium modulator).

    It differs from the paper in this: θ holds B·diag(c), where the paper trains c apart; a pruned component stays
    pruned, where theirs may grow back until pruning ends, and they prune at every hundredth step; the variance's
    gradient is added after that of the loss has been clipped.
    """

    START, END = 0.15, 0.5  # pruning, as shares of all steps
    BETA, ETA = 0.9, 0.1  # the decay of the exponential mean, and the weight of the variance

    def __init__(self, unilora, budget: int):
        self.unilora, self.layer_map, self.budget = unilora, unilora.layer_map, budget
        self.total = sum(segment.rank for segment in self.layer_map.segments)

    def left(self, progress: float) -> int:
        """The number of components that are left when a share ``progress`` of the time between START and END has
        passed."""
        return self.total - int((self.total - self.budget) * min(max(progress, 0.0), 1.0) ** 3)

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step >= self.END * state.max_steps:
            return
        theta = self.unilora.theta
        for (A, B), (of_A, of_B) in zip(pairs(self.layer_map, theta), pairs(self.layer_map, theta.grad)):
            for half, gradient, dim in ((A, of_A, 1), (B, of_B, 0)):
                weight = self.ETA / (2 * self.total) * 2 / max(1, half.shape[dim] - 1)
                gradient.add_(half - half.mean(dim, keepdim=True), alpha=weight)

    @torch.no_grad()
    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        start, end = self.START * state.max_steps, self.END * state.max_steps
        if state.global_step - 1 >= end:
            return
        theta = self.unilora.theta
        factors = pairs(self.layer_map, theta)
        alive = torch.cat([(A != 0).any(1) | (B != 0).any(0) for A, B in factors])
        # ‖B·A‖² is the sum of all entries of BᵀB ⊙ AAᵀ; no matrix of the weight's size is made
        whole = [((B.T @ B) * (A @ A.T)).sum().clamp(min=0).sqrt() + 1e-8 for A, B in factors]
        now = torch.cat([norms(pair) / norm for pair, norm in zip(factors, whole)])
        known = optimizer.state[theta]
        known["importance"] = self.BETA * known.get("importance", torch.zeros_like(now)) + (1 - self.BETA) * now
        if state.global_step < start:
            return
        ranking = known["importance"].masked_fill(~alive, -1).argsort(descending=True, stable=True)
        pruned = torch.ones_like(alive)
        pruned[ranking[: self.left((state.global_step - start) / (end - start))]] = False
        of_pair = pruned.split([segment.rank for segment in self.layer_map.segments])
        for vector in (theta, *_moments(known, theta)):
            for (A, B), gone in zip(pairs(self.layer_map, vector), of_pair):
                A.masked_fill_(gone.unsqueeze(1), 0)
                B.masked_fill_(gone, 0)


class Beam(TrainerCallback):
    """Puts important components in the place of unimportant ones of the same target, so that all ranks stay as they
    are.

    Source: Gu et al. 2025, arXiv 2502.13604, "BeamLoRA: Beam-Constraint Low-Rank Adaptation", and its code, whose values these are.
    The importances of a target sum to its rank. Of all targets together, sorted, those beyond a share p of the sum are pruned, p
    rising from 0.95 to 1 on a half cosine over two thirds of the steps; as many of the target's most important ones expand into
    their places, with the entries and moments that they had half an interval before, so that the two can diverge. Each
    then counts half.

    It differs from the paper in this: a component's importance is ‖B[:, k]·A[k]‖, by which the paper's analysis
    measures it; its method learns a score for each component instead, for which θ has no entries. At most half of a
    target is pruned, so that each pruned component has one that expands into its place. The interval is that of their
    example, 3,000 of 37,031 steps, as a share.
    """

    KEPT, INTERVAL, END = 0.95, 0.08, 2 / 3

    def __init__(self, unilora):
        self.unilora, self.layer_map = unilora, unilora.layer_map

    def kept_share(self, progress: float) -> float:
        """The share p of the sum of importances that is kept when a share ``progress`` of all steps is done."""
        return 1 - (1 - self.KEPT) * (1 + math.cos(math.pi * min(progress / self.END, 1.0))) / 2

    @torch.no_grad()
    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        interval = max(2, round(self.INTERVAL * state.max_steps))
        step, known = state.global_step, optimizer.state[self.unilora.theta]
        if step % interval == interval // 2:
            theta = self.unilora.theta.detach()
            known["half an interval before"] = torch.stack([theta, *_moments(known, theta)])
        elif step % interval == 0 and state.max_steps - step >= interval and step < self.END * state.max_steps:
            self._move(known, self.kept_share(step / state.max_steps))

    def _move(self, known, share):
        theta = self.unilora.theta
        current = [pairs(self.layer_map, vector) for vector in (theta, *_moments(known, theta))]
        before = [pairs(self.layer_map, vector) for vector in known["half an interval before"]]
        importances = [self._importances(pair) for pair in current[0]]
        together, order = torch.cat(importances).sort(descending=True, stable=True)
        beyond = torch.empty_like(order, dtype=torch.bool)
        beyond[order] = together.cumsum(0) > share * together.sum()
        for i, (importance, pruned) in enumerate(zip(importances, beyond.split([len(part) for part in importances]))):
            count = min(int(pruned.sum()), len(importance) // 2)
            if not count:
                continue
            best = importance.argsort(descending=True, stable=True)
            expanded, freed = best[:count], best[-count:]
            for now, then in zip(current, before):
                (A, B), (old_A, old_B) = now[i], then[i]
                A[freed], B[:, freed] = old_A[expanded], old_B[:, expanded]
            B = current[0][i][1]
            B[:, expanded] /= 2
            B[:, freed] /= 2

    @staticmethod
    def _importances(pair):
        size = norms(pair)
        return size * len(size) / size.sum() if size.sum() > 0 else torch.ones_like(size)


def without_pruned(adapter: Adapter) -> Adapter:
    """An adapter of kind ``identity`` without its pruned components: θ has fewer entries, and the layer map has the
    ranks that are left and no target without a rank. The adapter has no record of the base, as fewer weights may be
    adapted now.

    s of a segment depends on its rank (SPEC 7.7). The ratio of the old s to the new one goes into B, with each entry
    rounded once to float32: every ΔW is the same up to that rounding, and exactly the same where the ratio is a power
    of two.
    """
    old, left = adapter.layer_map, []
    for segment, A, B in adapter.factors():
        alive = A.any(axis=1) | B.any(axis=0)
        if alive.any():
            left.append((segment, replace(segment, rank=int(alive.sum())), A[alive], B[:, alive]))
    layer_map = LayerMap([segment for _, segment, _, _ in left], old.alpha, old.scaling)
    parts = []
    for before, segment, A, B in left:
        ratio = float(old.factor_scale(before)) / float(layer_map.factor_scale(segment))
        parts += [A.ravel(), (B.astype(np.float64) * ratio).astype(np.float32).ravel()]
    projection = Projection("identity", D=layer_map.D, d=layer_map.D, seed=adapter.projection.seed)
    return Adapter(projection, layer_map, np.concatenate(parts), None, adapter.saved, adapter.dtypes)
