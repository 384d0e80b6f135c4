"""Makes an adapter of a trainer's checkpoint, without the model and without the call that attached."""

from pathlib import Path

from unilora_spec import Adapter, Base, FileError, LayerMap, UniLoraError, canonical_json, load_adapter
from unilora_spec.container import MAX_HEADER
from unilora_spec.projection import kind_named

from ..targets.names import without_wrappers
from ..theta.vector import THETA
from .folders import FILE
from .record import DTYPES, as_array
from .state import RECORD, TENSOR
from .stored_state import Tensors, as_bytes, file_in, tensors_in

_BASE = {
    "name": str,
    "structure": str,
    "contents": str,
    "architecture": str,
    "labels": list,
    "problem_type": str,
    "rest": str,
}


def adapter_in(path) -> Adapter:
    """The adapter in a trainer's checkpoint. ``path`` is a file with a model's state (.safetensors, or one of torch's),
    a folder with such a file, or a folder with an adapter's file beside the base, as sentence-transformers' trainer
    makes it.

    Raises ``FileError`` where the checkpoint has no state of an adapted model, and ``UniLoraError`` as ``load_adapter``
    does.
    """
    path = Path(path)
    if path.is_dir() and (path / FILE).is_file():
        return load_adapter(path / FILE)
    path = file_in(path)
    try:
        return _adapter(tensors_in(path, THETA))
    except UniLoraError as error:
        raise error.within(path) from None


def _adapter(tensors: Tensors) -> Adapter:
    thetas = [name for name in tensors if name.rpartition(".")[2] == THETA]
    if len(thetas) != 1:
        raise FileError(f"it holds {len(thetas)} tensors {THETA}; give the checkpoint of a model with one adapter")
    prefix = thetas[0].removesuffix(THETA)
    if prefix + RECORD not in tensors:
        raise FileError(f"it has no {RECORD}; attach as it was attached, load the state, and call save_adapter")
    record = _record(as_bytes(tensors[prefix + RECORD](), MAX_HEADER))
    p, kind = record["projection"], kind_named(record["projection"]["kind"]).trained_as()
    layer_map = LayerMap.from_json(record["layers"], record["alpha"], record["scaling"])
    own = {name: tensors.get(f"{prefix}{TENSOR}{name}") for name in kind.stored}
    if missing := [name for name, read in own.items() if read is None]:
        raise FileError(
            f"it has no tensor {prefix}{TENSOR}{missing[0]}, which kind {p['kind']} needs; give a whole checkpoint"
        )
    given = {name: read().numpy() for name, read in own.items()} | {name: p[name] for name in kind.known_options}
    options = {name: given.pop(name) for name in kind.known_options}
    projection = kind(p["kind"], D=p["D"], d=p["d"], seed=int(p["seed"]), layer_map=layer_map, tensors=given, **options)
    theta = as_array(tensors[thetas[0]]())
    if theta.shape != (projection.d,):
        raise FileError(f"{thetas[0]} has shape {list(theta.shape)}, and its record says [{projection.d}]")
    projection, theta = projection.stored_as(theta)
    by_name = {
        without_wrappers(name.removeprefix(prefix)): read for name, read in tensors.items() if name.startswith(prefix)
    }
    if missing := [name for name in record["trained"] if name not in by_name]:
        raise FileError(
            f"its record says that {missing[0]} was trained, and the tensor is missing; give a whole checkpoint"
        )
    values = {name: by_name[name]() for name in record["trained"]}
    dtypes = {f"saved.{name}": DTYPES.get(value.dtype, "F32") for name, value in values.items()}
    saved = {name: as_array(value) for name, value in values.items()}
    return Adapter(projection, layer_map, theta, _base(record.get("base")), saved, dtypes)


def _record(text: bytes) -> dict:
    record = canonical_json.decode(text)
    forms = {"projection": dict, "alpha": (int, float), "scaling": str, "layers": list, "trained": list}
    _check(record, forms, forms)
    options = kind_named(record["projection"].get("kind")).known_options
    forms = {"kind": str, "seed": str, "d": int, "D": int, **dict.fromkeys(options, int)}
    _check(record["projection"], forms, forms)
    names = all(isinstance(name, str) for name in record["trained"])
    if not names or not record["projection"]["seed"].isascii() or not record["projection"]["seed"].isdecimal():
        raise FileError(f"its {RECORD} is no record of an adapter; give a checkpoint as a trainer wrote it")
    return record


def _base(record) -> Base | None:
    if record is None:
        return None
    _check(record, _BASE, ("name", "structure", "contents"))
    return Base(**record | ({"labels": tuple(map(str, record["labels"]))} if "labels" in record else {}))


def _check(record, forms, needed) -> None:
    """Raises ``FileError`` unless ``record`` has all fields in ``needed``, and its fields have the types that ``forms``
    gives."""
    sound = isinstance(record, dict) and set(needed) <= record.keys()
    sound = sound and all(isinstance(record[name], form) for name, form in forms.items() if name in record)
    if not sound or any(isinstance(value, bool) for value in record.values()):
        raise FileError(f"its {RECORD} is no record of an adapter; give a checkpoint as a trainer wrote it")
