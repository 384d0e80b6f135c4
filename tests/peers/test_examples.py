"""The scripts in examples/ that are about these libraries print what examples/README.md says."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))
from example_scripts import OF_PEERS, is_here, listed, printed
from test_example_scripts import alike


@pytest.mark.parametrize("name", OF_PEERS)
def test_it_prints_what_is_listed(name, tmp_path):
    if not is_here(name):
        pytest.skip("its library is not installed")
    assert alike(printed(name, tmp_path), listed()[name])
