"""What a method of the comparison is: its arguments at a budget of trained parameters, and a learning rate to start from.

Adapted are the 12 query and value weights of MiniLM, 384 × 384 each. A budget is a count of trained parameters beside the
head's, or ``OWN``: the size that the method's paper, or PEFT, takes by default.

Learning rates are AdamW's, for all that is trained beside the head. No paper's rate is for 80 steps, so ``--search`` only starts from
these; rates.json holds the rates that it found.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from unilora_spec.projection import KINDS

TARGETS = ("query", "value")
WEIGHTS, SIDE = 12, 384
RANK = 4  # of every method whose size the rank does not give, as in the papers of Uni-LoRA and VB-LoRA
D, ENTRIES = WEIGHTS * RANK * 2 * SIDE, WEIGHTS * SIDE * SIDE  # of θ_D at this rank; of whole weights
NEAR = 0.25  # the largest distance from a budget, as a part of it, at which a size still counts as that budget
OWN = "own"
REFERENCE, HEAD = "balanced", "head alone"  # the two that all others are compared with
RATES = Path(__file__).with_name("rates.json")  # method → budget → {"rate", "tried"}, as --search wrote it


@dataclass(frozen=True)
class Method:
    """One way to train MiniLM.

    name      as in the table and for --method
    about     what it is, in a few words
    choices   from a budget to the arguments that the method can have, of which the nearest to it are taken
    size      from arguments to the number of trained parameters
    own       its default arguments
    rate      the learning rate to start from, by arguments
    adapt     (model, arguments, seed, names of the head's parameters) → the model to train
    kind      of unilora_spec, or None for what is not ours
    rates_of  the method whose learning rates it takes, as it is the same with another draw of P or in other code
    """

    name: str
    about: str
    choices: Callable[[int], Iterator[dict]]
    size: Callable[[dict], int]
    own: dict
    rate: Callable[[dict], float]
    adapt: Callable[[nn.Module, dict, int, Sequence[str]], nn.Module]
    kind: str | None = None
    rates_of: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether this version has its kind."""
        return self.kind is None or self.kind in KINDS

    def arguments(self, budget: int | str) -> dict | None:
        """The arguments nearest to a budget, or None where they are farther from it than ``NEAR``."""
        if budget == OWN:
            return self.own
        nearest = self.nearest(budget)
        return nearest if abs(self.size(nearest) - budget) <= NEAR * budget else None

    def nearest(self, budget: int) -> dict:
        """The arguments nearest to a budget, however far that is."""
        return min(self.choices(budget), key=lambda arguments: abs(self.size(arguments) - budget))


def by_rank(budget: int) -> Iterator[dict]:
    """The arguments of a method whose size depends on its rank alone. A rank above the weights' own would add nothing."""
    return ({"rank": rank} for rank in range(1, SIDE + 1))


def constant(rate: float):
    return lambda arguments: rate
