"""What a language model is asked: the prompts of rows, in the form in which training shows them."""

from collections.abc import Sequence

from unilora_spec import UniLoraError

from ..rows.forms import Example, form_of
from ..tasks.templates import Template
from .trained import Trained

PAIRS = (("prompt", "completion"), ("instruction", "output"), ("source", "target"))
UNKNOWN = "?"  # stands for the answer of a row that has none, and is never shown to a model


class Prompts:
    """The prompts of rows with these columns, as token ids.

    ``template``  how the model is asked
    """

    def __init__(self, trained: Trained, there: Sequence[str]):
        settings = trained.task.settings
        self.data, named = settings.data, settings.text
        self.template = Template(trained.tokenizer, settings.chat_template)
        missing = [answer for asked, answer in PAIRS if asked in there] if not named else named[1:]
        self._answers = set(missing)
        try:
            self.form = form_of([*there, *missing], named)
        except UniLoraError as error:
            raise error.within(self.data) from None

    def with_answer(self, row: dict) -> tuple[list[int], str]:
        """The prompt of a row and its answer. Of a conversation it is the last one of the assistant's."""
        asked, answer = self.form.read(row)
        if isinstance(answer, list):
            last = max(number for number, message in enumerate(answer) if message["role"] == "assistant")
            asked, answer = [*asked, *answer[:last]], answer[last]["content"]
        if not asked:
            raise UniLoraError(
                f"{self.data}: a text has no answer to compare with; give rows with prompt and completion, instruction and output, or"
                " messages, or --text ASKED,ANSWER"
            )
        return self.template.prompt(asked), answer

    def alone(self, row: dict) -> list[int]:
        """The prompt of a row, whether it has an answer or not: of a text, to continue it; of a conversation, up to the assistant's turn.

        Raises ``LeftOut`` where there is nothing to ask.
        """
        column = self.form.columns[0]
        if isinstance(row.get(column), list) and len(self.form.columns) == 1:
            messages = [*row[column]]
            if not messages or messages[-1].get("role", messages[-1].get("from")) not in ("assistant", "gpt"):
                messages.append({"role": "assistant", "content": UNKNOWN})
            _, read = self.form.read(row | {column: messages})
            return self.template.prompt(read[:-1])
        example = self.form.read(row | dict.fromkeys(self._answers & set(self.form.columns), UNKNOWN))
        return self.template.prompt(_asked(example))


def _asked(example: Example):
    return example.asked or example.answer
