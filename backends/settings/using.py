"""Options of commands that use an adapter: the adapter, its base, and rows or prompts."""

from dataclasses import dataclass, replace
from pathlib import Path

from unilora_spec import UniLoraError

from .data import DataSettings
from .options import DTYPES, FLAG, NAMES, PATH, QUANTIZED, TEXT, flag, hidden, listed, number, one_of, option, whole
from .settings import Settings

ANSWERS = ("whole", "last-number", "number", "boxed", "choice")
TABLES = (".csv", ".tsv", ".jsonl")


@dataclass
class UseSettings(Settings):
    """An adapter's file and its base.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    adapter: Path | None = option("Adapter", PATH, "The adapter's file, such as vec.safetensors.")  # noqa: RUF009
    base: str | None = option(
        "Adapter",
        TEXT,
        "Base model: a folder, or an id of the Hugging Face Hub; by default the folder that the adapter names.",
    )
    dtype: str = option(
        "Adapter",
        one_of(*DTYPES),
        "Numbers in which the base is held and computed, as in train. auto: as the base is saved, but float32 on a CPU without arithmetic for "
        "that.",
        DTYPES[0],
    )
    quantize: str | None = option(
        "Adapter",
        one_of(*QUANTIZED),
        "Hold the base's linear layers in fewer bits, as in train: nf4, int8, torchao-int4 or torchao-int8.",
    )
    seed = 0  # draws the parameters that the base lacks, whose values then come from the adapter

    def __post_init__(self):
        super().__post_init__()
        if self.adapter is None:
            raise UniLoraError("--adapter is missing; give the adapter's file, such as vec.safetensors")

    def rows_for(self, task: str) -> DataSettings:
        """The settings of rows for the adapter's ``task``, which decides their defaults and which options there are."""
        raise NotImplementedError


@dataclass
class _OnRows(DataSettings, UseSettings):
    """Rows on which an adapter is used, all of them. The adapter says the task."""

    task: str | None = hidden()
    eval: None = hidden()
    packing: bool = hidden(False)
    micro_batch: int | None = hidden()
    augment: bool = hidden(True)
    metric: str | None = hidden()
    data: str | None = option(
        "Data and task",
        TEXT,
        "The rows: a .csv, .tsv, .json, .jsonl or .parquet file, also compressed, or a data set's id or folder as ID, ID:SPLIT or ID:CONFIGURATION:SPLIT.",
    )
    batch_size: int = option("Data and task", whole(1), "Rows in the model at once.", 32)
    max_new_tokens: int = option("Language models", whole(1), "Longest answer in tokens.", 128)
    begin: str | None = option(
        "Language models",
        TEXT,
        'For causal-lm: text with which each generated answer begins, after the prompt, such as " Let\'s think step by step."',
    )
    stop: tuple[str, ...] = option(
        "Language models",
        NAMES,
        "Texts with commas between them: a generated answer ends before the first of them.",
        (),
    )

    def __post_init__(self):
        if self.task:
            super().__post_init__()
            if self.begin and self.task != "causal-lm":
                raise UniLoraError(f"--begin is for causal-lm, and {self.adapter} is one of {self.task}; leave it out")
        else:  # the task is not known before ``rows_for``
            UseSettings.__post_init__(self)
        if self.data is None:
            raise UniLoraError("--data is missing; give the rows, such as test.csv")

    def rows_for(self, task):
        return replace(self, task=task)

    @staticmethod
    def _check_table(output, name):
        if output.suffix.lower() not in TABLES:
            raise UniLoraError(f"{name} is {output}; give a name that ends in {listed(TABLES)}")


@dataclass
class EvaluateSettings(_OnRows):
    """All options of an evaluation.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    holdout: float = option(
        "Data and task",
        number(0, 1),
        "Only the rows that a training with this --holdout held out of the same --data; by default all rows.",
        0.0,
    )
    limit: int | None = option(
        "Data and task", whole(1), "Take at most this many rows, chosen by the SHA-256 of the text."
    )
    generate: bool = option(
        "Language models", FLAG, "Generate an answer to each prompt, and compare it with the row's own.", False
    )
    answer: str | None = option(
        "Language models",
        one_of(*ANSWERS),
        "What --generate compares: whole, all of an answer; last-number, the last number in it; number, the first number in it, rounded "
        "(GSM8K); boxed, the content of its last \\boxed{} (MATH); choice, the first of the answers in --data that it has.",
    )
    answer_after: str | None = option(
        "Language models",
        TEXT,
        "Compare what follows the last occurrence of this text in a generated answer; an answer without it is wrong.",
    )
    mistakes: Path | None = option(  # noqa: RUF009
        "Output", PATH, f"A table of all wrong answers, the most certain first: a {listed(TABLES)} file."
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("answer", "answer_after", "begin", "stop"):
            if getattr(self, name) and not self.generate:
                raise UniLoraError(f"{flag(name)} is for generated answers; give --generate too")
        if self.mistakes:
            self._check_table(self.mistakes, "--mistakes")


@dataclass
class PredictSettings(_OnRows):
    """All options of a prediction.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    label: str = hidden("label")
    label_separator: None = hidden()
    loss_on: str = hidden("answers")
    where: None = hidden()
    holdout: None = hidden()
    limit: None = hidden()
    probabilities: bool = option("Output", FLAG, "A column for the probability of each class.", False)
    output: Path | None = option("Output", PATH, f"The table: a {listed(TABLES)} file.")  # noqa: RUF009

    def __post_init__(self):
        super().__post_init__()
        if self.output is None:
            raise UniLoraError("--output is missing; give the table to write, such as predictions.csv")
        self._check_table(self.output, "--output")


@dataclass
class GenerateSettings(UseSettings):
    """All options of generating text.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    prompt: str | None = option("Prompts", TEXT, "One prompt.")
    prompts: Path | None = option(  # noqa: RUF009
        "Prompts",
        PATH,
        "A file of prompts: one a line, or a .jsonl whose objects have a prompt or messages. Without both: a chat, by lines of "
        "standard input.",
    )
    chat_template: str | None = option(
        "Prompts", TEXT, "Template that shows a prompt to the model, as in train: a file of Jinja, own or alpaca."
    )
    beside_base: bool = option("Generating", FLAG, "Show what the base alone generates as well.", False)
    max_new_tokens: int = option("Generating", whole(1), "Longest answer in tokens.", 256)
    temperature: float = option(
        "Generating", number(0), "At 0, the likeliest token is taken each time; above 0, tokens are drawn.", 0.0
    )
    seed: int = option("Generating", whole(0), "Seed of the tokens that are drawn.", 0)
    batch_size: int = option("Generating", whole(1), "Prompts of a file in the model at once.", 16)

    def __post_init__(self):
        super().__post_init__()
        if self.prompt is not None and self.prompts is not None:
            raise UniLoraError("--prompt and --prompts are both prompts; give one of them")

    def rows_for(self, task):
        return DataSettings(task=task, chat_template=self.chat_template)
