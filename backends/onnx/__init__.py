"""Uni-LoRA for ONNX Runtime, without PyTorch: a graph of one step gives the gradient of the vector, and NumPy updates
it.

python -m backends.onnx train --graph step.onnx --data reviews.csv --output vec.safetensors
"""

from .graph import StepGraph
from .optimizer import AdamW
from .settings import EvaluateSettings, TrainSettings

__all__ = ["AdamW", "EvaluateSettings", "StepGraph", "TrainSettings", "evaluate", "train"]


def train(settings: TrainSettings, progress: bool = False) -> dict:
    """``training.train``, imported when it is called: libraries of rows take seconds to import."""
    from . import training

    return training.train(settings, progress)


def evaluate(settings: EvaluateSettings, progress: bool = False) -> dict:
    """``evaluation.evaluate``, imported when it is called."""
    from . import evaluation

    return evaluation.evaluate(settings, progress)
