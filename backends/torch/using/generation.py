"""Generates texts with a language model: in batches, or printed as they come."""

import sys
from collections.abc import Sequence

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer, TextStreamer

from unilora_spec import UniLoraError
from unilora_spec.command import printable

from ...rows.forms import Example
from ...runs.measuring import batches
from ...runs.progress import counted
from ..tasks.templates import Template
from .trained import Trained

OWN = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")


class Generator:
    """Generates with a model, with or without its adapter, as ``model.unilora`` is set.

    ``max_new_tokens``  the largest number of tokens of an answer; at most half of what the model reads, so that half is
                        left for the prompt
    ``longest``         the largest number of tokens of a prompt with which the model can read prompt and answer; None
                        sets no bound
    ``stop``            texts; an answer ends before the first of them that comes
    ``temperature``     at 0 the likeliest token is taken each time; above 0 tokens are drawn from the model's
                        distribution at it
    """

    def __init__(
        self,
        trained: Trained,
        template: Template,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ):
        self.stop = list(stop)
        self.model, self.tokenizer = trained.model, trained.tokenizer
        self.is_encoder_decoder = self.model.config.is_encoder_decoder
        self.longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if self.longest is not None and not self.is_encoder_decoder:
            max_new_tokens = min(max_new_tokens, self.longest // 2)
            self.longest -= max_new_tokens
        self.max_new_tokens = max_new_tokens
        before = self.model.generation_config
        # Only special tokens are taken from the base's generation_config.json, which could ask for any number of beams.
        self.model.generation_config = GenerationConfig(
            **{name: getattr(before, name, None) for name in OWN},
            eos_token_id=sorted(_ends(template, before.eos_token_id)) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            max_new_tokens=max_new_tokens,
            num_beams=1,
            **({"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}),
        )

    def texts(self, prompts: Sequence[list[int]], size: int, what: str, progress: bool) -> list[str | None]:
        """The answer to each prompt, computed for ``size`` prompts at once; None for a prompt longer than ``longest``.

        ``progress`` shows how many tokens are generated, of the largest possible number; the tokens of a batch count
        once.
        """
        fitting = [number for number, ids in enumerate(prompts) if self.longest is None or len(ids) <= self.longest]
        answers = [None] * len(prompts)
        lengths = [len(prompts[number]) for number in fitting]
        numbered = list(batches(lengths, size, what, False))
        steps = _Steps(len(numbered) * self.max_new_tokens, what) if progress else None
        for done, numbers in enumerate(numbered, 1):
            chosen = [fitting[number] for number in numbers]
            for number, text in zip(chosen, self._generated([prompts[number] for number in chosen], steps)):
                answers[number] = text
            if steps:
                steps.reach(done * self.max_new_tokens)
        return answers

    def stream(self, prompt: list[int]) -> str:
        """Prints the answer to one prompt as it comes, and returns it. Raises ``UniLoraError`` for a prompt longer than
        ``longest``."""
        if self.longest is not None and len(prompt) > self.longest:
            raise UniLoraError(
                f"the prompt has {len(prompt)} tokens, and the base reads {self.longest} beside an answer of {self.max_new_tokens};"
                " give a shorter one, or a smaller --max-new-tokens"
            )
        [text] = self._generated([prompt], _Printed(self.tokenizer))
        return text

    @torch.no_grad()
    def _generated(self, prompts, streamer) -> list[str]:
        side = "right" if self.is_encoder_decoder else "left"
        inputs = self.tokenizer.pad({"input_ids": prompts}, padding_side=side, return_tensors="pt").to(
            self.model.device
        )
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        stopping = {"stop_strings": self.stop, "tokenizer": self.tokenizer} if self.stop else {}
        found = self.model.generate(**inputs, streamer=streamer, **stopping)
        start = 0 if self.is_encoder_decoder else inputs["input_ids"].shape[1]
        return [self._text(ids) for ids in found[:, start:]]

    def _text(self, ids) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for stop in self.stop:
            text = text.partition(stop)[0]
        return text.strip()


def _ends(template: Template, of_base: int | list[int] | None) -> set[int]:
    """The tokens that end an answer: the tokenizer's, the base's, and the one with which the chat template ends a
    turn."""
    ends = {*template.end, *(of_base if isinstance(of_base, list) else [of_base] if of_base is not None else [])}
    if template.jinja:
        try:
            turn = template.example(Example([{"role": "user", "content": "a"}], "b"))
        except UniLoraError as refusal:  # the user's own template may refuse this conversation
            if isinstance(refusal.__cause__, TimeoutError):  # and any other after as long
                raise
            return ends
        special = set(template.tokenizer.all_special_ids)
        ends |= set([token for token, answers in zip(turn.ids, turn.answers) if answers and token in special][:1])
    return ends


class _Steps(BaseStreamer):
    """Shows how many tokens are generated."""

    def __init__(self, total, what):
        self.counted, self.done = iter(counted(range(total), what)), 0

    def put(self, value):
        self.reach(self.done + 1)

    def reach(self, number):
        while self.done < number and next(self.counted, None) is not None:
            self.done += 1

    def end(self):
        pass


class _Printed(TextStreamer):
    """Prints an answer word by word, with all signs visible."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def on_finalized_text(self, text, stream_end=False):
        sys.stdout.write(visible(text) + ("\n" if stream_end else ""))
        sys.stdout.flush()


def visible(text: str) -> str:
    """A text of several lines with all its signs made visible, as the output of a model could control a terminal."""
    return "\n".join(printable(line.expandtabs(4)) for line in text.split("\n"))
