"""What is collected here: tests alone. The modules beside them have no examples to run, and some take seconds to be imported."""

import pytest
from _pytest.doctest import DoctestModule


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    found = yield
    return [collector for collector in found if not isinstance(collector, DoctestModule)]
