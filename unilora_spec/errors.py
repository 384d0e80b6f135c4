"""Every refusal of the specification, as a closed list.

Each class stands for one chapter of SPEC.md and each instance carries the number of the rule that refused, so that a
message, a test and the text can be matched. A message is one sentence that names the field and the mend; the reader
puts the file's name before it.
"""


class UniLoraError(ValueError):
    """Base of all refusals: the call or its input was wrong. ``rule`` is the SPEC.md rule, or None outside of it."""

    exit_status = 2

    def __init__(self, message: str, rule: str | None = None):
        super().__init__(message)
        self.message, self.rule = message, rule

    def __str__(self) -> str:
        return f"{self.message} [SPEC {self.rule}]" if self.rule else self.message

    def within(self, where: object) -> "UniLoraError":
        """The same refusal with the file's name before its sentence."""
        return type(self)(f"{where}: {self.message}", self.rule)


class LimitError(UniLoraError):
    """A number outside the limits (SPEC 1)."""


class KindError(UniLoraError):
    """A projection kind, or a request to one, that does not exist (SPEC 9)."""


class LayerMapError(UniLoraError):
    """A layer map that contradicts itself (SPEC 7)."""


class FileError(UniLoraError):
    """Bytes that are not a sound Uni-LoRA file (SPEC 8)."""


class VersionError(FileError):
    """A file of a version that this reader does not know (SPEC 8)."""


class BaseMismatch(UniLoraError):
    """A base model that an adapter does not fit (SPEC 10)."""


class WorkFailed(UniLoraError):
    """The call was right, the work could not be finished: a full disk, an interruption, a check that failed."""

    exit_status = 1
