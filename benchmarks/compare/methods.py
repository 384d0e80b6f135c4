"""The methods that are compared: each kind of the specification, and those of PEFT from ``peers``.

Where P is isometric, a step of Adam moves each entry of θ_D by the rate times √(d / D), so that a rate for the entries holds at
every d (``for_entries``).
"""

import math

from backends.torch import attach
from unilora_spec import LayerMap, Segment
from unilora_spec.projection import KINDS

from .. import peers
from .method import ENTRIES, HEAD, RANK, REFERENCE, SIDE, TARGETS, WEIGHTS, D, Method, by_rank, constant
from .peers import PEERS


def by_d(rank: int, most: int):
    """What has every d up to one."""
    return lambda budget: iter([{"rank": rank, "d": min(budget, most)}])


def d_of(kind: str):
    """The length of θ that the specification gives a kind for these weights, while it is trained."""

    def size(arguments):
        segments = [Segment(str(number), SIDE, SIDE, arguments["rank"]) for number in range(WEIGHTS)]
        trained = KINDS[kind].trained_as()
        defaults = {name: option.default for name, option in trained.known_options.items()}
        return trained.dim(LayerMap(segments), **defaults | arguments.get("options", {}))

    return size


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


def _free(name, about, kind, rate, rank=RANK, most=D, adapt=None, rates_of=None):
    """A method that has every d. Its own is Uni-LoRA's for RoBERTa-base, by the authors' scripts; none could be looked up for
    GPart."""
    own, size = {"rank": rank, "d": 23040}, lambda arguments: arguments["d"]
    return Method(name, about, by_d(rank, most), size, own, rate, adapt or ours(kind), kind, rates_of)


def _ranked(name, about, kind, rate, own):
    return Method(name, about, by_rank, d_of(kind), {"rank": own}, rate, ours(kind), kind)


def _bank(rows):
    return {"rank": RANK, "options": {"length": SIDE // 3, "bank": rows}}


def _tiny(u):
    """One group, on the rank that the paper finds best, or the least whose R have as many entries."""
    return {"rank": max(2, math.ceil((u / WEIGHTS) ** 0.5)), "options": {"u": u, "groups": 1}}


def _of_tiny(arguments):
    """An entry of R is a sum of u numbers of θ times ones of variance 1/r: 4.5e-2 for it, at which LoRA-XS trains best with 192."""
    return 4.5e-2 * (arguments["rank"] / arguments["options"]["u"]) ** 0.5


# 4e-3 for an entry: LoRA trains best here at 5e-3, and Uni-LoRA with d = 5,760 at 1e-2, which is 4e-3 for an entry.
_GATHER = for_entries(4e-3)
# What full fine-tuning lets an entry of a weight move in a step, 1e-4, hardly trains anything here: 0.604 with d = 5,760.
_WHOLE = for_entries(8e-3, ENTRIES)
_LORA = constant(5e-3)
METHODS = {
    method.name: method
    for method in (
        Method(HEAD, "no adapter", lambda budget: iter([{}]), lambda _: 0, {}, constant(1e-2), head_alone),
        _free(REFERENCE, "Uni-LoRA", "balanced", _GATHER),
        _free("uniform", "Uni-LoRA, columns drawn independently", "uniform", _GATHER, rates_of=REFERENCE),
        _free("layerwise", "Uni-LoRA within each layer", "layerwise", _GATHER, rates_of=REFERENCE),
        # Two thirds of θ are all B's, half of θ_D.
        _free("nonuniform", "Uni-LoRA, more of θ for B", "nonuniform", _GATHER, most=D * 3 // 4, rates_of=REFERENCE),
        _free("fastfood", "a dense P by fast transforms", "fastfood", _GATHER),
        _free("partition", "GPart: θ spread over whole weights", "balanced", _WHOLE, rank=0, most=ENTRIES),
        _ranked("identity", "LoRA", "identity", _LORA, 8),
        # Ten times LoRA's: VeRA's RoBERTa is trained at 4e-3 to 1e-2, LoRA's at 5e-4.
        _ranked("vera", "VeRA", "vera", constant(5e-2), 256),
        # One of the ranks that the authors try, as far as could be looked up; their rates could not.
        _ranked("tied", "Tied-LoRA", "tied", _LORA, 8),
        # Sub-vectors of a third of a row, as 256 of 768 in the paper, whose bank has 90 rows. Its rates are two, 1e-3 for the bank and
        # 1e-2 for the logits; θ is one vector, with one rate.
        Method(
            "vb",
            "VB-LoRA",
            lambda budget: map(_bank, range(2, 513)),
            d_of("vb"),
            _bank(90),
            constant(1e-2),
            ours("vb"),
            "vb",
        ),
        # The authors' scripts try 1e-4 to 1e-3 on RoBERTa-large, and ranks up to 25.
        _ranked("xs", "LoRA-XS", "xs", _LORA, 25),
        # The paper's 13 numbers for all weights, on rank 2. Beyond a thousand it is LoRA-XS on another basis.
        Method(
            "tiny",
            "TinyLoRA",
            lambda budget: map(_tiny, range(1, 1001)),
            d_of("tiny"),
            _tiny(13),
            _of_tiny,
            ours("tiny"),
            "tiny",
        ),
        # No rank of these two could be looked up: LoRA's. Of QR-LoRA half is frozen, and the other half has to move farther.
        _ranked("qr", "QR-LoRA", "qr", constant(5e-2), 8),
        _ranked("dense", "DenseLoRA", "dense", _LORA, 8),
        _free("PEFT UniLora", "Hugging Face PEFT's", None, _GATHER, adapt=peft_unilora, rates_of=REFERENCE),
        Method(
            "PEFT LoRA",
            "Hugging Face PEFT's",
            by_rank,
            d_of("identity"),
            {"rank": 8},
            _LORA,
            peft_lora,
            rates_of="identity",
        ),
        *PEERS,
    )
}
