"""The task seq2seq: an encoder and a decoder make a text of another one, such as a translation, a summary or an
answer."""

from unilora_spec import UniLoraError

from ..rows.forms import Instruction
from .language_model import LanguageModel
from .tokenized import Fitted, TooLong


class Seq2Seq(LanguageModel):
    """Each token of an answer is predicted from the prompt and the answer's tokens before it."""

    ahead = 0

    def columns(self, there):
        columns = super().columns(there)
        if len(columns) == 1:
            raise UniLoraError(
                f"{self.form.what}: seq2seq reads two texts; give --text COLUMN,COLUMN for prompts and answers"
            )
        return columns

    def fit(self, example):
        """The tokens of a row; a long prompt loses its end. Raises ``TooLong`` for an answer of more than
        ``max_length`` tokens."""
        asked, answer = example
        if isinstance(asked, Instruction):
            asked = "\n\n".join(text for text in asked if text.strip())
        if not isinstance(asked, str) or not isinstance(answer, str):
            raise UniLoraError("an encoder-decoder reads two texts, not messages; give texts")
        labels = self.tokenize(text_target=answer)["input_ids"]
        end = self.tokenize.eos_token_id
        if end is not None and labels[-1:] != [end]:
            labels = [*labels, end]
        if len(labels) > self.max_length:
            raise TooLong(len(labels))
        ids = self.tokenize(asked)["input_ids"]
        cut = len(ids) > self.max_length
        if cut:
            ids = self.tokenize(asked, truncation=True, max_length=self.max_length)["input_ids"]
        return Fitted(ids, labels, cut)
