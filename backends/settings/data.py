"""Options that say where rows are, what is learned of them, and how they become batches."""

from dataclasses import dataclass

from unilora_spec import UniLoraError

from .options import (
    CONDITION,
    ENCODING,
    FLAG,
    LANGUAGE,
    NAMES,
    SEPARATOR,
    TASKS,
    TEXT,
    flag,
    listed,
    number,
    one_of,
    option,
    whole,
)
from .settings import Settings


@dataclass
class DataSettings(Settings):
    """Rows, and the task that they are for.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    data: str | None = option(
        "Data and task",
        TEXT,
        "Training data: a .csv, .tsv, .json, .jsonl or .parquet file, also compressed (.csv.gz), or a data set's id or folder, "
        "such as a folder of images with a folder for each class, as ID, ID:SPLIT or ID:CONFIGURATION:SPLIT.",
    )
    text: tuple[str, ...] = option(
        "Data and task",
        NAMES,
        "Column of the texts, by default text; two columns with a comma between them for text pairs. With causal-lm and seq2seq two columns are "
        "a prompt and its answer; by default these tasks take messages, conversations, prompt and completion, instruction, input and "
        "output, source and target, or text, whichever is there first.",
        (),
    )
    image: str | None = option(
        "Data and task",
        TEXT,
        "Column of the images, or of the names of their files, which lie beside the rows; by default image, or else img.",
    )
    label: str = option("Data and task", TEXT, "Column of the labels; causal-lm and seq2seq need none.", "label")
    label_separator: str | None = option(
        "Data and task",
        SEPARATOR,
        "Character between the labels of one text, for multi-label; by default it is found among ; | and ,",
    )
    separator: str | None = option(
        "Data and task", SEPARATOR, "Character between the cells of a .csv file; by default it is found."
    )
    encoding: str | None = option(
        "Data and task", ENCODING, "Encoding of a file of text, such as cp1252; by default it is found."
    )
    task: str = option("Data and task", one_of(*TASKS), f"{listed(TASKS)}.", TASKS[0])
    metric: str | None = option(
        "Data and task",
        TEXT,
        "Held-out metric by which --patience and --sweep choose the best, such as matthews or macro_f1 in place of accuracy.",
    )
    where: tuple[str, str] | None = option(
        "Data and task", CONDITION, "COLUMN=VALUE: take only the rows with this value."
    )
    eval: str | None = option("Data and task", TEXT, "Held-out data, given as --data is, in place of --holdout.")
    holdout: float = option(
        "Data and task",
        number(0, 1),
        "Share of --data to hold out, chosen by the SHA-256 of the text or the image's file: the same on every "
        "machine, and equal ones stay together.",
        0.1,
    )
    limit: int | None = option("Data and task", whole(1), "Train on at most this many rows, chosen by SHA-256 too.")
    max_length: int | None = option(
        "Data and task",
        whole(1),
        "Longest row in tokens, by default 128, with causal-lm and seq2seq 1024. The rest of a text is cut off, but never a part of an "
        "answer: a prompt loses its start, a conversation its last turns, and a row whose answer does not fit is left out.",
    )
    batch_size: int = option("Data and task", whole(1), "Rows in a step, in all processes together.", 32)
    micro_batch: int | None = option(
        "Data and task",
        whole(1),
        "Rows in the model at once, in each process; the gradients of a step are added up, so that memory changes and the result does not.",
    )
    loss_on: str = option(
        "Data and task",
        one_of("answers", "all"),
        "For causal-lm: learn the answers alone, with the tokens that end them, or all tokens. Plain texts are learned whole.",
        "answers",
    )
    chat_template: str | None = option(
        "Data and task",
        TEXT,
        "For causal-lm, the template that shows a prompt to the model: a file of Jinja, own (the tokenizer's chat template) or alpaca "
        "(Alpaca's prompt); if given, it also shows prompts that are plain texts. By default conversations and instructions take the "
        "tokenizer's, and instructions alpaca where it has none.",
    )
    packing: bool = option(
        "Data and task",
        FLAG,
        "For causal-lm: put several short rows into one of --max-length, where none sees another.",
        False,
    )
    augment: bool = option(
        "Data and task",
        FLAG,
        "For image-classification: train on another part of each image in each epoch, mirrored or not; with --no-augment, on the middle.",
        True,
    )

    def __post_init__(self):
        super().__post_init__()
        language = self.task in LANGUAGE
        images = self.task == "image-classification"
        if images and self.text:
            raise UniLoraError(
                "--text is for texts, and image-classification reads none; give --image the column of the images"
            )
        if not images and (self.image or not self.augment):
            raise UniLoraError(
                f"{'--image' if self.image else '--no-augment'} is for image-classification; leave it out, or give --task image-classification"
            )
        if not self.text and not language and not images:
            self.text = ("text",)
        if self.max_length is None:
            self.max_length = 1024 if language else 128
        if len(self.text) > (1 if self.task == "token-classification" else 2):
            raise UniLoraError(f"--text names {len(self.text)} columns; give one, or two for text pairs")
        if self.task == "seq2seq" and len(self.text) == 1:
            raise UniLoraError(
                f"--text names {self.text[0]}; seq2seq needs two columns, such as --text article,summary"
            )
        for name in ("loss_on", "chat_template", "packing"):
            if self.task != "causal-lm" and getattr(self, name) not in (None, False, "answers"):
                raise UniLoraError(f"{flag(name)} is for causal-lm; leave it out, or give --task causal-lm")
