"""What a language model is shown of what is asked and answered: the tokenizer's chat template or another, or Alpaca's prompt.

    template = Template(tokenizer)                                  # or Template(tokenizer, "alpaca"), Template(tokenizer, "my.jinja")
    template.prompt([{"role": "user", "content": "3 plus 4?"}])     # token ids, up to where the model answers
    template.prompt("3 plus 4 =")                                   # the same of a text
    template.example(Example("3 plus 4 =", " 7"))                   # token ids, and which of them are the answer

A template is a Jinja program that may come with a base; transformers runs it in a sandbox, without files or Python, and here it has
``SECONDS`` for a conversation.
"""

import contextlib
import re
import signal
import threading
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from unilora_spec import UniLoraError
from unilora_spec.documents import read_bytes

from ..rows.forms import Example, Instruction

MOST_TEMPLATE = 2**20  # bytes; the longest of models are some tens of thousands
SECONDS = 2  # of computing, for what takes a thousandth
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # marks what the assistant writes


class Tokens(NamedTuple):
    """A row for a model.

    ``ids``      token ids
    ``answers``  which of them the answers are, with the tokens that end them
    ``kept``     how many at the start have to stay where the prompt is cut from its left; None where it cannot be cut
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
    """How a tokenizer's model is asked.

    ``chosen`` is --chat-template: "own" is the tokenizer's chat template, "alpaca" Alpaca's prompt, all else a file of Jinja; each is
    then taken for texts too, as a user's message. None takes the tokenizer's for conversations and instructions, Alpaca's for
    instructions where it has none, and texts as they are.

    Raises ``UniLoraError`` where the file is none, or the tokenizer has no template for "own".
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chosen: str | None = None):
        self.tokenizer, self.chosen = tokenizer, chosen
        self.jinja = tokenizer.chat_template and tokenizer.get_chat_template()
        if chosen not in (None, "own", "alpaca"):
            self.jinja = _read(Path(chosen))
        if chosen == "own" and not self.jinja:
            raise UniLoraError("the base's tokenizer has no chat template; give --chat-template a file of Jinja")
        begin = tokenizer("")["input_ids"][:1]
        self.begin = begin if begin == [tokenizer.bos_token_id] else []
        self.end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def prompt(self, asked: str | Instruction | list[dict], begin: str = "") -> list[int]:
        """The token ids of what is asked, up to where the model is to answer, and of how its answer is to ``begin``.

        Raises ``UniLoraError`` where there is no template for messages, or it refuses them, and where nothing is shown.
        """
        asked = self._as_shown(asked)
        if isinstance(asked, str):
            ids = self._begun(self._ids([asked + begin])[0])
        else:
            ids = self._ids([self._rendered(asked, add_generation_prompt=True) + begin])[0]
        if not ids:
            raise UniLoraError("what is asked has no token; give a prompt, and a chat template that shows it")
        return ids

    def example(self, example: Example, all_tokens: bool = False) -> Tokens:
        """A row's tokens. With ``all_tokens``, a conversation's answers are not looked for: all of it counts as one.

        The prompt's tokens are those of ``prompt``: a token that would reach from it into the answer is split between them. A text
        ends with the tokenizer's token for that; a conversation as its template says. Raises as ``prompt`` does, and where it cannot be
        told which part of a conversation the answers are.
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
        """Text as it is, or messages."""
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
        """The tokens of texts one behind the other, and whether each is of an answer.

        They are those of the whole text where each beginning of it is a beginning of its tokens, else those of its parts. Most often
        the two are the same, which is far sooner looked at than each beginning of a long conversation.
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
        """The text of a conversation in parts, and whether each is an answer; those of messages before ``first`` are not."""
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
        """The text of a conversation's first messages. Raises ``UniLoraError`` where the ``whole`` begins otherwise."""
        text = self._rendered(messages, **options)
        if not whole.startswith(text):
            raise UniLoraError(
                "the chat template shows a turn otherwise once another follows, so that it cannot be told where the answers are; give "
                "--chat-template a file with {% generation %} around them, or --loss-on all"
            )
        return text

    def _rendered(self, messages, **options) -> str:
        return self._render(messages, **options)[0][0]

    def _marked(self, messages) -> list[tuple[int, int]]:
        return self._render(messages, return_assistant_tokens_mask=True)[1][0]

    def _render(self, messages, **options):
        if not self.jinja:
            raise UniLoraError(
                "the base's tokenizer has no chat template, which conversations need; give --chat-template a file of Jinja"
            )
        special = self.tokenizer.special_tokens_map
        try:
            with _at_most(SECONDS):
                return render_jinja_template([messages], chat_template=self.jinja, **special, **options)
        except Exception as error:  # a template is a program, and may raise what it likes
            roles = ", ".join(message["role"] for message in messages)
            reason = str(error).strip().split("\n")[0]
            raise UniLoraError(
                f"the chat template refuses a conversation of {roles or 'no message'}: {reason:.200}; change such rows, or give "
                "--chat-template another file of Jinja"
            ) from error


@contextlib.contextmanager
def _at_most(seconds: float):
    """Ends a block that computes for longer in Python, by ``TimeoutError``; in the main thread, where there are such signals."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGVTALRM"):
        yield
        return

    def end(number, frame):
        raise TimeoutError(f"it takes more than {seconds} seconds")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _read(path: Path) -> str:
    if not path.is_file():
        raise UniLoraError(f"--chat-template: {path} is no file; give a file of Jinja, own or alpaca")
    try:
        return read_bytes(path, MOST_TEMPLATE).decode()
    except UnicodeDecodeError:
        raise UniLoraError(f"--chat-template: {path} is not UTF-8; give a file of Jinja") from None
