"""What is compared: for each method, its arguments at a budget of trained parameters, and a learning rate to start from.

Adapted are the 12 query and value weights of MiniLM, 384 × 384 each. A budget is a count of trained parameters beside the
head's, or ``OWN``: what the method's paper, or PEFT, takes where nothing is said.

Learning rates are AdamW's, for all of θ. No paper's rate is for 80 steps, so these only start ``--search``, which knows better;
rates.json holds what it found. Where P is isometric, a step of Adam moves each entry of θ_D by the rate times √(d / D),
so that a rate for the entries holds at every d (``for_entries``): the one at which LoRA and Uni-LoRA do alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from backends.torch import attach
from unilora_spec.projection import KINDS

from .. import peers

TARGETS = ("query", "value")
WEIGHTS, SIDE = 12, 384
RANK = 4  # of every method whose size the rank does not give, as in the papers of Uni-LoRA and VB-LoRA
D = WEIGHTS * RANK * 2 * SIDE  # of θ_D at this rank
NEAR = 0.25  # of a budget: what lies farther from it is another budget
OWN = "own"
REFERENCE, HEAD = "balanced", "head alone"  # what all others stand beside
RATES = Path(__file__).with_name("rates.json")  # method → budget → {"rate", "tried"}, as --search wrote it


@dataclass(frozen=True)
class Method:
    """One way to train MiniLM.

    name      as in the table and for --method
    about     what it is, in a few words
    choices   the arguments it can have at a budget: those nearest to it are taken
    size      parameters trained with such arguments
    own       its arguments where nothing is said
    rate      the learning rate to start from, by arguments
    adapt     (model, arguments, seed, names of the head's parameters) → the model to train
    kind      of unilora_spec, or None for what is not ours
    rates_of  the method whose rates it takes: the same with another start, another draw of P or other code
    """

    name: str
    about: str
    choices: Callable[[int], Iterator[dict]]
    size: Callable[..., int]
    own: dict
    rate: Callable[[dict], float]
    adapt: Callable[[nn.Module, dict, int, Sequence[str]], nn.Module]
    kind: str | None = None
    rates_of: str | None = None

    def arguments(self, budget: int | str) -> dict | None:
        """The arguments nearest to a budget, or None where they are farther from it than ``NEAR``."""
        if budget == OWN:
            return self.own
        nearest = self.nearest(budget)
        return nearest if abs(self.size(**nearest) - budget) <= NEAR * budget else None

    def nearest(self, budget: int) -> dict:
        """The arguments nearest to a budget, however far that is."""
        return min(self.choices(budget), key=lambda arguments: abs(self.size(**arguments) - budget))

    @property
    def is_known(self) -> bool:
        """Whether this version has its kind."""
        return self.kind is None or self.kind in KINDS


def any_d(rank: int):
    """Choices of a method that has every d: the budget itself."""
    return lambda budget: iter([{"rank": rank, "d": budget}])


def by_rank(budget: int) -> Iterator[dict]:
    """Choices of a method that the rank alone makes larger; a rank above the weights' own adds nothing to it."""
    return ({"rank": rank} for rank in range(1, SIDE + 1))


def constant(rate: float):
    return lambda arguments: rate


def for_entries(rate: float, entries: int = D):
    """The rate of θ that moves each of its ``entries`` in θ_D by ``rate`` in a step."""
    return lambda arguments: rate * (entries / arguments["d"]) ** 0.5


def ours(kind: str):
    def adapt(model, arguments, seed, head):
        return attach(model, seed=seed, targets=TARGETS, kind=kind, train_in_full=head, **arguments)

    return adapt


def head_alone(model, arguments, seed, head):
    model.requires_grad_(False)
    for name in head:
        model.get_parameter(name).requires_grad_(True)
    return model


def peft_unilora(model, arguments, seed, head):
    return peers.unilora(model, arguments["rank"], TARGETS, arguments["d"], seed, task_type="SEQ_CLS")


def peft_lora(model, arguments, seed, head):
    return peers.lora(model, arguments["rank"], TARGETS, task_type="SEQ_CLS")


def _any_d(name, about, rate, kind=None, rank=RANK, **more):
    # The paper's d for RoBERTa-base, by its authors' scripts. Of fastfood it is the rival; GPart's could not be looked up.
    return Method(
        name,
        about,
        any_d(rank),
        lambda rank, d: d,
        {"rank": rank, "d": 23040},
        rate,
        **{"adapt": ours(kind), "kind": kind} | more,
    )


def _by_rank(name, about, size, own, rate, kind=None, **more):
    return Method(name, about, by_rank, size, {"rank": own}, rate, **{"adapt": ours(kind), "kind": kind} | more)


# The paper's sub-vectors are 256 of 768 long, a third of a row, each a mix of 2; PEFT's bank has 256 of them.
def _bank(vectors):
    return {"rank": RANK, "options": {"vectors": vectors, "length": SIDE // 3, "top": 2}}


def _bank_size(rank, options):
    """The bank, and a logit for each of its vectors in each sub-vector of θ_D."""
    return options["vectors"] * (options["length"] + WEIGHTS * rank * 2 * SIDE // options["length"])


def _lora(rank):
    return WEIGHTS * rank * 2 * SIDE


# 4e-3 for an entry: LoRA trains best here at 5e-3, and Uni-LoRA with d = 5,760 at 1e-2, which is 4e-3 for an entry.
_GATHER = for_entries(4e-3)
_LORA = constant(5e-3)
METHODS = {
    method.name: method
    for method in (
        Method(HEAD, "no adapter", lambda budget: iter([{}]), lambda: 0, {}, constant(1e-2), head_alone),
        _any_d(REFERENCE, "Uni-LoRA", _GATHER, "balanced"),
        _any_d("uniform", "Uni-LoRA, columns drawn independently", _GATHER, "uniform", rates_of=REFERENCE),
        _any_d("layerwise", "Uni-LoRA within each layer", _GATHER, "layerwise", rates_of=REFERENCE),
        _any_d("nonuniform", "Uni-LoRA, θ split unevenly between A and B", _GATHER, "nonuniform", rates_of=REFERENCE),
        _any_d("fastfood", "a dense P by fast transforms", _GATHER, "fastfood"),
        # Whole weights move where an entry of A or B would: about as far as full fine-tuning lets them, some 1e-4 a step.
        _any_d(
            "partition",
            "GPart: θ spread over whole weights",
            for_entries(1e-4, WEIGHTS * SIDE * SIDE),
            "balanced",
            rank=0,
        ),
        _by_rank("identity", "LoRA", _lora, 8, _LORA, "identity"),
        # Its authors train RoBERTa at 4e-3 to 1e-2 where LoRA's take 5e-4: ten times LoRA's.
        _by_rank("vera", "VeRA", lambda rank: WEIGHTS * (SIDE + rank), 256, constant(5e-2), "vera"),
        _by_rank("tied", "Tied-LoRA", lambda rank: 2 * SIDE * rank + WEIGHTS * (rank + SIDE), 8, _LORA, "tied"),
        # Its authors have two rates, 1e-3 for the bank and 1e-2 for the logits. θ is one vector, with one rate.
        Method(
            "vb",
            "VB-LoRA",
            lambda budget: map(_bank, range(2, 257)),
            _bank_size,
            _bank(256),
            constant(1e-2),
            ours("vb"),
            "vb",
        ),
        # The authors' scripts try 1e-4 to 1e-3 on RoBERTa-large, and ranks up to 25.
        _by_rank("xs", "LoRA-XS", lambda rank: WEIGHTS * rank**2, 25, _LORA, "xs"),
        # No rank could be looked up for these two: LoRA's.
        _by_rank("qr", "QR-LoRA", lambda rank: WEIGHTS * rank * SIDE, 8, _LORA, "qr"),
        _by_rank("dense", "DenseLoRA", lambda rank: 2 * SIDE * rank + WEIGHTS * rank**2, 8, _LORA, "dense"),
        _any_d("PEFT UniLora", "Hugging Face PEFT's", _GATHER, adapt=peft_unilora, rates_of=REFERENCE),
        _by_rank("PEFT LoRA", "Hugging Face PEFT's", _lora, 8, _LORA, adapt=peft_lora, rates_of="identity"),
    )
}
