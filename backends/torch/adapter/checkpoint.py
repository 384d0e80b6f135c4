"""From a trainer's checkpoint to an adapter's file, without the model and the call that attached."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from unilora_spec import Adapter, Base, FileError, LayerMap, UniLoraError, canonical_json, load_adapter
from unilora_spec.projection import kind_named

from .folders import FILE
from .names import without_wrappers
from .record import DTYPES, as_array
from .state import RECORD, TENSOR
from .vector import THETA

# What trainers call the file with the state: transformers and accelerate, Lightning and plain torch.
NAMES = ("model.safetensors", "pytorch_model.bin", "*.ckpt", "*.pt", "*.pth")


def adapter_in(path) -> Adapter:
    """The adapter whose training is in a checkpoint: a file of a state (.safetensors, or one of torch's), or the folder that holds one, or
    an adapter's file beside the base, as sentence-transformers' trainer makes them.

    Raises ``FileError`` where there is no state of an adapted model, and what an adapter's file may refuse.
    """
    path = Path(path)
    if path.is_dir() and (path / FILE).is_file():
        return load_adapter(path / FILE)
    path = _file(path)
    try:
        return _adapter(_state(path))
    except UniLoraError as error:
        raise error.within(path) from None


def _file(path):
    if not path.is_dir():
        return path
    found = [file for name in NAMES for file in sorted(path.glob(name))]
    if not found:
        raise FileError(
            f"{path} holds none of {', '.join(NAMES)}; give the file of the checkpoint that has the model's state"
        )
    return found[0]


def _state(path):
    if not path.is_file():
        raise FileError("there is no such file; give a trainer's checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        content = torch.load(
            path, map_location="cpu", weights_only=True
        )  # a pickle of anything but tensors is a program
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise FileError(f"it cannot be read as a state: {str(error).strip().splitlines()[0]:.200}") from None
    except Exception as error:  # noqa: BLE001  pickle's own
        raise FileError(f"it is no state of tensors alone: {str(error).strip().splitlines()[0]:.200}") from None
    while isinstance(content, dict) and RECORD not in {str(name).rpartition(".")[2] for name in content}:
        inner = [
            content[name]
            for name in ("state_dict", "model_state_dict", "model", "module")
            if isinstance(content.get(name), dict)
        ]
        if not inner:
            break
        content = inner[0]
    return content if isinstance(content, dict) else {}


def _adapter(state) -> Adapter:
    thetas = [name for name in state if isinstance(name, str) and name.rpartition(".")[2] == THETA]
    if len(thetas) != 1:
        raise FileError(f"it holds {len(thetas)} tensors {THETA}; give the checkpoint of a model with one adapter")
    prefix = thetas[0].removesuffix(THETA)
    if prefix + RECORD not in state:
        raise FileError(f"it has no {RECORD}; attach as it was attached, load the state, and call save_adapter")
    said = _record(state[prefix + RECORD])
    p, trained = said["projection"], said["trained"]
    kind = kind_named(p["kind"]).trained_as()
    layer_map = LayerMap.from_json(said["layers"], said["alpha"], said["scaling"])
    tensors = {
        name.removeprefix(prefix + TENSOR): value.numpy()
        for name, value in state.items()
        if name.startswith(prefix + TENSOR)
    }
    options = {name: p[name] for name in kind.known_options}
    projection = kind(
        p["kind"], D=p["D"], d=p["d"], seed=int(p["seed"]), layer_map=layer_map, tensors=tensors, **options
    )
    theta = as_array(state[thetas[0]])
    if theta.shape != (projection.d,):
        raise FileError(f"{thetas[0]} has shape {list(theta.shape)}, and its record says [{projection.d}]")
    projection, theta = projection.stored_as(theta)
    by_name = {
        without_wrappers(name.removeprefix(prefix)): value for name, value in state.items() if name.startswith(prefix)
    }
    for name in trained:
        if name not in by_name:
            raise FileError(
                f"its record says that {name} was trained, and the tensor is missing; give a whole checkpoint"
            )
    values = {name: by_name[name] for name in trained}
    dtypes = {f"saved.{name}": DTYPES.get(value.dtype, "F32") for name, value in values.items()}
    saved = {name: as_array(value) for name, value in values.items()}
    return Adapter(projection, layer_map, theta, _base(said), saved, dtypes)


def _record(tensor):
    try:
        said = canonical_json.decode(bytes(tensor.numpy()))
        p = said["projection"]
        sound = isinstance(said["trained"], list) and all(isinstance(name, str) for name in said["trained"])
        sound = sound and isinstance(p["d"], int) and isinstance(p["D"], int) and p["seed"].isdecimal()
        sound = sound and {"alpha", "scaling", "layers"} <= said.keys() and isinstance(p["kind"], str)
        missing = [name for name in kind_named(p["kind"]).known_options if not isinstance(p.get(name), int)]
    except (KeyError, TypeError, AttributeError, ValueError):
        sound, missing = False, []
    if not sound or missing:
        raise FileError(f"its {RECORD} is no record of an adapter; give a checkpoint as a trainer wrote it")
    return said


def _base(said):
    base = said.get("base")
    if base is None:
        return None
    try:
        return Base(**base | ({"labels": tuple(base["labels"])} if base.get("labels") else {}))
    except TypeError:
        raise FileError(f"its {RECORD} has no sound record of the base") from None
