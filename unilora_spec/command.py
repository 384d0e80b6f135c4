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
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeGuard

from .errors import UniLoraError, WorkFailed

PROGRAMS = {  # each is ``python -m`` of it: what the console script has in that place, and the extra that pip installs for it
    "unilora_spec": ("unilora", ""),
    "backends.torch": ("unilora", "train"),
    "backends.onnx": ("unilora onnx", "train-onnx"),
    "backends.web": ("", ""),
    "export": ("unilora export", "export"),
    "conformance_tests": ("unilora conformance", "conformance"),
    "benchmarks": ("", "compare"),
}
RUNTIME = "onnxruntime"  # in no program's extra, as a GPU wants another package of it: in ``cpu`` and ``gpu``
STOPPED = "stopped; nothing was written"
NOBODY_READS = 128 + 13  # SIGPIPE
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked = False


class NotInstalled(WorkFailed):
    """A program needs a package that is not there: ``missing`` is the module that was not found, ``program`` one of ``PROGRAMS``, and
    ``called`` the call that wanted it."""

    def __init__(self, missing: str | None, program: str, called: str = ""):
        package = (missing or "").split(".")[0]
        extra = "cpu" if package == RUNTIME else PROGRAMS.get(program, ("", ""))[1]
        mend = f'pip install "unilora[{extra}]" brings it' if extra else "install it with pip"
        super().__init__(f"{package} is not installed, and {called or program_name(program)} needs it; {mend}")


def run(command: Callable[[], Any]) -> None:
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


def program_name(module: str) -> str:
    """What a call of a program begins with, in the way in which this one was made: ``python -m export``, or ``unilora export``."""
    return _IS_SCRIPT and PROGRAMS.get(module, ("", ""))[0] or f"python -m {module}"


def running() -> str:
    """Which of ``PROGRAMS`` runs, also where the console script has called it; empty where none does."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    return module if module in PROGRAMS else ""


def is_not_installed(error: object) -> TypeGuard[ModuleNotFoundError]:
    """Whether a module of somebody else's was not found."""
    ours = {"", *(module.split(".")[0] for module in PROGRAMS)}
    return isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in ours


def _finished(command: Callable[[], Any]) -> Any:
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


def _sentence(error: BaseException) -> tuple[str, int]:
    if isinstance(error, UniLoraError) and not (_asked and not isinstance(error, WorkFailed)):
        return str(error), error.exit_status
    if hasattr(error, "format_message"):  # typer's, for a call that its options do not allow
        return f"{error.format_message().rstrip('.')}; --help shows the options", 2
    if (
        _asked or isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
    ):  # typer's Abort
        return STOPPED, 1
    if is_not_installed(error) and (program := running()):
        return _sentence(NotInstalled(error.name, program))
    if isinstance(error, OSError):
        return f"{error.filename or 'the output'}: {error.strerror or error}", 1
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1


# Signals


def _listen(handler: Any) -> dict[signal.Signals, Any]:
    """Sets what Ctrl-C and SIGTERM do, unless they are ignored; returns what they did before."""
    try:
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, found in before.items():
            if found is not signal.SIG_IGN:
                signal.signal(number, handler)
        return before
    except ValueError:  # signals are the main thread's
        return {}


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


def _end_at_once(number: int, frame: object) -> None:
    """While nothing is done but importing. An exception could be swallowed there, and a second import find half a module."""
    if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun the first one speaks
        os.write(2, f"error: {STOPPED}\n".encode())
    os._exit(1)


def _started() -> str:
    """What Python was started as: the module of ``python -m``, or the console script; what stands where ``sys.argv[0]`` is now."""
    started = sys.orig_argv[-len(sys.argv)] if 0 < len(sys.argv) <= len(sys.orig_argv) else ""
    return started.removeprefix("-m")


def _say_what_is_missing(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The hook for what goes wrong while a program is imported, before ``run`` is called."""
    if is_not_installed(error) and "--debug" not in sys.argv:
        print(f"error: {printable(str(NotInstalled(error.name, _STARTED)))}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


_STARTED = _started()
_IS_SCRIPT = os.path.splitext(os.path.basename(_STARTED))[0] == "unilora"
if _PROGRAM := _STARTED in PROGRAMS or _IS_SCRIPT:
    _listen(_end_at_once)
    sys.excepthook = _say_what_is_missing
