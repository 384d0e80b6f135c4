"""What a training run is told: every option stated once, for Python, for the command line and for a YAML file."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unilora_spec import UniLoraError
from unilora_spec.documents import read_bytes
from unilora_spec.projection import KINDS, kind_named

DIM = 5760  # for MiniLM's query and value at rank 4, whose D is 36,864
TASKS = ("classification", "regression", "causal-lm")
# Planners of ranks that look at the base before training, and the number of texts they show it: of HeteroLoRA's own example
# 32 batches of 8; GeLoRA's could not be looked up, and with a thousand the standard error is a twentieth of the dimension.
TEXTS = {"gelora": 1000, "hetero": 256}
BEFORE = tuple(TEXTS)
DURING = ("beam", "dora")  # those that move ranks while it trains
PLANNERS = ("uniform", *BEFORE, *DURING)
MOST_CONFIG, MOST_NESTING, MOST_EVENTS = (
    2**16,
    4,
    4000,
)  # of a YAML file of options: bytes, lists in each other, what is in it
PROXIES = ("grad-norm", "snip", "synflow")

# Each converter takes what a command line or a YAML file can hold; _as turns its refusal into what to give instead.


def _as(expected, convert):
    def converted(value):
        try:
            return convert(value)
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise ValueError(expected) from None

    return converted


def _text(value) -> str:
    if isinstance(value, bool | list | dict):
        raise TypeError
    return str(value)


def _flag(value) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _whole(least):
    def convert(value) -> int:
        if isinstance(value, bool | float) or int(value) < least:
            raise ValueError
        return int(value)

    return _as(f"a whole number from {least}", convert)


def _number(least, below=float("inf")):
    def convert(value) -> float:  # YAML reads 5e-3 as a text
        if isinstance(value, bool) or not least <= float(value) < below:
            raise ValueError
        return float(value)

    return _as(f"a number from {least}" + (f" to below {below}" if below < float("inf") else ""), convert)


def _one_of(*choices):
    def convert(value) -> str:
        return choices[choices.index(value)]

    return _as(_or(choices), convert)


def _or(choices) -> str:
    return ", ".join(choices[:-1]) + f" or {choices[-1]}"


def _names(value) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (value.split(",") if isinstance(value, str) else value))
    if not all(names):
        raise ValueError
    return names


def _pairs(value) -> list[tuple[str, str]]:
    if isinstance(value, str):
        value = (pair.split("=", 1) for pair in value.split(","))
    elif isinstance(value, Mapping):
        value = value.items()
    return [(str(name).strip(), str(given).strip()) for name, given in value]


def _ranks(value) -> dict[str, int] | str:
    return value if value in PLANNERS else {name: _whole(0)(rank) for name, rank in _pairs(value)}


def _options(value) -> dict[str, int]:
    return {name: _whole(0)(number) for name, number in _pairs(value)}


def _condition(value) -> tuple[str, str]:
    if isinstance(value, str):  # whole: the value may hold a comma
        value = [value.split("=", 1)]
    elif isinstance(value, tuple):
        value = [value]
    ((column, wanted),) = _pairs(value)
    return column, wanted


TEXT, FLAG, PATH = _as("a text", _text), _as("true or false", _flag), _as("a path", lambda value: Path(_text(value)))
NAMES = _as("names with commas between them", _names)
RANKS = _as(f"{_or(PLANNERS)}, or pairs such as query=8,value=2", _ranks)
OPTIONS = _as("pairs such as length=128,bank=90", _options)
CONDITION = _as("COLUMN=VALUE", _condition)


def _option(panel, convert, help, default=None, **options):
    return dataclasses.field(default=default, metadata={"panel": panel, "convert": convert, "help": help}, **options)


@dataclass
class AdapterSettings:
    """An adapter and its base; texts and numbers are converted as those of the command line are.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    base: str = _option("Data and task", TEXT, "Base model: a folder, or an id of the Hugging Face Hub.")
    targets: tuple[str, ...] = _option(
        "Adapter", NAMES, "Modules to adapt: ends of their names, or regular expressions.", ("query", "value")
    )
    rank: int = _option(
        "Adapter",
        _whole(0),
        "Rank of every target, or the mean that a planner spreads; 0: no A and B, but the entries of the delta weight itself.",
        4,
    )
    ranks: dict[str, int] | str | None = _option(  # noqa: RUF009
        "Adapter",
        RANKS,
        f"Other ranks by target, query=8,value=2, or the planner that finds them: {_or(PLANNERS)}. "
        "gelora and hetero look at --data; beam and dora move ranks during training, of the kind identity.",
    )
    proxy: str = _option("Adapter", _one_of(*PROXIES), f"What hetero scores a target by: {_or(PROXIES)}.", PROXIES[0])
    dim: int | None = _option(
        "Adapter", _whole(1), f"Length d of the trained vector; to train, {DIM} by default; of some kinds it follows."
    )
    seed: int = _option("Adapter", _whole(0), "Gives the projection, the start and the order of the data.", 0)
    alpha: float | None = _option(
        "Adapter", _number(0), "LoRA's alpha; by default it is the rank, or 1 for rank 0, so that nothing is scaled."
    )
    scaling: str = _option("Adapter", _one_of("lora", "rslora"), "alpha / rank, or alpha / √rank with rslora.", "lora")
    links: int | None = _option(
        "Adapter",
        _whole(2),
        "Train a chain: so many adapters, each on the base with those before it, for --epochs. --dim is that of all.",
    )
    kind: str = _option("Adapter", _one_of(*KINDS), "Projection kind.", "balanced")
    options: dict[str, int] | None = _option(  # noqa: RUF009
        "Adapter", OPTIONS, "The kind's own numbers: length=128,bank=90."
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is not None:
                value = field.default
            if value not in (None, ()):
                setattr(self, field.name, self._converted(field, value))
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

    @staticmethod
    def _converted(field, value):
        try:
            return field.metadata["convert"](value)
        except ValueError as error:
            raise UniLoraError(f"{flag(field.name)} is {value!r:.200}; give {error}") from None

    @classmethod
    def from_options(cls, options: Mapping, config: Path | None = None) -> "AdapterSettings":
        """The settings of a call: ``options`` by field name, where None means not given, before the YAML file's."""
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**{**(read_config(config) if config else {}), **given})


@dataclass
class PlanSettings(AdapterSettings):
    """An adapter, its base and its data, at which some planners of ranks look.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    data: str | None = _option(
        "Data and task",
        TEXT,
        "Training data: a .csv, .tsv, .json, .jsonl or .parquet file, or a data set's id or folder as "
        "ID, ID:SPLIT or ID:CONFIGURATION:SPLIT.",
    )
    text: tuple[str, ...] = _option(
        "Data and task", NAMES, "Column of the texts; two columns with a comma between them for text pairs.", ("text",)
    )
    label: str = _option("Data and task", TEXT, "Column of the labels; causal-lm needs none.", "label")
    task: str = _option("Data and task", _one_of(*TASKS), f"{_or(TASKS)}.", TASKS[0])
    where: tuple[str, str] | None = _option(
        "Data and task", CONDITION, "COLUMN=VALUE: take only the rows that have it."
    )
    eval: str | None = _option("Data and task", TEXT, "Held-out data, given as --data is, in place of --holdout.")
    holdout: float = _option(
        "Data and task",
        _number(0, 1),
        "Share of --data to hold out, chosen by the SHA-256 of the text: the same on every machine, "
        "and equal texts stay together.",
        0.1,
    )
    limit: int | None = _option("Data and task", _whole(1), "Train on that many rows at most, chosen by SHA-256 too.")
    max_length: int = _option("Data and task", _whole(1), "Longest text in tokens; the rest is cut off.", 128)
    batch_size: int = _option("Data and task", _whole(1), "Texts a step, of all processes together.", 32)

    def __post_init__(self):
        super().__post_init__()
        if len(self.text) > (1 if self.task == "causal-lm" else 2):
            raise UniLoraError(f"--text names {len(self.text)} columns; give one, or two for text pairs")
        if self.ranks in BEFORE and self.data is None:
            raise UniLoraError(
                f"--ranks {self.ranks} looks at the base while it reads texts; give --data, and --text and --label where the "
                "columns have other names"
            )


@dataclass
class TrainSettings(PlanSettings):
    """All options of a training run; texts and numbers are converted as those of the command line are.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    train_in_full: tuple[str, ...] = _option(
        "Adapter", NAMES, "Modules or parameters to train beside the vector; what the base lacks is one anyway.", ()
    )
    head_only: bool = _option(
        "Adapter", FLAG, "No adapter: train the head alone, for comparison. Writes no file.", False
    )

    epochs: float = _option("Training", _number(0.0), "Times through the data.", 1.0)
    lr: float = _option("Training", _number(0), "Learning rate of the vector.", 1e-2)
    head_lr: float = _option("Training", _number(0), "Learning rate of what is trained in full.", 2e-3)
    weight_decay: float = _option("Training", _number(0), "Weight decay, as AdamW's.", 0.0)
    optimizer: str = _option(
        "Training",
        _one_of("adamw", "lora-rite", "lora-pro", "lora-pro-efficient"),
        "What steps the vector: AdamW, or by what a step does to the weights, LoRA-RITE (kind identity) or LoRA-Pro.",
        "adamw",
    )
    noise: float = _option(
        "Training", _number(0), "Flat-LoRA's noise on the adapted weights: 0.05 is the paper's for text.", 0.0
    )
    warmup: float = _option("Training", _number(0, 1), "Share of the steps in which the learning rates rise.", 0.06)
    eval_steps: int | None = _option(
        "Training", _whole(1), "Evaluate and write a checkpoint every so many steps; by default after each epoch."
    )
    patience: int | None = _option(
        "Training", _whole(1), "Stop after that many evaluations without a better one, and keep the best."
    )
    gradient_checkpointing: bool = _option("Training", FLAG, "Less memory, more time.", False)
    bf16: bool = _option("Training", FLAG, "Mixed precision in bfloat16.", False)
    storage: str | None = _option(
        "Training",
        _one_of("cached", "computed"),
        "The projection in memory, 4 bytes an entry, or computed at each step; by default by device and size.",
    )

    output: Path | None = _option(  # noqa: RUF009
        "Output", PATH, "The adapter's file, such as vec.safetensors."
    )
    resume: bool = _option(
        "Output", FLAG, "Go on from the last checkpoint of an interrupted run.", False, compare=False
    )
    overwrite: bool = _option(
        "Output", FLAG, "Start anew where an interrupted run left checkpoints.", False, compare=False
    )

    def __post_init__(self):
        super().__post_init__()
        if self.dim is None and kind_named(self.kind).d_is_free:
            self.dim = DIM
        if self.data is None:
            raise UniLoraError("--data is missing; give it in the call or in the --config file")
        if (self.output is None) != self.head_only:
            raise UniLoraError(
                "--head-only writes no file; leave --output out"
                if self.head_only
                else "--output is missing; give the file to write, such as vec.safetensors"
            )
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
        if self.epochs == 0:
            raise UniLoraError("--epochs is 0; give a number above it")
        if self.patience and not (self.holdout or self.eval):
            raise UniLoraError("--patience needs held-out data; give --eval or --holdout")
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
        if self.resume and self.overwrite:
            raise UniLoraError("--resume goes on and --overwrite starts anew; give one of them")


def flag(name: str) -> str:
    """A field's name as the command line writes it."""
    return "--" + name.replace("_", "-")


def read_config(path) -> dict:
    """The options in a YAML file: keys are names of options, with - or _. Raises ``UniLoraError`` with the file's name."""
    import yaml

    text = read_bytes(Path(path), MOST_CONFIG)
    try:
        depth = 0
        for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise UniLoraError(f"{path}: line {line} refers to {event.anchor!r:.80}; write the value itself there")
            if depth > MOST_NESTING or count > MOST_EVENTS:
                raise UniLoraError(
                    f"{path}: an option's value is a text, a number, or a list or pairs of such; write it so"
                )
        content = yaml.load(text, _loader())
    except UniLoraError:
        raise
    except Exception as error:  # noqa: BLE001  YAML's own, and those of Python's types that read what a tag or a form stands for
        raise UniLoraError(f"{path}: this is no YAML: {' '.join(str(error).split()):.300}") from None
    if not isinstance(content, dict):
        raise UniLoraError(f"{path}: a YAML file of options has lines such as 'rank: 4'")
    known = [field.name for field in dataclasses.fields(TrainSettings)]
    options = {str(key).replace("-", "_"): value for key, value in content.items()}
    if len(options) < len(content):
        raise UniLoraError(f"{path}: an option is there twice, with - and with _; leave one of them out")
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0) or known
            raise UniLoraError(
                f"{path}: the option {name!r:.80} is unknown; the closest is {close[0].replace('_', '-')!r}"
            )
    return options


def _loader():
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, of which YAML's loader takes the last without a word."""

        def construct_mapping(self, node, deep=False):
            made = super().construct_mapping(node, deep)
            if len(made) < len(node.value):
                raise yaml.constructor.ConstructorError(None, None, "a key is there twice", node.start_mark)
            return made

    return Loader
