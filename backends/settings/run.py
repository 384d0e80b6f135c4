"""Options of a training run: its steps and its output, for every trainer, and those of the torch backend alone."""

from dataclasses import dataclass
from pathlib import Path

from unilora_spec import UniLoraError

from .adapter import AdapterSettings
from .data import DataSettings
from .options import (
    BEFORE,
    DURING,
    FLAG,
    NAMES,
    PATH,
    RATES,
    SCHEDULES,
    flag,
    number,
    one_of,
    option,
    whole,
)
from .settings import Settings


@dataclass
class OutputSettings(Settings):
    """The file that an adapter is written to."""

    output: Path | None = option(  # noqa: RUF009
        "Output", PATH, "The adapter's file, such as vec.safetensors."
    )

    def need_output(self) -> None:
        """Raises ``UniLoraError`` where it is missing."""
        if self.output is None:
            raise UniLoraError("--output is missing; give the file to write, such as vec.safetensors")


@dataclass
class PlanSettings(DataSettings, AdapterSettings):
    """An adapter, its base, and its data, which some planners of ranks read.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.ranks in BEFORE and self.data is None:
            raise UniLoraError(
                f"--ranks {self.ranks} looks at the base while it reads texts; give --data, and --text and --label where the "
                "columns have other names"
            )
        if self.ranks == "gelora" and self.packing:
            raise UniLoraError("--ranks gelora looks at rows one by one; leave --packing out, or --ranks")


@dataclass
class AttachSettings(PlanSettings, OutputSettings):
    """An adapter, the parameters trained beside it, and the file that it is written to."""

    train_in_full: tuple[str, ...] = option(
        "Adapter",
        NAMES,
        "Modules or parameters to train in full beside the vector; those that the base lacks are trained anyway.",
        (),
    )


@dataclass
class StartSettings(AttachSettings):
    """All options of ``start``, which writes the adapter that a training would begin with.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.data is None:
            raise UniLoraError("--data is missing; give the rows from which the classes are taken")
        if self.ranks in DURING:
            raise UniLoraError(f"--ranks {self.ranks} moves ranks while train runs; leave it out")
        self.need_output()


@dataclass
class RunSettings(DataSettings, OutputSettings):
    """The options of a run's steps, evaluations and checkpoints, which every trainer has.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    epochs: float = option("Training", number(0.0), "Times through the data.", 1.0)
    max_steps: int | None = option(
        "Training",
        whole(1),
        "Number of steps, in place of --epochs, however often they go through the data; for a chain, of all links together.",
    )
    lr: float | None = option(
        "Training",
        number(0),
        "Learning rate of the vector; the default follows from task, kind, D / d and the base's size.",
    )
    head_lr: float = option("Training", number(0), "Learning rate of the parameters trained in full.", 2e-3)
    weight_decay: float = option("Training", number(0), "Weight decay of the vector, as AdamW has it.", 0.0)
    head_weight_decay: float | None = option(
        "Training",
        number(0),
        "Weight decay of the matrices trained in full, where biases and other vectors then have none; by default all parameters trained in "
        "full have the vector's.",
    )
    schedule: str = option(
        "Training",
        one_of(*SCHEDULES),
        "How the learning rates go on after the rise, by transformers' names; with constant there is no rise.",
        SCHEDULES[0],
    )
    warmup: float = option("Training", number(0, 1), "Share of the steps in which the learning rates rise.", 0.06)
    clip: float = option(
        "Training",
        number(0),
        "Largest norm of the gradient of all parameters together; a larger gradient is scaled down to it; 0: never.",
        1.0,
    )
    eval_steps: int | None = option(
        "Training", whole(1), "Evaluate and write a checkpoint every so many steps; by default after each epoch."
    )
    patience: int | None = option(
        "Training", whole(1), "Stop after this many evaluations without a better one, and keep the best."
    )
    from_state: Path | None = option(  # noqa: RUF009
        "Training",
        PATH,
        "Go on from a file that --state has written, here or with another backend, in a call that is otherwise the same.",
    )

    state: Path | None = option(  # noqa: RUF009
        "Output",
        PATH,
        "File for --from-state, written at each checkpoint and at the end: the vector, AdamW's moments and the step.",
        compare=False,
    )
    resume: bool = option("Output", FLAG, "Go on from the last checkpoint of an interrupted run.", False, compare=False)
    overwrite: bool = option(
        "Output", FLAG, "Start anew where an interrupted run left checkpoints.", False, compare=False
    )

    def __post_init__(self):
        super().__post_init__()
        self.check_run()

    def check_run(self) -> None:
        """Raises ``UniLoraError`` for options that no run can have, whatever its task."""
        if self.data is None:
            raise UniLoraError("--data is missing; give it in the call or in the --config file")
        if self.epochs == 0:
            raise UniLoraError("--epochs is 0; give a number above it")
        if self.patience and not (self.holdout or self.eval):
            raise UniLoraError("--patience needs held-out data; give --eval or --holdout")
        if self.state and self.state == self.output:
            raise UniLoraError("--state and --output are the same file; give each its own")
        if self.resume and self.overwrite:
            raise UniLoraError("--resume goes on and --overwrite starts anew; give one of them")

    def rate_and_decay(self, dims: int | None = None) -> tuple[float, float]:
        """(learning rate, weight decay) of a parameter with ``dims`` dimensions that is trained in full, or of θ where
        ``dims`` is None."""
        if dims is None:
            return self.lr, self.weight_decay
        if self.head_weight_decay is None:
            return self.head_lr, self.weight_decay
        return self.head_lr, self.head_weight_decay if dims > 1 else 0.0


@dataclass
class TrainSettings(RunSettings, AttachSettings):
    """All options of a training run; texts and numbers are converted as those of the command line are.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    head_only: bool = option(
        "Adapter", FLAG, "No adapter: train the head alone, for comparison. Writes no file.", False
    )

    sweep: tuple[float, ...] | None = option(
        "Training",
        RATES,
        "Try these learning rates of the vector, each on a tenth of the rows, and train with the one that is best on held-out rows.",
    )
    optimizer: str = option(
        "Training",
        one_of("adamw", "lora-rite", "lora-pro", "lora-pro-efficient"),
        "Optimizer of the vector: AdamW, or LoRA-RITE (kind identity) or LoRA-Pro, which go by what a step does to the weights.",
        "adamw",
    )
    noise: float = option(
        "Training", number(0), "Strength of Flat-LoRA's noise on the adapted weights; the paper has 0.05 for text.", 0.0
    )
    dropout: float | None = option(
        "Training",
        number(0, 1),
        "Dropout of the base in training, in place of the probabilities in its config.json; by default those. The adapter has no dropout "
        "of its own.",
    )
    gradient_checkpointing: bool = option("Training", FLAG, "Less memory, more time.", False)
    bf16: bool = option("Training", FLAG, "Mixed precision in bfloat16.", False)
    storage: str | None = option(
        "Training",
        one_of("cached", "computed"),
        "Hold the projection in memory (cached), 2 or 4 bytes an entry, or compute it at each step; the default follows from device and size.",
    )

    card: bool = option(
        "Output",
        FLAG,
        "Write a model card beside the file, vec.md: base, data, metrics and command.",
        True,
        compare=False,
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.head_only:
            self.need_output()
        elif self.output:
            raise UniLoraError("--head-only writes no file; leave --output out")
        if self.head_only and self.ranks in DURING:
            raise UniLoraError(f"--head-only trains no adapter; leave --ranks {self.ranks} out")
        if self.head_only and (self.optimizer != "adamw" or self.noise):
            raise UniLoraError("--head-only trains no vector; leave --optimizer and --noise out")
        if self.optimizer != "adamw" and self.ranks in DURING:
            raise UniLoraError(f"--ranks {self.ranks} moves what AdamW keeps for each entry; leave --optimizer out")
        if self.patience and self.ranks == "dora":
            raise UniLoraError(
                "--patience keeps the best step, which may be one before dora has pruned to its budget; leave one of them out"
            )
        if self.sweep and not (self.holdout or self.eval):
            raise UniLoraError("--sweep needs held-out data; give --eval or --holdout")
        if self.sweep and (self.lr is not None or self.head_only):
            raise UniLoraError(
                f"--sweep chooses the learning rate of a vector; leave {'--head-only' if self.head_only else '--lr'} out"
            )
        if self.kind == "chain":
            for name, why in (
                ("head_only", "trains no adapter"),
                ("patience", "would end the whole of it"),
                ("weight_decay", "would shrink the links that are done"),
            ):
                if getattr(self, name):
                    raise UniLoraError(
                        f"{flag(name)} and a chain do not go together, as it {why}; leave one of them out"
                    )
            if self.optimizer != "adamw":
                raise UniLoraError(
                    f"--optimizer {self.optimizer} steps all links of a chain at once; leave one of them out"
                )
            if self.schedule != SCHEDULES[0]:
                raise UniLoraError(
                    f"--schedule {self.schedule} goes through all steps once, and each link of a chain has a rise and a fall of its "
                    "own; leave one of them out"
                )
        if self.bf16 and self.dtype == "float16":
            raise UniLoraError("--bf16 computes in bfloat16, and --dtype is float16; leave one of them out")
        for name in ("state", "from_state"):
            if getattr(self, name) and (
                self.optimizer != "adamw" or self.ranks in DURING or self.kind == "chain" or self.head_only
            ):
                raise UniLoraError(
                    f"{flag(name)} is for a vector that AdamW steps; leave --optimizer, --ranks {', '.join(DURING)}, --kind chain and "
                    "--head-only out"
                )
        if self.sweep and self.from_state:
            raise UniLoraError(
                "--sweep tries learning rates from the start, and --from-state goes on; leave one of them out"
            )
