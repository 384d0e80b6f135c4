"""Finds the form of rows for a language model by their columns, and reads them: a text, a prompt and its answer, or a
conversation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unilora_spec import UniLoraError

from .refusals import LeftOut

ROLES = {
    "system": "system", "developer": "developer", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant",
}  # fmt: skip
"""The roles of messages, also by ShareGPT's names for them."""


class Instruction(NamedTuple):
    """An instruction and its input ("" where it has none), as in Alpaca's rows."""

    instruction: str
    input: str = ""


class Example(NamedTuple):
    """A prompt ``asked`` and its ``answer``: texts, or lists of messages, each {"role": …, "content": …}.

    A plain text has the prompt "". A conversation has the prompt [], and ``answer`` is all of it, with the assistant's
    messages as the answers.
    """

    asked: str | Instruction | list[dict]
    answer: str | list[dict]

    def texts(self) -> tuple[str, ...]:
        """All texts in it."""
        both = (part if isinstance(part, tuple | list) else [part] for part in self)
        return tuple(part["content"] if isinstance(part, dict) else part for parts in both for part in parts)


@dataclass(frozen=True)
class Form:
    """A form of rows.

    ``what``     the form in words
    ``columns``  the columns that are read
    ``read``     makes an ``Example`` of a row; raises ``LeftOut`` for a row that lacks something, and ``UniLoraError``
                 for a wrong one
    """

    what: str
    columns: tuple[str, ...]
    read: Callable[[Mapping], Example]


def form_of(there: Sequence[str], named: Sequence[str] = ()) -> Form:
    """The form of rows that have the columns ``there``. ``named`` are those of --text: one of texts, or two of prompts
    and answers.

    Raises ``UniLoraError`` where the columns are those of no form.
    """
    if len(named) == 1:
        return _text(*named)
    if named:
        return _pair(*named)
    for column in ("messages", "conversations"):
        if column in there:
            return _turns(column)
    if {"prompt", "completion"} <= set(there):
        return _pair("prompt", "completion")
    if {"instruction", "output"} <= set(there):
        columns = tuple(column for column in ("instruction", "input", "output") if column in there)
        return Form(f"{', '.join(columns[:-1])} and output", columns, _instruction)
    if {"source", "target"} <= set(there):
        return _pair("source", "target")
    if "text" in there:
        return _text("text")
    raise UniLoraError(
        f"of its columns ({', '.join(there)}) none is messages, conversations, prompt and completion, instruction and output, source "
        "and target, or text; give --text COLUMN for texts, or --text COLUMN,COLUMN for prompts and answers"
    )


def _text(column):
    return Form(f"texts in {column}", (column,), lambda row: Example("", _filled(row, column, "text")))


def _turns(column):
    return Form(f"conversations in {column}", (column,), lambda row: _conversation(row, column))


def _pair(asked, answer):
    return Form(f"{asked} and {answer}", (asked, answer), lambda row: _asked_and_answered(row, asked, answer))


def _instruction(row):
    asked = Instruction(_filled(row, "instruction", "instruction"), _string(row.get("input"), "input"))
    return Example(asked, _filled(row, "output", "answer"))


def _asked_and_answered(row, asked, answer):
    if isinstance(row[asked], list) or isinstance(row[answer], list):
        before, after = messages_of(row[asked], asked), messages_of(row[answer], answer)
        return Example(before, _with_answers(after))
    return Example(_string(row[asked], asked), _filled(row, answer, "answer"))


def _conversation(row, column):
    if row[column] is None or row[column] == []:
        raise LeftOut("messages")
    return Example([], _with_answers(messages_of(row[column], column)))


def _filled(row, column, what) -> str:
    text = _string(row[column], column)
    if not text.strip():
        raise LeftOut(what)
    return text


def _string(cell, column) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise UniLoraError(f"{column} is {str(cell)!r:.60} ({type(cell).__name__}); give a text")
    return cell


def _with_answers(messages):
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers or not all(answer.strip() for answer in answers):
        raise LeftOut("answer")
    return messages


def messages_of(cell, column: str) -> list[dict]:
    """The messages in a cell, each {"role": …, "content": …}. Raises ``UniLoraError`` for a cell or a message in
    another form."""
    if not isinstance(cell, list):
        raise UniLoraError(
            f"{column} is {str(cell)!r:.60} ({type(cell).__name__}); give a list of messages such as "
            '{"role": "user", "content": "a text"}, in a .json, .jsonl or .parquet file'
        )
    return [_message(message, f"message {number} of {column}") for number, message in enumerate(cell, 1)]


def _message(message, where):
    if not isinstance(message, dict):
        raise UniLoraError(
            f'{where} is {str(message)!r:.60}; give an object such as {{"role": "user", "content": "a text"}}'
        )
    message = {name: value for name, value in message.items() if value is not None}
    if "from" in message:
        message = {"role": message["from"], "content": message.get("value")}
    role, content = message.get("role"), message.get("content")
    if message.get("tool_calls"):
        raise UniLoraError(f"{where} calls a tool, and calls of tools are not learned here; leave such rows out")
    if not isinstance(role, str) or role not in ROLES:
        raise UniLoraError(f"{where} has the role {role!r:.60}; give one of {', '.join(ROLES)}")
    if isinstance(content, list):
        raise UniLoraError(
            f"{where} has a list as its content, as messages with images or sound have; only text is learned here: give it as "
            "one text"
        )
    if not isinstance(content, str):
        raise UniLoraError(f"{where} has the content {str(content)!r:.60}; give a text")
    return message | {"role": ROLES[role], "content": content}
