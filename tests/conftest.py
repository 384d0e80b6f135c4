"""What makes all tests quicker: half of a training's processor time, and a fifth of an export's, are the garbage of other tests' modules and
a table that torch makes anew."""

import functools
import gc
import sys


def pytest_collection_finish():
    """The collector leaves alone what was imported: transformers' trainer has it look through everything at the end of each training, which
    takes half a second of a process that has all tests' modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    if "onnxscript" in sys.modules:
        translations_once()


def translations_once():
    """torch's table of translations to ONNX is made at the first export and not at each, which takes it half a second."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
