"""Writes an adapter as a training begins with it, for trainers without PyTorch."""

import dataclasses

from unilora_spec import save_adapter

from ...runs.outputs import check_place
from ...settings import StartSettings, TrainSettings, flag
from .adapted import attach_planned, planned
from .base import quiet


def start(settings: StartSettings, progress: bool = False) -> dict:
    """Writes the adapter that ``train`` would begin with: θ and the head as ``settings.seed`` gives them, the classes of the data.

    Returns a report. Raises ``UniLoraError`` where settings, base or data are wrong, and ``WorkFailed`` where the disk refuses.
    """
    check_place(settings.output, "--output", {flag(name): getattr(settings, name) for name in ("base", "data", "eval")})
    run = TrainSettings(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)})
    with quiet():
        begun = planned(run, progress)
        attach_planned(begun.model, begun.settings, begun.layer_map, begun.new)
    adapter = begun.model.unilora.adapter()
    size = save_adapter(adapter, settings.output)
    return {
        "output": str(settings.output),
        "bytes": size,
        "d": adapter.projection.d,
        "D": adapter.projection.D,
        "saved": sorted(adapter.saved),
        "labels": list(begun.task.labels or ()),
    }
