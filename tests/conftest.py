"""What holds for all tests: modules that have none are not collected, and two things that many tests would do again are done once."""

import functools
import gc
import sys

import pytest
from _pytest.doctest import DoctestModule


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Leaves the doctests of this folder out: its modules have no examples, and some take seconds to be imported."""
    found = yield
    return [collector for collector in found if not isinstance(collector, DoctestModule)]


def pytest_collection_finish():
    """Takes what was imported out of the garbage collector's work: transformers' trainer has it look through everything at the end of each
    training, which takes half a second of a process that has all tests' modules."""
    keep_what_is_there()
    gc.set_threshold(50_000)
    if {"torch", "onnxscript"} <= sys.modules.keys():  # tests/test_runtimes.py runs where no torch is, with onnxscript
        make_translations_once()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """The same for what the tests of a file leave, such as what torch remembers of its exports."""
    if nextitem is None or nextitem.path != item.path:
        keep_what_is_there()


def keep_what_is_there():
    gc.collect()
    gc.freeze()


def make_translations_once():
    """Has torch make its table of translations to ONNX at the first export and not at each, which takes half a second."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
