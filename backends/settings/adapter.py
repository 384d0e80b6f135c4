"""Options of an adapter and its base, for a plan and for a training run."""

import math
from dataclasses import dataclass

from unilora_spec import UniLoraError
from unilora_spec.projection import KINDS

from .options import (
    BEFORE,
    DTYPES,
    DURING,
    NAMES,
    OPTIONS,
    PLANNERS,
    PROXIES,
    QUANTIZED,
    RANKS,
    TEXT,
    listed,
    number,
    one_of,
    option,
    whole,
)
from .settings import Settings


@dataclass
class AdapterSettings(Settings):
    """An adapter and its base; texts and numbers are converted as those of the command line are.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    base: str = option("Data and task", TEXT, "Base model: a folder, or an id of the Hugging Face Hub.")
    dtype: str = option(
        "Data and task",
        one_of(*DTYPES),
        "Numbers in which the frozen base is held and computed; the vector and its gradient stay float32. auto: as the base is saved, but "
        "float32 on a CPU without arithmetic for that. With float16 the loss is not scaled.",
        DTYPES[0],
    )
    quantize: str | None = option(
        "Data and task",
        one_of(*QUANTIZED),
        "Hold the base's linear layers in fewer bits: nf4 or int8 by bitsandbytes, torchao-int4 or torchao-int8 by torchao, which have "
        "to be installed.",
    )
    targets: tuple[str, ...] | None = option(
        "Adapter",
        NAMES,
        "Modules to adapt: ends of their names, regular expressions, or all-linear; by default those of the model's type, "
        "and for a causal-lm all-linear.",
    )
    exclude: tuple[str, ...] = option("Adapter", NAMES, "Targets to leave out, by patterns of the same form.", ())
    rank: int = option(
        "Adapter",
        whole(0),
        "Rank of every target, or the mean of the ranks that a planner gives; 0: the entries of the delta weight itself, without A and B.",
        4,
    )
    ranks: dict[str, int] | str | None = option(  # noqa: RUF009
        "Adapter",
        RANKS,
        f"Other ranks by target, such as query=8,value=2, or the planner that finds them: {listed(PLANNERS)}. "
        "gelora and hetero look at --data; beam and dora move ranks during training, and need --kind identity.",
    )
    proxy: str = option(
        "Adapter", one_of(*PROXIES), f"Score by which hetero gives ranks: {listed(PROXIES)}.", PROXIES[0]
    )
    dim: int | None = option(
        "Adapter",
        whole(1),
        "Length d of the trained vector; in training the default follows from task and D; some kinds fix it themselves.",
    )
    seed: int = option(
        "Adapter", whole(0), "Seed of the projection, of the vector's start and of the order of the data.", 0
    )
    alpha: float | None = option(
        "Adapter", number(0), "LoRA's alpha; by default it is the rank, or 1 for rank 0, so that nothing is scaled."
    )
    scaling: str = option(
        "Adapter",
        one_of("lora", "rslora"),
        "Factor of the delta weight: alpha / rank, or alpha / √rank with rslora.",
        "lora",
    )
    links: int | None = option(
        "Adapter",
        whole(2),
        "Train a chain of this many adapters, each for --epochs, on the base with the ones before it. --dim is the length of all together.",
    )
    kind: str = option("Adapter", one_of(*KINDS), "Projection kind.", "balanced")
    options: dict[str, int] | None = option(  # noqa: RUF009
        "Adapter", OPTIONS, "Whole numbers that the kind takes, such as length=128,bank=90."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.base is None:
            raise UniLoraError("--base is missing; give the base model's folder")
        if self.links:
            if self.kind not in ("balanced", "chain"):
                raise UniLoraError(
                    f"--links makes a chain, whose links are balanced, and --kind is {self.kind}; leave one of them out"
                )
            self.kind, self.options = "chain", {"links": self.links}
        if self.ranks in (*BEFORE, *DURING) and self.rank == 0:
            raise UniLoraError(f"--ranks {self.ranks} gives ranks from 1, and --rank is 0; leave one of them out")
        if self.ranks in DURING and self.kind != "identity":
            raise UniLoraError(
                f"--ranks {self.ranks} moves rows of A with columns of B, which --kind {self.kind} does not train as they "
                "are; give --kind identity"
            )
        if isinstance(self.ranks, str) and self.rank == 0:
            raise UniLoraError(f"--ranks {self.ranks} shares out the ranks of pairs; give --rank 1 or more")
        if self.ranks == "beam" and self.rank < 2:
            raise UniLoraError("--ranks beam puts one component in another's place; give --rank 2 or more")

    @property
    def start_rank(self) -> int:
        """The rank that every target begins with: ``rank``, or half as much again where dora prunes down to it."""
        return math.ceil(1.5 * self.rank) if self.ranks == "dora" else self.rank
