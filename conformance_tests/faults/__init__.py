"""Whether the tests find faults: ``python -m conformance_tests.faults`` changes an implementation in one place, and asks again.

Each fault is a small mistake that somebody could make, as a replacement in one file: of ``unilora_spec``, or of an example, as C and
JavaScript have mistakes of their own. The changed copy is judged as any implementation is, by the checks of the rule that the fault
breaks, and one of them has to fail. A file here is for a source file, or for a few that belong together.
"""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import unilora_spec
from unilora_spec.errors import UniLoraError

from ..client import Failed, GaveUp, Implementation
from ..rules import Selection
from ..run import EXAMPLES, FAILED, run

PACKAGE = Path(unilora_spec.__file__).parent
TOOLS = {".py": sys.executable, ".mjs": "node", ".c": os.environ.get("CC", "gcc")}
"""What runs or compiles a file, by its ending."""


@dataclass(frozen=True)
class Fault:
    """``old`` stands once in ``file``; with ``new`` in its place, rule ``rule`` is broken."""

    name: str
    rule: str
    file: str
    old: str
    new: str

    @property
    def path(self) -> Path:
        """Where the file is that is changed: a Python file in ``unilora_spec``, another one among the examples."""
        folder = PACKAGE if self.file.endswith(".py") else Path(__file__).parents[1] / "examples"
        return folder / self.file

    @property
    def tool(self) -> str:
        return TOOLS[self.path.suffix]

    @property
    def text(self) -> str:
        """The changed file. Raises ``UniLoraError`` where the fault's place is gone."""
        text = self.path.read_text(encoding="utf-8")
        if (times := text.count(self.old)) != 1:
            raise UniLoraError(f"{self.name}: {self.old!r} stands {times} times in {self.file}, not once")
        return text.replace(self.old, self.new)


def of(file: str, *faults: tuple[str, str, str, str]) -> list[Fault]:
    """Faults of one file, each its name, the rule, the old text and the new one."""
    return [Fault(name, rule, file, old, new) for name, rule, old, new in faults]


def changed(fault: Fault, folder: Path) -> list[str]:
    """The command of the implementation with the fault, made in ``folder``. Raises ``UniLoraError`` where it cannot be made."""
    if fault.path.suffix == ".py":
        shutil.copytree(PACKAGE, folder / "unilora_spec", ignore=shutil.ignore_patterns("__pycache__", "vectors"))
        (folder / "unilora_spec" / fault.file).write_text(fault.text, encoding="utf-8")
        path = os.pathsep.join([str(folder), str(PACKAGE.parent)])
        serve = [sys.executable, "-m", "conformance_tests.serve", "unilora_spec.conformance"]
        return ["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={path}", *serve]
    source = folder / fault.file
    source.write_text(fault.text, encoding="utf-8")
    if fault.path.suffix == ".mjs":
        return [fault.tool, str(source)]
    program = str(folder / "program")
    call = [fault.tool, "-std=c11", "-O1", "-w", "-ffp-contract=off", "-o", program, str(source), "-lm"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UniLoraError(f"{fault.name}: the changed copy does not compile: {done.stderr[:500]}")
    return [program]


def caught_by(fault: Fault, seed: int = 0, drawn: bool = True) -> str | None:
    """The check of the fault's rule that fails with the changed copy, and what it says; None where all pass. Unless ``drawn``, only
    checks are made whose inputs do not depend on the seed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            implementation = Implementation(changed(fault, Path(folder)))
        except (Failed, GaveUp) as failure:
            raise UniLoraError(f"{fault.name}: the changed copy does not run: {failure}") from None
        selection = Selection(frozenset([fault.rule]), drawn=drawn)
        results = run(implementation, EXAMPLES, seed, selection, first=True)
    return next((f"{result.name}: {result.message}" for result in results if result.outcome == FAILED), None)


_modules = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__"]
FAULTS: list[Fault] = [fault for name in _modules for fault in importlib.import_module(f"{__name__}.{name}").FAULTS]
