"""Matches regular expressions that others wrote, in a process of their own: one such as (a+)+$ may take longer than anybody waits,
and nothing can stop Python's matcher from within its process.

The package `regex` has a time limit. But its expressions are not those of Python's `re`, which PEFT and this project use, and it does
not limit the memory that an expression is compiled to.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from .errors import UniLoraError

SECONDS = 1  # of processor time
MEMORY = 2**28  # bytes, of which the process needs 20 MiB to begin with
PATIENCE = 30  # seconds on the clock, for systems that do not limit processor time
MOST = 2000  # characters of an expression; names joined by | may be longer
_NAMES = re.compile(r"(?:[-.\w|/]++|\\.)*+")  # names joined by |, which are matched at once

_CHILD = f"""
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
except (ImportError, ValueError, OSError):
    pass
how, expressions, names = json.load(sys.stdin)
for number, expression in enumerate(expressions):
    print(number, file=sys.stderr, flush=True)
    try:
        found = map(getattr(re.compile(expression), how), names)
        print(json.dumps([match and [match[0], *match.groups()] for match in found]))
    except (re.error, OverflowError) as error:
        print(json.dumps(str(error)))
"""


def matches(
    expressions: Sequence[str], names: Sequence[str], how: str = "fullmatch"
) -> list[list[list[str | None] | None]]:
    """For each expression and each name what ``re.fullmatch`` (or ``match``) finds, as [the whole, *groups], or None.

    Raises ``UniLoraError`` for what is no regular expression, and for one that takes too long or too much memory.

    >>> matches([r"h\\.(\\d+)", "w|v"], ["h.12", "w"])
    [[['h.12', '12'], None], [None, ['w']]]
    """
    if all(_NAMES.fullmatch(expression) for expression in expressions):
        return [_matched_here(expression, names, how) for expression in expressions]
    if long := [expression for expression in expressions if len(expression) > MOST]:
        raise UniLoraError(
            f"the pattern {long[0]!r:.80} has {len(long[0]):,} characters; give one of at most {MOST}, or the names themselves"
        )
    call = [sys.executable, "-I", "-S", "-c", _CHILD]
    process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            answers, begun = process.communicate(json.dumps([how, list(expressions), list(names)]), timeout=PATIENCE)
        except BaseException as error:
            process.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            answers, begun = process.communicate()
    if process.returncode:
        numbers = [int(line) for line in begun.split() if line.isdecimal()]
        tried = expressions[numbers[-1] if numbers else 0]
        raise UniLoraError(
            f"the pattern {tried!r:.80} takes too long to match {len(names):,} names; give a simpler one, or the names themselves"
        )
    found = [json.loads(line) for line in answers.splitlines()]
    for expression, answer in zip(expressions, found, strict=True):
        if isinstance(answer, str):
            raise UniLoraError(_no_expression(expression, answer))
    return found


def _matched_here(expression: str, names: Sequence[str], how: str) -> list[list[Any] | None]:
    try:
        found = map(getattr(re.compile(expression), how), names)
    except re.error as error:
        raise UniLoraError(_no_expression(expression, error)) from None
    return [match and [match[0], *match.groups()] for match in found]


def _no_expression(expression: str, error: object) -> str:
    return f"the pattern {expression!r:.80} is no regular expression: {error}"
