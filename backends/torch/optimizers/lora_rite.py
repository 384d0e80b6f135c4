"""LoRA-RITE (arXiv 2410.20625): Adam in a basis of ΔW, so that the step of ΔW is the same whichever A and B make it
up."""

import torch
from torch import Tensor

from unilora_spec import KindError

from .pairs import PairsOptimizer, eigen


class LoraRite(PairsOptimizer):
    """Steps A and B of kind `identity` such that (A, B) and (RA, BR⁻¹), R invertible, move ΔW alike at every step.

        B = U·S, the polar decomposition          S = (BᵀB)^½
        ḡ = ∇Aᵀ·S⁻¹ = s·∇Wᵀ·U                     the "unmagnified" gradient: free of the size and shear of B
        V ← β₂·PVPᵀ + (1 − β₂)·ḡᵀḡ/in             P = Uᵀ·U_last: V and M of the last step, seen from the basis of now
        ρ ← β₂·(ρ + max(λ(V_last) − λ(PV_lastPᵀ)))  what of V has left the space that B spans
        M ← β₁·MPᵀ + (1 − β₁)·ḡ(V + ρI)^-½
        Aᵀ ← Aᵀ − lr·M·S⁻¹                        and B in the same way, by the polar decomposition of Aᵀ

    Moving averages with Adam's correction, the mean over rows, ``eps`` beside the root and ``clip``, the largest norm of all ḡ
    together (0: none), are those of the authors' code, which leaves ρ out by default; it is in here, as in their paper. Where B
    is zero, as at the start, A stays. Beside A and B, whose size M and U have, the state is 2·(r² + 1) numbers a segment. As
    in their code s is no part of the method: a step of ΔW is s·lr long, as it is by AdamW.

    ``unilora``     ``model.unilora``
    ``others``      groups of parameters for AdamW: ``[{"params": model.classifier.parameters(), "lr": 2e-3}]``

    Raises ``KindError`` for another kind: there A and B are rebuilt from θ and cannot be stepped, no other θ gives the same ΔW, and
    so there is nothing for a step to be the same for.
    """

    def __init__(self, unilora, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, clip=1.0, others=()):
        kind = unilora.projection.kind
        if kind != "identity":
            raise KindError(
                f"LoRA-RITE steps A and B themselves, which kind {kind} rebuilds from theta; "
                "take kind identity or another optimizer"
            )
        own = {"eps": eps, "clip": clip}
        super().__init__(unilora, others, own, lr=lr, betas=betas, weight_decay=weight_decay)

    def step_theta(self, gradient: Tensor, group: dict, state: dict) -> Tensor | None:
        sides, gradients = _sides(self.pairs.split(self.theta)), _sides(self.pairs.split(gradient))
        if not state:
            size = [len(numbers) for numbers in self.pairs.batches for _ in "AB"]
            ranks = [side.shape[-1] for side in sides]
            state["step"] = torch.tensor(0.0)
            state["basis"], state["first"] = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
            state["second"] = [self.theta.new_zeros(n, r, r) for n, r in zip(size, ranks)]
            state["escaped"] = [self.theta.new_zeros(n, 1) for n in size]
        state["step"] += 1
        beta1, beta2 = (_corrected(beta, state["step"].item()) for beta in group["betas"])
        polars = [_polar(side) for side in sides]
        partners = _swapped(polars)  # A moves by B's basis, and B by A's
        unmagnified = [g @ inverse for g, (_, inverse) in zip(gradients, partners)]
        norm = torch.stack([g.square().sum() for g in unmagnified]).sum().sqrt()
        shrink = (group["clip"] / norm).clamp(max=1) if group["clip"] else 1
        last = _swapped(_sides(self.pairs.split(state["basis"])))
        first, steps = _sides(self.pairs.split(state["first"])), []
        for i, (g, (basis, inverse)) in enumerate(zip(unmagnified, partners)):
            g, P, V = g * shrink, basis.mT @ last[i], state["second"][i].double()
            seen = P @ V @ P.mT
            left = (torch.linalg.eigvalsh(V) - torch.linalg.eigvalsh(seen)).amax(-1, keepdim=True).clamp(min=0)
            escaped = beta2 * (state["escaped"][i] + left)
            V = beta2 * seen + (1 - beta2) * g.mT @ g / g.shape[1]
            values, vectors = torch.linalg.eigh(V)
            root = 1 / ((values.clamp(min=0) + escaped).sqrt() + group["eps"])
            first[i] = beta1 * first[i] @ P.mT + (1 - beta1) * g @ (vectors * root[:, None]) @ vectors.mT
            steps.append(first[i] @ inverse)
            state["second"][i].copy_(V)
            state["escaped"][i].copy_(escaped)
        state["basis"].copy_(self.pairs.join(_pairs([basis for basis, _ in polars])))
        state["first"].copy_(self.pairs.join(_pairs(first)))
        self.theta.mul_(1 - group["lr"] * group["weight_decay"])
        self.theta.sub_(group["lr"] * self.pairs.join(_pairs(steps)).to(self.theta.dtype))


def _sides(pairs):
    """Aᵀ and B of each batch in turn: matrices whose columns are those of the rank."""
    return [side for A, B in pairs for side in (A.mT, B)]


def _pairs(sides):
    return [(A.mT, B) for A, B in zip(sides[::2], sides[1::2])]


def _swapped(sides):
    return [side for A, B in zip(sides[::2], sides[1::2]) for side in (B, A)]


def _corrected(beta, step):
    """Adam's bias correction as a decay: the weights of a moving average add up to one from the first step on."""
    return beta * (1 - beta ** (step - 1)) / (1 - beta**step)


def _polar(side):
    """U with orthonormal columns, and S⁻¹ (n, r, r), of U·S = ``side``; without the directions that ``side`` lacks."""
    values, vectors, present = eigen(side.mT @ side)
    roots = torch.where(present, values, torch.inf).rsqrt()
    inverse = (vectors * roots[:, None]) @ vectors.mT
    return side @ inverse, inverse
