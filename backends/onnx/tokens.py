"""Reads a base's tokenizer.json with the package `tokenizers` alone; its tokenizer is called as those of transformers
are.

The padding token, the longest text and the end at which a text is cut are in tokenizer_config.json and
special_tokens_map.json beside that file, as transformers writes them. The tokens before and behind a text come from
tokenizer.json alone, as in transformers.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unilora_spec import UniLoraError
from unilora_spec.base_model import LARGE_JSON
from unilora_spec.documents import check_json, read_json

UNBOUNDED = 10**30
NAMES = ("bos_token", "eos_token", "pad_token")
INPUTS = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}


class Tokenizer:
    """The tokenizer of the base in ``folder``, with all that ``tasks`` need of one.

    Raises ``UniLoraError`` where there is no tokenizer.json or it cannot be read, and where no token can pad.
    """

    is_fast = True  # it can say which characters a token stands for

    def __init__(self, folder: Path):
        import tokenizers

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UniLoraError(
                f"{folder}: it has no tokenizer.json; give --base a folder of the base model that has one"
            )
        check_json(file, *LARGE_JSON)
        try:
            self._own = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library's own, of many kinds
            raise UniLoraError(f"{file}: this is no tokenizer: {str(error).splitlines()[0]:.200}") from error
        config = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                config |= read_json(folder / name, *LARGE_JSON)
        padding, truncation = self._own.padding or {}, self._own.truncation or {}
        self._own.no_padding()
        self._own.no_truncation()
        self._tokens = {name: _text_of(config.get(name)) for name in NAMES}
        pad = self._tokens["pad_token"] or padding.get("pad_token") or self._tokens["eos_token"]
        self._tokens["pad_token"] = pad
        self.bos_token_id, self.eos_token_id, self.pad_token_id = map(self._id, NAMES)
        if self.pad_token_id is None:
            raise UniLoraError(
                f"{folder}: its tokenizer_config.json names no pad_token and no eos_token; add one, as a batch needs a token for padding"
            )
        self._side = config.get("padding_side", padding.get("direction", "right"))
        self._cut_side = config.get("truncation_side", truncation.get("direction", "right"))
        longest = config.get("model_max_length")
        self.model_max_length = int(longest) if isinstance(longest, int | float) else UNBOUNDED
        self.chat_template = config.get("chat_template") or (folder / "chat_template.jinja").is_file()

    def __call__(
        self,
        *texts,
        add_special_tokens: bool = True,
        padding: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_offsets_mapping: bool = False,
        return_tensors: str | None = None,
    ) -> dict:
        """The tokens of one text, of several, or of pairs, given as a list of their first and a list of their second
        texts.

        The result has lists of numbers, or with ``return_tensors`` ("np") int64 (texts, longest).
        """
        if truncation:
            self._own.enable_truncation(max_length, strategy="longest_first", direction=self._cut_side)
        else:
            self._own.no_truncation()
        if padding:
            self._own.enable_padding(
                direction=self._side, pad_id=self.pad_token_id, pad_type_id=0, pad_token=self._tokens["pad_token"]
            )
        else:
            self._own.no_padding()
        single = isinstance(texts[0], str)
        rows = [texts] if single else [each if len(texts) > 1 else each[0] for each in zip(*texts)]
        if single:
            rows = [row[0] if len(row) == 1 else row for row in rows]
        found = self._own.encode_batch(rows, add_special_tokens=add_special_tokens)
        columns = {name: [getattr(each, kind) for each in found] for name, kind in INPUTS.items()}
        if return_offsets_mapping:
            columns["offset_mapping"] = [each.offsets for each in found]
        if return_tensors:
            return {name: np.array(column, np.int64) for name, column in columns.items()}
        return {name: column[0] for name, column in columns.items()} if single else columns

    def decode(self, ids) -> str:
        """The text of token ids, including special tokens."""
        return self._own.decode(list(ids), skip_special_tokens=False)

    def _id(self, name) -> int | None:
        token = self._tokens[name]
        return None if token is None else self._own.token_to_id(token)


def _text_of(token) -> str | None:
    """The text of a token, which tokenizer_config.json has as it is or within an object."""
    return token.get("content") if isinstance(token, Mapping) else token
