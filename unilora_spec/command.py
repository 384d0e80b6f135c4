"""How every command of the project ends: 0 done, 1 the work failed, 2 the call was wrong; an error is one sentence."""

import re
import sys

from .errors import UniLoraError


def run(command) -> None:
    """Calls ``command`` and exits with its status. ``--debug`` anywhere in the call shows the traceback as well."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that has no sign for ΔW shows how it is spelled
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        status = command()
        if status == 130:  # typer's, for Ctrl-C, and without a word
            raise KeyboardInterrupt
        sys.exit(status)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        sentence, status = _sentence(error)
    print(f"error: {printable(sentence)}", file=sys.stderr)
    sys.exit(status)


# Signs that a font shows as nothing at all, though Python counts them as printable: Unicode's default ignorable letters and marks.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """``text`` as one line of signs that can be seen, the others spelled out: names come from files, and could begin a line of their
    own, steer a terminal, or turn the order of what stands behind them.

    >>> print(printable("x\\nerror: \\u202eall fine"))
    x\\nerror: \\u202eall fine
    """
    return "".join(
        c if c.isprintable() and not _INVISIBLE.match(c) else c.encode("unicode_escape").decode() for c in text
    )


def _sentence(error) -> tuple[str, int]:
    if isinstance(error, UniLoraError):
        return str(error), error.exit_status
    if hasattr(error, "format_message"):  # typer's, for a call that its options do not allow
        return f"{error.format_message().rstrip('.')}; --help shows the options", 2
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt):  # typer's Abort
        return "stopped; nothing was written", 1
    if isinstance(error, OSError):
        return f"{error.filename or 'the output'}: {error.strerror or error}", 1
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1
