"""The command ``plan``: an adapter's layer map and the memory that it would take, from the base's config.json alone.

A plan for a base of 405 billion parameters takes at most 300 MiB, 220 of them for PyTorch: no weight is allocated,
and the command imports only what building a model needs (building.py).
"""

import difflib
import inspect
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from unilora_spec import Adapter, Base, LimitError, UniLoraError, rest
from unilora_spec.base_model import read_config
from unilora_spec.command import printable
from unilora_spec.documents import NoObject
from unilora_spec.gather import Gather
from unilora_spec.projection import MAX_DIM, kind_named
from unilora_spec.serialization import encoded_size

from ..runs.defaults import with_targets
from ..settings import BEFORE, AdapterSettings
from .adapter.files import meaning
from .adapter.theta.expansion import index_dtype
from .ranks.before import ranked

# The d that are shown where none is given; those below a thousand only where D is no larger.
CHOICES = [10**n for n in range(10)]

# Functions by which a constructor may compute a table.
TABLES = {torch.arange, torch.zeros, torch.ones, torch.full, torch.eye, torch.rand, torch.randn}
MOST_TABLE, MOST_WEIGHTS = 2**26, 2**13  # numbers in a table; weights of a model, each of which takes time

SHOWN, BAR = 256, 16  # targets that a plan of ranks shows, and the characters of its longest bar


def planned(settings: AdapterSettings, progress: bool = False) -> dict:
    """A report on an adapter with these settings: base, layer map, D, and the bytes of all that grows with D or d.

    ``settings.base`` is a config.json or a folder that holds one. Without ``settings.dim`` the figures of several d are
    under "choices". ``bytes`` are those of the vector alone, without parameters trained in full. With a planner of
    ranks, "ranks" is the report of ``ranks.ranked``; a planner that looks at the base needs its weights and
    ``PlanSettings``. Raises ``UniLoraError`` where base, data, targets or d are wrong.
    """
    settings = with_targets(settings)
    if settings.ranks in BEFORE:
        model, layer_map, ranks = _ranked_by_base(settings, progress)
    else:
        model = skeleton(settings.base)
        layer_map, ranks = ranked(model, settings)
    of_kind, d = kind_named(settings.kind).trained_as(), settings.dim
    options = of_kind.with_defaults(settings.options or {})
    layer_map = of_kind.fitted(layer_map, **options)
    D = layer_map.D
    if d is None and not of_kind.d_is_free:
        d = of_kind.dim(layer_map, **options)
    tensors = {name: _zeros(of_kind.stored[name], n) for name, n in of_kind.lengths(layer_map, **options).items()}
    parameters = list(model.parameters())
    others = {name for name, _ in meaning.compared(model)} - {*layer_map.by_weight()}
    # placeholders with the length of fingerprints
    base = Base(settings.base, "0" * 32, "0" * 32, type(model).__name__, rest=rest.placeholder(others))

    def trained(d):
        projection = of_kind(
            settings.kind, D=D, d=d, seed=settings.seed, layer_map=layer_map, tensors=tensors, **options
        )
        projection, theta = projection.stored_as(_zeros("F32", d))
        own = {name: values.size * values.itemsize for name, values in projection.tensors.items()}
        return {"d": d, "file": encoded_size(Adapter(projection, layer_map, theta, base)), "optimizer": 8 * d, **own}

    index = index_dtype(MAX_DIM if d is None else d)
    report = {
        "base": {
            "name": settings.base,
            "class": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "dtype": str(model.dtype).removeprefix("torch."),
            "bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        },
        "segments": len(layer_map),
        "layers": layer_map.to_json(),
        **({"ranks": ranks} if ranks else {}),
        "kind": settings.kind,
        "seed": settings.seed,
        "D": D,
        "bytes": {
            **(
                {"P": {"computed": 0, "cached": index.itemsize * D, "PEFT": 12 * D}}
                if issubclass(of_kind, Gather)
                else {}
            ),
            "theta_D": 4 * D,
            "gradient of theta_D": 4 * D,
        },
    }
    if d is None:
        return report | {"choices": _fitting(trained, D)}
    figures = trained(d)
    return report | {"d": figures.pop("d"), "bytes": report["bytes"] | figures}


def _fitting(trained, D) -> list[dict]:
    """The figures of those ``CHOICES`` of d that the kind can have. Raises the kind's ``LimitError`` where it can have
    none."""
    found, refusal = [], None
    for d in CHOICES:
        if d <= D:
            try:
                found.append(trained(d))
            except LimitError as error:
                refusal = error
    if not found:
        raise refusal
    return [figures for figures in found if figures["d"] >= 1000] or found


def _zeros(dtype, length) -> np.ndarray:
    """An array of zeros of this length, in the memory of one number."""
    return np.broadcast_to(np.zeros((), {"F32": np.float32, "I32": np.int32}[dtype]), length)


def _ranked_by_base(settings, progress):
    from .training.base import prepare, quiet  # here, as it imports all that a training run needs
    from .training.sample import sample

    with quiet():
        model, _, rows, task = prepare(settings, progress)
        return model, *ranked(model, settings, sample(task, rows, progress))


def show(report: dict) -> None:
    """Prints a plan for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, base, size = Console(highlight=False, markup=False, emoji=False), report["base"], report["bytes"]
    rows = [
        ("base", f"{base['class']}, {base['parameters']:,} parameters in {base['dtype']}", base["bytes"]),
        ("layer map", f"{report['segments']:,} segments, D = {report['D']:,}", None),
        *_rows_of_projection(report),
        ("θ_D", "in a training step", size["theta_D"]),
        ("", "its gradient", size["gradient of theta_D"]),
    ]
    for choice in report.get("choices") or [{"d": report["d"], "file": size["file"], "optimizer": size["optimizer"]}]:
        rows.append((f"d = {choice['d']:,}", "the adapter's file", choice["file"]))
        rows.append(("", "AdamW's state", choice["optimizer"]))
    table = Table("", "", "bytes", box=None, show_header=True)
    table.columns[2].justify = "right"
    for *words, number in rows:
        table.add_row(*(Text(printable(word)) for word in words), "" if number is None else f"{number:,}")
    console.print(table)
    for entry in report["layers"]:
        console.print(printable(json.dumps(entry)))
    if "ranks" in report:
        _show_ranks(console, report["ranks"])
    if "choices" in report:
        console.print(f"--dim sets d, from 1 to {min(report['D'], MAX_DIM):,}")


def _rows_of_projection(report):
    """Yields table rows for P and for the tensors that the kind has in the file."""
    size = report["bytes"]
    if "P" in size:
        yield "P", "computed where it is used", size["P"]["computed"]
        yield "", "its index kept", size["P"]["cached"]
        yield "", "as PEFT keeps it", size["P"]["PEFT"]
    for name in kind_named(report["kind"]).stored:
        yield name, "in the file, beside theta", size[name]


def _show_ranks(console, report):
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    targets = report["targets"]
    total, most = sum(target["rank"] for target in targets), max(target["rank"] for target in targets)
    end = "" if total == report["budget"] else f", {report['budget']} when training ends"
    console.print(f"ranks by {report['planner']}: {total} together{end}")
    table = Table("target", "rank", "score", "", box=None, show_header=True)
    table.columns[0].overflow = "fold"  # names are wrapped, as their ends differ more than their beginnings
    for target in targets[:SHOWN]:
        score = f"{target['score']:.3g}" if "score" in target else ""
        table.add_row(
            Text(printable(target["target"])), str(target["rank"]), score, Bar(most, 0, target["rank"], width=BAR)
        )
    console.print(table)
    if len(targets) > SHOWN:
        console.print(f"… and {len(targets) - SHOWN:,} more, which --json has")


def skeleton(base: str) -> torch.nn.Module:
    """The base's model without values of its weights, from its config.json. Raises ``UniLoraError`` where it cannot be
    built.

    Its class is the first of the configuration's ``architectures``, or ``AutoModel``'s where there is none.
    """
    import transformers
    from transformers import initialization

    from .training.strangers import NO_CODE, remove_hub_kernels

    config = _config(base)
    remove_hub_kernels(config)
    known = getattr(transformers, str((config.architectures or [""])[0]), None)
    is_model = inspect.isclass(known) and issubclass(known, transformers.PreTrainedModel) and known.config_class
    try:
        with initialization.no_init_weights(), _EmptyOnMeta():
            model = known._from_config(config) if is_model else transformers.AutoModel.from_config(config, **NO_CODE)
        model.tie_weights()  # no_init_weights leaves it out
    except Exception as error:  # each class raises errors of its own for values of which it cannot be built
        reason = str(error).strip().split("\n")[0]
        raise UniLoraError(f"{base}: transformers cannot build a model of its config.json: {reason}") from error
    return model


def _config(base: str):
    from transformers import CONFIG_MAPPING, PretrainedConfig

    file = Path(base) / "config.json" if Path(base).is_dir() else Path(base)
    try:
        if Path(base).is_dir() and not file.exists():
            raise FileNotFoundError
        values = read_config(file) if file.exists() else PretrainedConfig.get_config_dict(base)[0]
        kind = values["model_type"]
    except OSError as error:  # a folder without the file, or an id that cannot be loaded
        raise UniLoraError(
            f"{base}: there is no config.json in it, and no base model with this id can be loaded; give the base model's folder or its "
            "config.json"
        ) from error
    except (NoObject, KeyError):
        raise UniLoraError(
            f"{file}: this is no config.json with a model_type; give that of a transformers model"
        ) from None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        close = difflib.get_close_matches(str(kind), list(CONFIG_MAPPING.keys()), n=3, cutoff=0)
        raise UniLoraError(f"{file}: transformers knows no model_type {kind!r:.60}; the closest are {', '.join(close)}")
    try:
        return CONFIG_MAPPING[kind].from_dict(values)
    except Exception as error:  # each configuration checks in its own way
        raise UniLoraError(f"{file}: transformers cannot read it: {' '.join(str(error).split())[:200]}") from error


class _EmptyOnMeta(TorchFunctionMode):
    """Within the block, ``torch.empty``, by which models make their weights, gives tensors without memory.

    ``torch.device("meta")`` would send the small tables that a model computes (rotary frequencies, masks) through the
    meta kernels written in Python, which import SymPy: 45 MB and 0.3 s.
    """

    def __init__(self):
        super().__init__()
        self.weights = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in TABLES and (count := _entries(func, args, kwargs or {})) > MOST_TABLE:
            raise ValueError(f"it computes a table of {count:,} numbers, and {MOST_TABLE:,} are the most")
        self.weights += func is torch.empty
        if self.weights > MOST_WEIGHTS:
            raise ValueError(f"it has more than {MOST_WEIGHTS:,} weights")
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def _entries(func, args, options) -> int:
    """The number of entries that a call makes; 0 for a call in an unusual form."""
    numbers = [
        n for n in (args[0] if args and isinstance(args[0], tuple | list) else args) if isinstance(n, int | float)
    ]
    if func is torch.arange:
        start, stop, step = ([0, *numbers, 1] if len(numbers) < 2 else [*numbers, 1])[:3] if numbers else (0, 0, 1)
        return int(abs((options.get("end", stop) - start) / (step or 1)))
    numbers = list(options.get("size", numbers))
    return math.prod(abs(int(n)) for n in numbers) * (numbers[0] if func is torch.eye and len(numbers) == 1 else 1)
