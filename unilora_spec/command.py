"""How every command of the project ends: 0 done, 1 the work failed or was stopped, 2 the call was wrong; an error is one sentence.


Ctrl-C and SIGTERM stop a command in a sentence too, while it is still importing as well: ``python -m unilora_spec`` and its like
import this module first, and it listens from then on. Where this package is imported by any other program, signals stay what they
are. A signal that the program was started to ignore stays ignored. A reader who goes away (``… | head -1``) ends a command without
a word and with status 141, as the shell has it for programs that SIGPIPE ends.
"""

import atexit
import os
import re
import signal
import sys

from .errors import UniLoraError, WorkFailed

PROGRAMS = (
    "unilora_spec",
    "backends.torch",
    "backends.web",
    "export",
    "conformance_tests",
    "benchmarks",
)  # each is ``python -m`` of it
STOPPED = "stopped; nothing was written"
NOBODY_READS = 128 + 13  # SIGPIPE
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked = False


def run(command) -> None:
    """Calls ``command`` and exits with its status. ``--debug`` anywhere in the call shows the traceback as well."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that has no sign for ΔW shows how it is spelled
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    before = _listen(_interrupt)
    try:
        try:
            status = _finished(command)
        finally:  # how it ends is decided; a signal would only disturb what Python does last
            _listen(signal.SIG_IGN) if _PROGRAM else _restore(before)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        _drop_output()
        if isinstance(error, BrokenPipeError):
            sys.exit(NOBODY_READS)
        sentence, status = _sentence(error)
        print(f"error: {printable(sentence)}", file=sys.stderr)
        if _asked:  # where a text was being executed, as for a dataclass, Python would end itself by SIGINT after all
            atexit._run_exitfuncs()
            os._exit(status)
    sys.exit(status)


def asked_to_stop() -> bool:
    """Whether a signal has asked this command to stop: a library may have swallowed the ``KeyboardInterrupt`` of it."""
    return _asked


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


def say(line: str) -> None:
    """One line on standard error, for whoever waits."""
    print(printable(line), file=sys.stderr, flush=True)


def _finished(command):
    """The status of a command whose output has been taken."""
    try:
        status = command()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer's way to end then, with 1
            raise end.__context__ from None
        status = end.code
    if status == 130:  # typer's, for Ctrl-C, and without a word
        raise KeyboardInterrupt
    if sys.stdout:
        sys.stdout.flush()  # here, where what goes wrong can be told
    return status


def _drop_output() -> None:
    """Leaves nothing for Python to write at its end, where it would complain of what cannot be written."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _sentence(error) -> tuple[str, int]:
    if isinstance(error, UniLoraError) and not (_asked and not isinstance(error, WorkFailed)):
        return str(error), error.exit_status
    if hasattr(error, "format_message"):  # typer's, for a call that its options do not allow
        return f"{error.format_message().rstrip('.')}; --help shows the options", 2
    if (
        _asked or isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
    ):  # typer's Abort
        return STOPPED, 1
    if isinstance(error, OSError):
        return f"{error.filename or 'the output'}: {error.strerror or error}", 1
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1


# Signals


def _listen(handler) -> dict:
    """Sets what Ctrl-C and SIGTERM do, unless they are ignored; returns what they did before."""
    try:
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, found in before.items():
            if found is not signal.SIG_IGN:
                signal.signal(number, handler)
        return before
    except ValueError:  # signals are the main thread's
        return {}


def _restore(before: dict) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def _interrupt(number, frame):
    global _asked
    _asked = True
    raise KeyboardInterrupt


def _end_at_once(number, frame):
    """While nothing is done but importing. An exception could be swallowed there, and a second import find half a module."""
    if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun the first one speaks
        os.write(2, f"error: {STOPPED}\n".encode())
    os._exit(1)


def _is_program() -> bool:
    """Whether Python was started as ``python -m`` of one of the programs: what stands where ``sys.argv[0]`` is now."""
    started = sys.orig_argv[-len(sys.argv)] if 0 < len(sys.argv) <= len(sys.orig_argv) else ""
    return started.removeprefix("-m") in PROGRAMS


if _PROGRAM := _is_program():
    _listen(_end_at_once)
