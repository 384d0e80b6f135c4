"""Makes the prompts of rows for a language model, in the form in which training shows them."""

from collections.abc import Sequence

from unilora_spec import UniLoraError

from ...rows.forms import Instruction, form_of
from ...rows.refusals import LeftOut
from ..tasks.templates import Template
from .trained import Trained

PAIRS = (("prompt", "completion"), ("instruction", "output"), ("source", "target"))
UNKNOWN = "?"  # in place of the answer of a row that has none; it is never shown to a model


class Asking:
    """Shows prompts to a trained language model as its training does; each answer is to begin with ``begin``."""

    def __init__(self, trained: Trained, begin: str | None = None):
        self._begin = begin or ""
        self.template = Template(trained.tokenizer, trained.task.settings.chat_template)
        self._encoder = trained.model.config.is_encoder_decoder and trained.tokenizer

    @property
    def has_turns(self) -> bool:
        """Whether conversations are shown as messages, by a chat template; else they are one text."""
        return bool(self.template.jinja) and not self._encoder

    def ids(self, asked: str | Instruction | list[dict]) -> list[int]:
        """The token ids of a prompt, up to where the model is to answer. Raises ``UniLoraError`` for a prompt that
        cannot be shown."""
        if not self._encoder:
            return self.template.prompt(asked, self._begin)
        if isinstance(asked, list):
            raise UniLoraError("an encoder-decoder reads texts, not messages; give a text")
        return self._encoder(asked if isinstance(asked, str) else "\n\n".join(text for text in asked if text.strip()))[
            "input_ids"
        ]


class Prompts:
    """Makes token ids of the prompts in rows that have the columns ``there``; ``asking`` shows them to the model."""

    def __init__(self, trained: Trained, asking: Asking, there: Sequence[str]):
        settings = trained.task.settings
        self.data, named, self.asking = settings.data, settings.text, asking
        missing = [answer for asked, answer in PAIRS if asked in there] if not named else named[1:]
        self._answers = set(missing)
        try:
            self.form = form_of([*there, *missing], named)
        except UniLoraError as error:
            raise error.within(self.data) from None

    def with_answer(self, row: dict) -> tuple[list[int], str]:
        """(the prompt of a row, its answer). The answer of a conversation is the assistant's last message."""
        asked, answer = self.form.read(row)
        if isinstance(answer, list):
            last = max(number for number, message in enumerate(answer) if message["role"] == "assistant")
            asked, answer = [*asked, *answer[:last]], answer[last]["content"]
        if not asked:
            raise UniLoraError(
                f"{self.data}: a text has no answer to compare with; give rows with prompt and completion, instruction and output, or"
                " messages, or --text ASKED,ANSWER"
            )
        return self.asking.ids(asked), answer

    def alone(self, row: dict) -> list[int]:
        """The prompt of a row with or without an answer: all of a text, which is to be continued; a conversation up to
        the assistant's turn.

        Raises ``LeftOut`` for a row without a prompt.
        """
        column = self.form.columns[0]
        if isinstance(row.get(column), list) and len(self.form.columns) == 1:
            messages = [*row[column]]
            if not messages or messages[-1].get("role", messages[-1].get("from")) not in ("assistant", "gpt"):
                messages.append({"role": "assistant", "content": UNKNOWN})
            _, read = self.form.read(row | {column: messages})
            return self.asking.ids(read[:-1])
        answers = self._answers & set(self.form.columns)
        asked, answer = self.form.read(row | dict.fromkeys(answers, UNKNOWN))
        if answers and not asked:
            raise LeftOut("prompt")
        return self.asking.ids(asked if answers else answer)
