"""LoRA-Pro (arXiv 2407.18242): a step of A and B that moves W as nearly as possible in the way of W's own gradient."""

import torch
from torch import Tensor

from unilora_spec.gather import Gather

from .pairs import PairsOptimizer, eigen

ROUNDS = 10  # of conjugate gradients; they leave 1e-4 of the solution where D is 6·d and A and B have one size
SOLVED = 1e-5  # of a residual: P works in float32, and further rounds would follow its rounding


class LoraPro(PairsOptimizer):
    """Steps θ by Adam on the gradient that ΔW sees.

    To move A by a and B by b moves ΔW by J(a, b) = s·(B·a + b·A), to first order; LoRA's gradients are Jᵀ∇W. The nearest that
    J(a, b) comes to ∇W, in the Frobenius norm, is found from LoRA's gradients g alone:

        a = (BᵀB)⁻¹g_A / s² + XA            b = (I − B(BᵀB)⁻¹Bᵀ)·g_B·(AAᵀ)⁻¹ / s² − BX

    X, which does not change J(a, b), makes (a, b) the nearest to (g_A, g_B): BᵀBX + XAAᵀ = −(BᵀB)⁻¹g_A·Aᵀ / s².
    Adam's two moments are those of J(a, b), matrices of the size of W, and what Adam makes of it is brought to A and B in the
    same way. ``efficient`` keeps the moments of a and b instead, as plain AdamW does, in 2·D numbers: the authors' code
    has both ways. Only with the first does a step of ΔW not depend on which A and B make it up.

    Through P, the Jacobian of θ_D at θ, the same question is asked of θ: which change t of θ brings J(Pt) nearest to ∇W? Its
    normal equations, PᵀJᵀJP·t = Pᵀg, have θ's gradient on the right, and conjugate gradients solve them with a P and a Pᵀ a
    round, ``rounds`` of them (none for kind `identity`). The paper has no P: this is our extension, and with P = I it
    is the paper's method. (Pᵀ(a, b) would not do instead: PPᵀ(a, b) is another move than (a, b), and nearest to
    nothing.)

    ``unilora``       ``model.unilora``
    ``weight_decay``  takes lr·weight_decay of ΔW, where θ_D is linear in θ; with ``efficient``, of θ
    ``others``        groups of parameters for AdamW: ``[{"params": model.classifier.parameters(), "lr": 2e-3}]``

    Raises ``KindError`` where a segment has rank 0, and so no A and B.
    """

    def __init__(
        self,
        unilora,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        efficient=False,
        rounds=ROUNDS,
        others=(),
    ):
        rounds = 0 if unilora.projection.kind == "identity" else rounds
        own = {"eps": eps, "efficient": efficient, "rounds": rounds}
        super().__init__(unilora, others, own, lr=lr, betas=betas, weight_decay=weight_decay)

    def step_theta(self, gradient: Tensor, group: dict, state: dict) -> Tensor | None:
        nearest = self._closed_form if group["rounds"] == 0 else self._by_conjugate_gradients
        factors = self._factors()
        gradient = nearest(gradient, factors)
        if group["efficient"]:
            return gradient.to(self.theta.dtype)
        moves = [s * (B @ a + b @ A) for (s, (A, B)), (a, b) in zip(factors, self.pairs.split(self._moved(gradient)))]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["first"], state["second"] = (
                [torch.zeros_like(E, dtype=self.theta.dtype) for E in moves] for _ in "12"
            )
        state["step"] += 1
        (beta1, beta2), step = group["betas"], state["step"].item()
        pulls = []
        for (s, (A, B)), E, first, second in zip(factors, moves, state["first"], state["second"]):
            E = E.to(first.dtype)
            first.lerp_(E, 1 - beta1)
            second.mul_(beta2).addcmul_(E, E, value=1 - beta2)
            E = first / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + group["eps"])
            E = s * E.double()
            pulls.append((B.mT @ E, E @ A.mT))
        change = nearest(self._transposed()(self.pairs.join(pulls)), factors)
        self.theta.mul_((1 - group["lr"] * group["weight_decay"]) ** 0.5)  # of θ; so ΔW decays by the square
        self.theta.sub_((group["lr"] * change).to(self.theta.dtype))

    def _factors(self):
        """s and A, B of each batch."""
        return list(zip(self.pairs.scales(self.theta.device), self.pairs.split(self._expand(self.theta))))

    # Two ways from PᵀJᵀE to the change t of θ for which J(Pt) is nearest to E

    def _closed_form(self, pulled, factors):
        return self.pairs.join([_closed(s, *f, *pair) for (s, f), pair in zip(factors, self.pairs.split(pulled))])

    def _by_conjugate_gradients(self, pulled, factors):
        grams = [(s**2, A, B, A @ A.mT, B.mT @ B) for s, (A, B) in factors]
        transposed, rest = self._transposed(), pulled.double()
        t, direction, size = torch.zeros_like(rest), rest, rest @ rest
        least = SOLVED**2 * size
        for _ in range(self.param_groups[0]["rounds"]):
            pairs = self.pairs.split(self._moved(direction))
            image = transposed(self.pairs.join([_normal(*gram, *pair) for gram, pair in zip(grams, pairs)]))
            curvature = direction @ image
            # 0 once it is solved, so that the host need not wait for the device to say so
            length = torch.where((size > least) & (curvature > 0), size / curvature, 0)
            t, rest = t + length * direction, rest - length * image
            last, size = size, rest @ rest
            direction = rest + torch.where(last > 0, size / last, 0) * direction
        return t

    def _expand(self, vector):
        return self.unilora.storage.expand(vector, torch.float64)

    def _moved(self, t):
        """Pt."""
        if isinstance(self.unilora.projection, Gather):  # linear: P is the same everywhere
            return self._expand(t)
        return torch.func.jvp(self._expand, (self.theta.double(),), (t,))[1]

    @torch.enable_grad()
    def _transposed(self):
        """A function that applies Pᵀ to a vector, any number of times."""
        theta = self.theta.detach().double().requires_grad_()
        theta_D = self._expand(theta)
        return lambda g: torch.autograd.grad(theta_D, theta, g, retain_graph=True)[0]


def _normal(s2, A, B, AA, BB, a, b):
    """JᵀJ(a, b), by products with the rank alone."""
    return s2 * (BB @ a + B.mT @ b @ A), s2 * (B @ (a @ A.mT) + b @ AA)


def _closed(s, A, B, g_A, g_B):
    """(a, b) of the class's docstring, where A and B have full rank or not."""
    (w, V, of_B), (u, Q, of_A) = eigen(B.mT @ B), eigen(A @ A.mT)
    inverse_B = (V * torch.where(of_B, 1 / w, 0)[:, None]) @ V.mT
    inverse_A = (Q * torch.where(of_A, 1 / u, 0)[:, None]) @ Q.mT
    a = inverse_B @ g_A / s**2
    sums = w[..., None] + u[:, None]
    X = V @ torch.where(sums > 0, V.mT @ (a @ -A.mT) @ Q / sums, 0) @ Q.mT
    b = (g_B - B @ (inverse_B @ (B.mT @ g_B))) @ inverse_A / s**2
    return a + X @ A, b - B @ X
