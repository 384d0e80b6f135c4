"""What a call is told of rows: where they are, what is learned of them, and how they become batches."""

from dataclasses import dataclass

from unilora_spec import UniLoraError

from .options import CONDITION, ENCODING, NAMES, SEPARATOR, TASKS, TEXT, listed, number, one_of, option, whole
from .settings import Settings


@dataclass
class DataSettings(Settings):
    """Rows, and the task that they are for.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    data: str | None = option(
        "Data and task",
        TEXT,
        "Training data: a .csv, .tsv, .json, .jsonl or .parquet file, also compressed (.csv.gz), or a data set's id or folder "
        "as ID, ID:SPLIT or ID:CONFIGURATION:SPLIT.",
    )
    text: tuple[str, ...] = option(
        "Data and task", NAMES, "Column of the texts; two columns with a comma between them for text pairs.", ("text",)
    )
    label: str = option("Data and task", TEXT, "Column of the labels; causal-lm needs none.", "label")
    label_separator: str | None = option(
        "Data and task",
        SEPARATOR,
        "What stands between the labels of one text, for multi-label; by default the one of ; | and , that is there.",
    )
    separator: str | None = option(
        "Data and task", SEPARATOR, "What stands between the cells of a .csv file; by default it is found."
    )
    encoding: str | None = option(
        "Data and task", ENCODING, "Encoding of a file of text, such as cp1252; by default it is found."
    )
    task: str = option("Data and task", one_of(*TASKS), f"{listed(TASKS)}.", TASKS[0])
    where: tuple[str, str] | None = option("Data and task", CONDITION, "COLUMN=VALUE: take only the rows that have it.")
    eval: str | None = option("Data and task", TEXT, "Held-out data, given as --data is, in place of --holdout.")
    holdout: float = option(
        "Data and task",
        number(0, 1),
        "Share of --data to hold out, chosen by the SHA-256 of the text: the same on every machine, "
        "and equal texts stay together.",
        0.1,
    )
    limit: int | None = option("Data and task", whole(1), "Train on that many rows at most, chosen by SHA-256 too.")
    max_length: int = option("Data and task", whole(1), "Longest text in tokens; the rest is cut off.", 128)
    batch_size: int = option("Data and task", whole(1), "Texts a step, of all processes together.", 32)

    def __post_init__(self):
        super().__post_init__()
        if len(self.text) > (1 if self.task in ("causal-lm", "token-classification") else 2):
            raise UniLoraError(f"--text names {len(self.text)} columns; give one, or two for text pairs")
