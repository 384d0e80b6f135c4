"""Whether a generated answer is the right one: the whole text, the last number in it, what is boxed, or one of a few choices."""

import re
from collections.abc import Sequence
from fractions import Fraction

from unilora_spec import UniLoraError

NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


class Comparison:
    """How answers are compared, ``how`` being one of ``settings.using.ANSWERS``.

    "whole"        the texts are the same, but for blanks
    "last-number"  the last numbers in them are equal: GSM8K's rows end in "#### 18"
    "boxed"        what stands in the last \\boxed{…} is the same formula as MATH's own evaluation takes it (github.com/hendrycks/math,
                   math_equivalence.py): 1/2, \\frac12 and 0.5 are one. Of a text without it, what follows "The answer is:", by
                   which MetaMathQA's answers end, or all of it
    "choice"       which of the ``answers`` of the rows the text has first, in capitals or not

    Raises ``UniLoraError`` where a right answer has nothing of the kind.
    """

    def __init__(self, how: str, answers: Sequence[str]):
        self.how, self.choices = how, None
        if how == "choice":
            texts = sorted({_plain(answer).lower() for answer in answers}, key=lambda text: (-len(text), text))
            self.choices = re.compile("|".join(rf"(?<!\w){re.escape(text)}(?!\w)" for text in texts), re.IGNORECASE)
        for answer in answers:
            if self.found(answer) is None:
                raise UniLoraError(f"--answer {how}: the right answer {answer!r:.80} has none; give --answer whole")

    def same(self, text: str | None, answer: str) -> bool:
        """Whether ``text`` answers as ``answer`` does; None is no answer."""
        found = self.found(text)
        return found is not None and found == self.found(answer)

    def found(self, text: str | None) -> str | None:
        """What is compared of a text, or None where it is not in it."""
        if text is None:
            return None
        if self.how == "last-number":
            numbers = NUMBER.findall(text)
            return str(Fraction(numbers[-1].replace(",", ""))) if numbers else None
        if self.how == "boxed":
            boxed = last_boxed(text)
            return formula(text.rpartition("The answer is:")[2] if boxed is None else boxed) or None
        if self.how == "choice":
            chosen = self.choices.search(_plain(text))
            return chosen and chosen[0].lower()
        return _plain(text)


def _plain(text: str) -> str:
    return " ".join(text.split())


def last_boxed(text: str) -> str | None:
    r"""What stands between the braces of the last \boxed or \fbox, which may hold others.

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


# What math_equivalence.py takes away, in its order, and what it writes instead.
_WRITTEN = (
    (r"\n", ""), (r"\\!", ""), (r"\\\\", r"\\"), (r"tfrac|dfrac", "frac"), (r"\\left|\\right", ""), (r"\^\{\\circ\}|\^\\circ", ""),
    (r"\\\$", ""), (r"\\text\{ .*", ""), (r"\\%", ""), (r"(^| |\{)\.", r"\g<1>0."), (r"^\w{1,2} *= *", ""),
    (r"\\sqrt([^{])", r"\\sqrt{\1}"), (r" ", ""), (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}"), (r"\\frac([^{])\{", r"\\frac{\1}{"),
    (r"(\\frac\{[^{}]*\})([^{])", r"\1{\2}"), (r"^0\.5$", r"\\frac{1}{2}"), (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
)  # fmt: skip


def formula(text: str) -> str:
    r"""A formula in the one form in which MATH's evaluation compares it.

    >>> formula(r"x = \dfrac12") == formula("1/2") == formula("0.5")
    True
    """
    text = text.strip()
    for written, instead in _WRITTEN:
        text = re.sub(written, instead, text)
    return text.strip()
