"""Runs chat templates in transformers' sandbox of Jinja, without files or Python."""

import contextlib
import signal
import threading
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from unilora_spec import UniLoraError
from unilora_spec.documents import read_bytes

from ...tasks import templates

MOST_TEMPLATE = 2**20  # bytes; the longest of models are some tens of thousands
SECONDS = 2  # of computing; a usual template takes a thousandth of that


class Template(templates.Template):
    """``backends.tasks.templates.Template`` that runs chat templates, with ``SECONDS`` for each conversation.

    Raises ``UniLoraError`` also where ``chosen`` names no file.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chosen: str | None = None):
        super().__init__(tokenizer, chosen)
        if chosen not in (None, "own", "alpaca"):
            self.jinja = _read(Path(chosen))
        elif self.jinja:
            self.jinja = tokenizer.get_chat_template()

    def _render(self, messages, **options):
        if not self.jinja:
            raise UniLoraError(
                "the base's tokenizer has no chat template, which conversations need; give --chat-template a file of Jinja"
            )
        special = self.tokenizer.special_tokens_map
        try:
            with _at_most(SECONDS):
                return render_jinja_template([messages], chat_template=self.jinja, **special, **options)
        except Exception as error:  # a template is a program, and may raise what it likes
            roles = ", ".join(message["role"] for message in messages)
            reason = str(error).strip().split("\n")[0]
            raise UniLoraError(
                f"the chat template refuses a conversation of {roles or 'no message'}: {reason:.200}; change such rows, or give "
                "--chat-template another file of Jinja"
            ) from error


@contextlib.contextmanager
def _at_most(seconds: float):
    """Raises ``TimeoutError`` within a block that computes for more ``seconds`` in Python; only in the main thread, on
    systems with such signals."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGVTALRM"):
        yield
        return

    def end(number, frame):
        raise TimeoutError(f"it takes more than {seconds} seconds")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _read(path: Path) -> str:
    if not path.is_file():
        raise UniLoraError(f"--chat-template: {path} is no file; give a file of Jinja, own or alpaca")
    try:
        return read_bytes(path, MOST_TEMPLATE).decode()
    except UnicodeDecodeError:
        raise UniLoraError(f"--chat-template: {path} is not UTF-8; give a file of Jinja") from None
