"""Answers the prompts of a file, and holds a conversation by lines of standard input."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from unilora_spec import UniLoraError
from unilora_spec.documents import check_json, read_bytes

from ...rows.forms import messages_of
from ...settings import GenerateSettings
from ..tasks.language_model import LanguageModel
from ..training.base import quiet
from .generation import Generator
from .prompts import Asking
from .trained import load_trained

MOST_PROMPTS, MOST_VALUES = 2**24, 2**20  # bytes; of a .jsonl file its values and keys


class Speaker:
    """A language model that answers texts and conversations with its adapter, and without it on demand.

    Raises ``UniLoraError`` where adapter or base are wrong, or the adapter is not that of a language model.
    """

    def __init__(self, settings: GenerateSettings, progress: bool = False):
        with quiet():
            self.trained = load_trained(settings, {}, progress)
        if not isinstance(self.trained.task, LanguageModel):
            raise UniLoraError(f"{settings.adapter} is no adapter of a language model; use it by evaluate or predict")
        self.settings = settings
        self.asking = Asking(self.trained)
        self.generator = Generator(self.trained, self.asking.template, settings.max_new_tokens, settings.temperature)

    def answers(self, asked: list, progress: bool = False) -> list[dict]:
        """The answers to prompts, each {"generated": …} and, with ``beside_base``, "base". An answer is None where the
        prompt is longer than the base can read."""
        prompts = [self.asking.ids(each) for each in asked]
        texts = {"generated": self._texts(prompts, "generating, steps", progress)}
        if self.settings.beside_base:
            with self.trained.model.unilora.disabled():
                texts["base"] = self._texts(prompts, "generating without the adapter, steps", progress)
        return [dict(zip(texts, each)) for each in zip(*texts.values())]

    def _texts(self, prompts, what, progress):
        with quiet():
            self._seed()
            return self.generator.texts(prompts, self.settings.batch_size, what, progress)

    def say(self, asked) -> str:
        """Prints the answer to a prompt as it comes, and with ``beside_base`` then that of the base; returns the
        adapter's answer."""
        ids, beside = self.asking.ids(asked), self.settings.beside_base
        with quiet():
            if beside:
                print("adapter: ", end="", flush=True)
            self._seed()
            answer = self.generator.stream(ids)
            if beside:
                print("base:    ", end="", flush=True)
                with self.trained.model.unilora.disabled():
                    self._seed()
                    self.generator.stream(ids)
        return answer

    def _seed(self):
        torch.manual_seed(self.settings.seed % 2**63)

    def converse(self, lines: Iterable[str]) -> None:
        """Answers line after line as one conversation. Where the base cannot read all of it, the oldest turns are left
        out, with a notice.

        Without a chat template the conversation is a text, in which each line and each answer is a line.
        """
        turns: list[tuple[str, str]] = []
        for line in lines:
            if not line.strip():
                continue
            turns = self._turns_that_fit(turns, line.strip())
            turns.append((line.strip(), self.say(self._shown(turns, line.strip()))))

    def _turns_that_fit(self, turns, line):
        longest, left = self.generator.longest, 0
        while longest is not None and left < len(turns):
            if len(self.asking.ids(self._shown(turns[left:], line))) <= longest:
                break
            left += 1
        if left:
            print(
                f"the conversation is longer than the base can read; its first {left} turns are left out",
                file=sys.stderr,
            )
        return turns[left:]

    def _shown(self, turns, line):
        if not self.asking.has_turns:
            return "\n".join([*(text for turn in turns for text in turn), line])
        said = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]
        return [*said, {"role": "user", "content": line}]


def prompts_of(path: Path) -> Iterator:
    """The prompts of a file: each object's ``prompt`` or ``messages`` in a .jsonl file, else each line that is not
    empty.

    Raises ``UniLoraError`` with the line where there is no prompt.
    """
    if path.suffix.lower() == ".jsonl":
        check_json(path, MOST_PROMPTS, MOST_VALUES)
    try:
        lines = read_bytes(path, MOST_PROMPTS).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UniLoraError(f"{path} is not UTF-8; save it so") from None
    found = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UniLoraError(f"{path} has no prompt in it; write one in each line")
    for number, line in found:
        yield _prompt(line, f"{path}: line {number}") if path.suffix.lower() == ".jsonl" else line


def _prompt(line, where):
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    asked = (row.get("prompt") or row.get("messages")) if isinstance(row, dict) else None
    if isinstance(asked, str):
        return asked
    if isinstance(asked, list):
        try:
            return messages_of(asked, "the prompt")
        except UniLoraError as error:
            raise error.within(where) from None
    raise UniLoraError(f'{where} is no object with a prompt; write {{"prompt": "a text"}} or {{"messages": […]}}')
