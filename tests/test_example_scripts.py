"""Every script in examples/ is listed in its README.md and prints what stands there."""

import re
from pathlib import Path

import pytest
from example_scripts import NEEDS, OF_PEERS, ROOT, listed, printed

from unilora_spec import Projection

LONGER = (
    "demo.py",
    "federated.py",
    "jax_reviews.py",
    "page.py",
)  # a training of MiniLM, each with a command and a page of its own
NUMBER = re.compile(r"-?\d+\.\d+")


def alike(found: str, expected: str) -> bool:
    """Whether two outputs have the same words and whole numbers, and decimals that differ by at most a tenth: training adds in an order
    that other processors and versions have otherwise, and their last digits are printed here."""
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (found, expected)]
    words = [NUMBER.sub("", text) for text in (found, expected)]
    return words[0] == words[1] and all(abs(a - b) <= 0.1 for a, b in zip(*numbers, strict=True))


def test_each_is_listed_and_short():
    scripts = [
        path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".c") and path.name not in LONGER
    ]
    assert {path.name for path in scripts} == set(NEEDS) == set(listed())
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 60 for path in scripts)
    assert all(listed().values())


def test_outputs_are_compared():
    assert alike("loss 0.51, 40 bytes\n", "loss 0.55, 40 bytes\n")
    assert not alike("loss 0.51, 40 bytes\n", "loss 0.71, 40 bytes\n")
    assert not alike("loss 0.51, 41 bytes\n", "loss 0.51, 40 bytes\n")


def test_the_arithmetic_in_c_is_the_specifications(tmp_path):
    p = Projection("balanced", D=36864, d=5760, seed=42)
    scale = p.scale()
    expected = [f"theta_D[{i}] = theta[{j}] * {scale[j]:.8g}" for i, j in enumerate(p.index(0, 8))]
    assert printed("balanced.c", tmp_path).splitlines() == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NEEDS if name not in OF_PEERS])
def test_it_prints_what_is_listed(name, tmp_path: Path):
    assert alike(printed(name, tmp_path), listed()[name])
