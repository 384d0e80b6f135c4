"""The task causal-lm: texts, prompts with answers, and conversations, learned token by token."""

from unilora_spec import UniLoraError

from .language_model import LanguageModel
from .losses import NOT_LEARNED
from .templates import Template, Tokens
from .tokenized import Fitted, TooLong


class CausalLM(LanguageModel):
    """Each token of a row is predicted from those before it; the tokens of the answers are learned, or all tokens."""

    template_class = Template

    def reads(self, tokenizer, positions, inputs):
        super().reads(tokenizer, positions, inputs)
        self.template = self.template_class(tokenizer, self.settings.chat_template)

    def fit(self, example):
        everything = self.settings.loss_on == "all"
        tokens = self.template.example(example, everything)
        length, tokens = len(tokens.ids), fitted(tokens, self.max_length)
        labels = [id if answer or everything else NOT_LEARNED for id, answer in zip(tokens.ids, tokens.answers)]
        if all(label == NOT_LEARNED for label in labels[1:]):  # nothing comes before the first token
            raise UniLoraError(
                f"the row that begins {self.tokenize.decode(tokens.ids)!r:.60} has no token to learn; give texts of more than one, "
                "and a chat template whose {% generation %}, where it has any, stands around the answers"
            )
        return Fitted(tokens.ids, labels, len(labels) < length)


def fitted(tokens: Tokens, most: int) -> Tokens:
    """A row's tokens, at most ``most`` of them. A text loses its end. An answer stays whole or is left out: a
    conversation ends with the last answer that fits, and a prompt that may be cut loses its start. Raises ``TooLong``
    where no answer fits.
    """
    ids, answers, kept = tokens
    if len(ids) <= most or not any(answers):
        return tokens
    first = answers.index(True)
    if first <= (kept or 0):  # nothing is asked: a text
        return Tokens(ids[:most], answers[:most], kept)
    ends = [
        place for place in range(first + 1, len(ids) + 1) if answers[place - 1] and not any(answers[place : place + 1])
    ]
    if ends[0] <= most:
        end = max(end for end in ends if end <= most)
        return Tokens(ids[:end], answers[:end], kept)
    if kept is None:
        raise TooLong(ends[0])
    needed = kept + 1 + len(ids) - first  # a token of the prompt, at least
    if needed > most:
        raise TooLong(needed)
    cut = slice(kept, len(ids) - most + kept)
    del ids[cut], answers[cut]
    return Tokens(ids, answers, kept)
