"""The options of all commands, each stated once for Python, for the command line and for a YAML file."""

from .adapter import AdapterSettings
from .data import DataSettings
from .options import BEFORE, DURING, TEXTS, flag
from .run import AttachSettings, OutputSettings, PlanSettings, RunSettings, StartSettings, TrainSettings
from .using import EvaluateSettings, GenerateSettings, PredictSettings, UseSettings

__all__ = [
    "BEFORE",
    "DURING",
    "TEXTS",
    "AdapterSettings",
    "AttachSettings",
    "DataSettings",
    "EvaluateSettings",
    "GenerateSettings",
    "OutputSettings",
    "PlanSettings",
    "PredictSettings",
    "RunSettings",
    "StartSettings",
    "TrainSettings",
    "UseSettings",
    "flag",
]
