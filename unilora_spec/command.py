"""How every command of the project ends: 0 done, 1 the work failed or was stopped, 2 the call was wrong; an error is one sentence.

Ctrl-C and SIGTERM end a command with one sentence too, also while it is still importing: ``python -m unilora_spec`` and the other
programs import this module first, which handles signals from then on. Where any other program imports this package, signals stay what
they are. A signal that the program was started to ignore stays ignored. When the reader of its output goes away (``… | head -1``), a
command ends silently with status 141, which is what a shell reports for programs that SIGPIPE ends.
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

PROGRAMS = {  # the module for ``python -m``: the same program in the console script, and the extra that pip installs for it
    "unilora_spec": ("unilora", ""),
    "backends.torch": ("unilora", "train"),
    "backends.onnx": ("unilora onnx", "train-onnx"),
    "backends.web": ("", ""),
    "export": ("unilora export", "export"),
    "conformance_tests": ("unilora conformance", "conformance"),
    "benchmarks": ("", "compare"),
}
RUNTIME = "onnxruntime"  # in the extras ``cpu`` and ``gpu`` alone, as a GPU needs another package of it
STOPPED = "stopped; nothing was written"
NOBODY_READS = 128 + 13  # SIGPIPE
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked = False


class NotInstalled(WorkFailed):
    """A package that a program needs is not installed: ``missing`` is the module that was not found, ``program`` one of ``PROGRAMS``, and
    ``called`` the call that wanted it."""

    def __init__(self, missing: str | None, program: str, called: str = ""):
        package = (missing or "").split(".")[0]
        extra = "cpu" if package == RUNTIME else PROGRAMS.get(program, ("", ""))[1]
        mend = f'pip install "unilora[{extra}]" brings it' if extra else "install it with pip"
        super().__init__(f"{package} is not installed, and {called or program_name(program)} needs it; {mend}")


def run(command: Callable[[], Any]) -> None:
    """Calls ``command`` and exits with its status. ``--debug`` anywhere in the call shows the traceback as well."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show ΔW shows its escapes
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    before = _listen(_interrupt)
    try:
        try:
            status = _finished(command)
        finally:  # the status is decided; a signal now would only disturb Python's own exit
            _listen(signal.SIG_IGN) if _PROGRAM else _restore(before)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        _drop_output()
        if isinstance(error, BrokenPipeError):
            sys.exit(NOBODY_READS)
        sentence, status = _sentence(error)
        print(f"error: {printable(sentence)}", file=sys.stderr)
        if _asked:  # a signal within exec(), which dataclasses use, would make Python end itself by SIGINT after all
            atexit._run_exitfuncs()
            os._exit(status)
    sys.exit(status)


def asked_to_stop() -> bool:
    """Whether a signal has asked this command to stop: a library may have swallowed the ``KeyboardInterrupt`` of it."""
    return _asked


# Characters that a font shows as nothing at all, though Python counts them as printable: Unicode's default ignorable letters and marks.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """``text`` as one line of visible characters, with escapes for all others. Names come from files, and could otherwise begin a
    line of their own, steer a terminal, or reverse the order of the text behind them.

    >>> print(printable("x\\nerror: \\u202eall fine"))
    x\\nerror: \\u202eall fine
    """
    return "".join(
        c if c.isprintable() and not _INVISIBLE.match(c) else c.encode("unicode_escape").decode() for c in text
    )


def say(line: str) -> None:
    """Prints one line on standard error, for the person who waits."""
    print(printable(line), file=sys.stderr, flush=True)


def program_name(module: str) -> str:
    """How a call of a program begins, in the form in which this process was called: ``python -m export``, or ``unilora export``."""
    return _IS_SCRIPT and PROGRAMS.get(module, ("", ""))[0] or f"python -m {module}"


def running_program() -> str:
    """The one of ``PROGRAMS`` that is running, also when the console script called it; empty where none is."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    return module if module in PROGRAMS else ""


def is_not_installed(error: object) -> TypeGuard[ModuleNotFoundError]:
    """Whether a module of somebody else's was not found."""
    ours = {"", *(module.split(".")[0] for module in PROGRAMS)}
    return isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in ours


def _finished(command: Callable[[], Any]) -> Any:
    """Calls the command and returns its status, once its output has been flushed."""
    try:
        status = command()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer ends with status 1 then
            raise end.__context__ from None
        status = end.code
    if status == 130:  # typer's status for Ctrl-C, for which it prints nothing
        raise KeyboardInterrupt
    if sys.stdout:
        sys.stdout.flush()  # here, where an error can still be reported
    return status


def _drop_output() -> None:
    """Discards output that cannot be written, of which Python would otherwise complain when it exits."""
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
    if is_not_installed(error) and (program := running_program()):
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
    """Ends the process, on a signal during its imports. An exception could be swallowed there, and another import find half a module."""
    if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun only the first one prints
        os.write(2, f"error: {STOPPED}\n".encode())
    os._exit(1)


def _started() -> str:
    """What Python was started with: the module of ``python -m``, or the path of the console script."""
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
