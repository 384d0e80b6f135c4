"""Compares a generated answer with the right one: by the whole text, a number in it, its boxed part, or one of a few
choices."""

import re
from collections.abc import Sequence
from fractions import Fraction

from unilora_spec import UniLoraError

NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
QUOTIENT = re.compile(rf"({NUMBER.pattern})(?:/(\d+))?")
PLAIN_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")  # commas between thousands alone: 1,2 is a list
FRACTION = re.compile(r"(-?)\\frac\{(-?\d+)\}\{(\d+)\}")


class Comparison:
    """A way to compare answers; ``how`` is one of ``settings.using.ANSWERS``.

    "whole"        the texts are equal except for blanks
    "last-number"  the last numbers in them are equal: GSM8K's rows end in "#### 18"
    "number"       the first numbers in them are equal after rounding to whole ones, in a row of GSM8K the one after
                   "#### "; 7/2 is one number. gsm8k_eval.py of the Uni-LoRA authors does the same
    "boxed"        the contents of the last \\boxed{…} are the same formula for MATH's own evaluation
                   (github.com/hendrycks/math, math_equivalence.py), and numbers are compared as numbers: 1/2, \\frac12
                   and 0.5 are equal. In a text without it, what follows "The answer is:", with which MetaMathQA's
                   answers end, or all of it, up to a full stop at a line's end
    "choice"       the same one of the ``answers`` of the rows comes first in them, whether in capitals or not

    ``after`` is a text that comes before the compared part of a generated answer; an answer without it is wrong.

    Raises ``UniLoraError`` where a right answer has nothing to compare in this way.
    """

    def __init__(self, how: str, answers: Sequence[str], after: str | None = None):
        self.how, self.after, self.choices = how, after, None
        if how == "choice":
            texts = sorted({_plain(answer).lower() for answer in answers}, key=lambda text: (-len(text), text))
            self.choices = re.compile("|".join(rf"(?<!\w){re.escape(text)}(?!\w)" for text in texts), re.IGNORECASE)
        for answer in answers:
            if self.found(answer) is None:
                raise UniLoraError(
                    f"--answer {how}: the right answer {answer!r:.80} has nothing to compare in that way; give --answer whole"
                )

    def same(self, text: str | None, answer: str) -> bool:
        """Whether ``text`` gives the same answer as ``answer``; None, for no text, does not."""
        found = self.answered(text)
        return found is not None and found == self.found(answer)

    def answered(self, text: str | None) -> str | None:
        """The compared part of a generated text; None where it has none."""
        if text is None or not self.after:
            return self.found(text)
        _, after, answer = text.rpartition(self.after)
        return self.found(answer) if after else None

    def found(self, text: str | None) -> str | None:
        """The compared part of a text; None where it has none."""
        if text is None:
            return None
        if self.how == "last-number":
            numbers = NUMBER.findall(text)
            return str(Fraction(numbers[-1].replace(",", ""))) if numbers else None
        if self.how == "number":
            number = QUOTIENT.search(text.rpartition("#### ")[2])
            return number and str(round(_quotient(*number.groups())))
        if self.how == "boxed":
            boxed = last_boxed(text)
            if boxed is None:
                boxed = text.rpartition("The answer is:")[2].split(".\n")[0].strip().removesuffix(".")
            return formula(boxed) or None
        if self.how == "choice":
            chosen = self.choices.search(_plain(text))
            return chosen and chosen[0].lower()
        return _plain(text)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _quotient(numerator: str, denominator: str | None = None) -> Fraction:
    """A written number as a fraction; with a denominator of 0, the numerator, as in gsm8k_eval.py."""
    return Fraction(numerator.replace(",", "")) / (int(denominator or 1) or 1)


def last_boxed(text: str) -> str | None:
    r"""The text between the braces of the last \boxed or \fbox, which may hold further braces.

    >>> last_boxed(r"so x = \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = depth = 0
    for place in range(start, len(text)):
        if text[place] == "{":
            begin, depth = begin or place + 1, depth + 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return text[begin:place]
    return None


# The patterns that math_equivalence.py replaces, in its order, and what it writes instead.
_WRITTEN = (
    (r"\n", ""), (r"\\!", ""), (r"\\\\", r"\\"), (r"tfrac|dfrac", "frac"), (r"\\left|\\right", ""), (r"\^\{\\circ\}|\^\\circ", ""),
    (r"\\\$", ""), (r"\\text\{ .*", ""), (r"\\%", ""), (r"(^| |\{)\.", r"\g<1>0."), (r"^\w{1,2} *= *(?=[^=]*$)", ""),
    (r"\\sqrt([^{])", r"\\sqrt{\1}"), (r" ", ""), (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}"), (r"\\frac([^{])\{", r"\\frac{\1}{"),
    (r"(\\frac\{[^{}]*\})([^{])", r"\1{\2}"), (r"^0\.5$", r"\\frac{1}{2}"), (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
)  # fmt: skip


def formula(text: str) -> str:
    r"""A formula in the one form in which MATH's evaluation compares it; a number as a fraction in lowest terms.

    >>> formula(r"x = \dfrac12") == formula("1/2") == formula("0.5")
    True
    """
    text = text.strip()
    for written, instead in _WRITTEN:
        text = re.sub(written, instead, text)
    text = text.strip()
    if PLAIN_NUMBER.fullmatch(text):
        return str(_quotient(text))
    if fraction := FRACTION.fullmatch(text):
        sign, *parts = fraction.groups()
        return str(_quotient(*parts) * (-1 if sign else 1))
    return text
