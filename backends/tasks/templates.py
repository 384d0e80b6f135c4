"""Templates, which show prompts and answers to a language model: the tokenizer's chat template or another one, or
Alpaca's prompt.

    template = Template(tokenizer)                                  # or Template(tokenizer, "alpaca"), Template(tokenizer, "my.jinja")
    template.prompt([{"role": "user", "content": "3 plus 4?"}])     # token ids, up to where the model answers
    template.prompt("3 plus 4 =")                                   # the same for a text
    template.example(Example("3 plus 4 =", " 7"))                   # token ids, and which of them are the answer

A chat template is a Jinja program that may come with a base; a backend decides whether it runs one (``_render``).
"""

import re
from itertools import chain
from typing import NamedTuple

from unilora_spec import UniLoraError

from ..rows.forms import Example, Instruction

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # marks what the assistant writes


class Tokens(NamedTuple):
    """A row for a model.

    ``ids``      token ids
    ``answers``  for each, whether it belongs to an answer or ends one
    ``kept``     how many tokens at the start stay where the prompt loses its start; None where the prompt cannot be cut
    """

    ids: list[int]
    answers: list[bool]
    kept: int | None


def alpaca(asked: Instruction) -> str:
    """The prompt of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, PROMPT_DICT in train.py)."""
    given = "an instruction that describes a task"
    if asked.input.strip():
        given += ", paired with an input that provides further context"
        more = f"### Input:\n{asked.input}\n\n"
    else:
        more = ""
    return (
        f"Below is {given}. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{asked.instruction}\n\n{more}### Response:"
    )


class Template:
    """Shows prompts and answers to the model of a tokenizer.

    ``chosen`` is --chat-template: "own" is the tokenizer's chat template, "alpaca" Alpaca's prompt, anything else a
    file of Jinja. If given, the template also shows plain texts, as a user's messages. None takes the tokenizer's
    template for conversations and instructions, Alpaca's prompt for instructions where there is none, and shows texts
    as they are.

    ``tokenizer`` is transformers', or one that is called as theirs is. Raises ``UniLoraError`` for "own" where it has
    no template.
    """

    def __init__(self, tokenizer, chosen: str | None = None):
        self.tokenizer, self.chosen, self.jinja = tokenizer, chosen, tokenizer.chat_template
        if chosen == "own" and not self.jinja:
            raise UniLoraError("the base's tokenizer has no chat template; give --chat-template a file of Jinja")
        begin = tokenizer("")["input_ids"][:1]
        self.begin = begin if begin == [tokenizer.bos_token_id] else []
        self.end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def prompt(self, asked: str | Instruction | list[dict], begin: str = "") -> list[int]:
        """The token ids of a prompt, up to where the model is to answer, followed by the text with which its answer is
        to ``begin``.

        Raises ``UniLoraError`` where there is no template for messages, or it refuses them, and where the prompt has no
        tokens.
        """
        asked = self._as_shown(asked)
        if isinstance(asked, str):
            ids = self._begun(self._ids([asked + begin])[0])
        else:
            ids = self._ids([self._rendered(asked, add_generation_prompt=True) + begin])[0]
        if not ids:
            raise UniLoraError("the prompt has no token; give a prompt, and a chat template that shows it")
        return ids

    def example(self, example: Example, all_tokens: bool = False) -> Tokens:
        """A row's tokens. With ``all_tokens``, a whole conversation counts as one answer.

        The prompt's tokens are those of ``prompt``: a token that would reach from it into the answer is split between
        them. A text ends with the tokenizer's token for the end; a conversation ends as its template says. Raises as
        ``prompt`` does, and where it cannot be found which parts of a conversation are the answers.
        """
        asked, answer = self._as_shown(example.asked), example.answer
        if isinstance(asked, list):
            answers = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
            messages = asked + answers
            parts = [(self._rendered(messages), True)] if all_tokens else self._parts(messages, len(asked))
            return Tokens(*self._tokens(parts), None)
        ids, answers = self._tokens([(asked, False), (answer, True)])
        begun = self._begun(ids)
        ended = [] if ids[-1:] == self.end else self.end
        answers = [False] * (len(begun) - len(ids)) + answers + [True] * len(ended)
        return Tokens(begun + ended, answers, len(self.begin) if asked == example.asked else None)

    def _as_shown(self, asked):
        """A prompt in the form that is shown: a text, or messages for the chat template."""
        if isinstance(asked, str) and asked and self.chosen:
            asked = Instruction(asked)
        if not isinstance(asked, Instruction):
            return asked
        if self.chosen == "alpaca" or not self.jinja:
            return alpaca(asked)
        return [{"role": "user", "content": "\n\n".join(text for text in asked if text.strip())}]

    def _begun(self, ids):
        return ids if ids[: len(self.begin)] == self.begin else self.begin + ids

    def _ids(self, texts):
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def _tokens(self, parts):
        """(the tokens of texts one after the other, whether each belongs to an answer).

        They are the tokens of the whole text if the tokens of each beginning of it are a beginning of its tokens, else
        those of its parts. Most often whole and parts have the same tokens, which is much faster to see than to look at
        each beginning of a long conversation.
        """
        parts = [(text, answer) for text, answer in parts if text]
        texts = [text for text, _ in parts]
        whole, *pieces = self._ids(["".join(texts), *texts])
        if list(chain(*pieces)) != whole:
            beginnings = self._ids(["".join(texts[:number]) for number in range(1, len(texts))])
            if all(whole[: len(ids)] == ids for ids in beginnings):
                ends = [*map(len, beginnings), len(whole)]
                pieces = [whole[start:end] for start, end in zip([0, *ends], ends)]
        answers = [answer for piece, (_, answer) in zip(pieces, parts) for _ in piece]
        return list(chain(*pieces)), answers

    def _parts(self, messages, first):
        """The text of a conversation in parts, each with whether it is an answer; messages before ``first`` are
        none."""
        whole = self._rendered(messages)
        if GENERATION.search(self.jinja):
            start = len(self._beginning(whole, messages[:first], add_generation_prompt=True)) if first else 0
            spans = [(max(start, begin), end) for begin, end in self._marked(messages) if end > start]
        else:
            spans = [
                (
                    len(self._beginning(whole, messages[:number], add_generation_prompt=True)),
                    len(self._beginning(whole, messages[: number + 1])),
                )
                for number, message in enumerate(messages)
                if number >= first and message["role"] == "assistant"
            ]
        parts, done = [], 0
        for start, end in spans:
            parts += [(whole[done:start], False), (whole[start:end], True)]
            done = end
        return [*parts, (whole[done:], False)]

    def _beginning(self, whole, messages, **options) -> str:
        """The text of a conversation's first messages. Raises ``UniLoraError`` where the text of the ``whole`` begins
        differently."""
        text = self._rendered(messages, **options)
        if not whole.startswith(text):
            raise UniLoraError(
                "the chat template shows a turn differently once another follows, so that the answers cannot be found; give "
                "--chat-template a file with {% generation %} around them, or --loss-on all"
            )
        return text

    def _rendered(self, messages, **options) -> str:
        return self._render(messages, **options)[0][0]

    def _marked(self, messages) -> list[tuple[int, int]]:
        return self._render(messages, return_assistant_tokens_mask=True)[1][0]

    def _render(self, messages, **options) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """(the text of a conversation, the places in it of the answers that the template marks)."""
        raise UniLoraError(
            "a conversation is shown by a chat template, a program that backends.torch runs and this backend does not; give texts, or "
            "prompts and completions, or --chat-template alpaca"
        )
