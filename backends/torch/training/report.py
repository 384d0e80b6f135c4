"""Makes the report of a run that has ended."""

from dataclasses import replace

from ...runs.report import rows_of


def report_of(model, trainer, rows, task, settings, size, dtype, before, after) -> dict:
    """The report of a run that has ended. ``size`` and ``dtype`` are those of the base, ``before`` and ``after`` the Trainer's evaluations."""
    rate = trainer.optimizer.param_groups[0]
    return {
        "rows": rows_of(rows, task),
        "parameters": _counted(model, size),
        "dtype": str(dtype).removeprefix("torch."),
        "P": {"storage": model.unilora.storage.name, "bytes": model.unilora.storage.nbytes},
        "steps": trainer.state.global_step,
        "adapter": {
            "targets": list(settings.targets or ()),
            "d": model.unilora.projection.d,
            "lr": rate.get("initial_lr", rate["lr"]),  # a run that had nothing left to train has no schedule
        },
        "before": held_out_metrics(before),
        "after": held_out_metrics(after),
    }


def _counted(model, size) -> dict:
    theta = model.unilora.theta
    d = theta.numel() if theta.requires_grad else 0
    in_full = sum(model.get_parameter(name).numel() for name in model.unilora.trained_in_full())
    return {"theta": d, "in_full": in_full, "base": size, "share": (d + in_full) / size}


def held_out_metrics(metrics) -> dict:
    """The metrics of an evaluation without the Trainer's own figures and prefix."""
    names = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
    own = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    return {name: value for name, value in names.items() if name not in own}


def ranks_left(targets, before, after) -> list[dict]:
    """The planner's ``targets``, which are those of the layer map ``before``, with their ranks in the layer map
    ``after`` training."""
    ranks = {replace(segment, rank=1): segment.rank for segment in after.segments}
    places = [replace(segment, rank=1) for segment in before.segments]
    return [target | {"rank": ranks.get(place, 0)} for place, target in zip(places, targets)]
