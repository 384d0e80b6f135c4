"""``python -m export import-peft``: a folder of PEFT's UniLora as a file of ours, with NumPy and, for the base, transformers.

PEFT draws its index as a table with NumPy's generator, so that it is imported as kind `table` (SPEC 9.4). A folder with saved
indices has all of it. From another one the table is drawn again, as PEFT does when it loads: that needs the base, whose
modules give it its order, and holds as long as NumPy's generator stays what it is.
"""

import re
from pathlib import Path

import numpy as np

from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, UniLoraError, rest, save_adapter
from unilora_spec.adapter import DTYPES
from unilora_spec.base_folder import recorded_folder
from unilora_spec.base_model import (
    Stored,
    by_model_name,
    read_file,
    read_values,
    sampled,
    stored_name,
    tensors_of,
)
from unilora_spec.documents import read_json
from unilora_spec.patterns import matches
from unilora_spec.places import check_output

from .peft import THETA
from .peft_names import CONFIG, PREFIX, TENSORS
from .shell import Module, Shell, shell_of

INDICES = ".unilora_indices_A"
INTEGERS = {"I64": "<i8", "I32": "<i4"}
NUMBERS = {"r": range(1, 2**31), "theta_d_length": range(1, 2**40), "proj_seed": range(2**64)}
FIELDS = {  # what else is read of PEFT's configuration, where it is there: a value of this type, or a list of such
    "base_model_name_or_path": (str, False), "task_type": (str, False), "target_modules": (str, True), "modules_to_save": (str, True),
    "layers_to_transform": (int, True), "layers_pattern": (str, True),
}  # fmt: skip
# A scale is 1/√n, perhaps times a factor, rounded twice. PEFT rounds it once more to the dtype of the base, in whatever dtype it is
# saved; this project does not. By the mask of the bits that are zero after such a rounding: how far off a scale may be.
ROUNDED = {0xFFFF: 2.0**-8, 0x1FFF: 2.0**-11, 0: 2.0**-22}


def import_peft(folder: Path, output: Path, base: Path | None = None) -> dict:
    """Writes PEFT's UniLora adapter in ``folder`` as a file of kind `table` to ``output``; returns the report.

    ``base`` is the folder of its base model, by default the one that PEFT's configuration names, where it is here. Raises
    ``UniLoraError`` for another method's folder, and for what cannot be found out or held, which it names; then nothing is written.
    """
    check_output(output)
    config, tensors = read_json(_file(folder, CONFIG)), read_file(_file(folder, TENSORS))[0]
    if config.get("peft_type") != "UNILORA":
        raise UniLoraError(f"{folder} holds {config.get('peft_type')!r:.40}; only PEFT's UNILORA can be imported")
    rank, d, seed = (_whole(config, folder, name) for name in NUMBERS)
    _check_fields(config, folder)
    if THETA not in tensors or tensors[THETA].shape != (d,):
        raise UniLoraError(f"{folder / TENSORS} has no tensor {THETA} of shape [{d}], PEFT's vector")
    # Of a module that it saves whole, PEFT has a copy; with biases it saves some of both, under names of their own.
    saved = {_parameter(key): t for key, t in tensors.items() if not re.search(r"\.unilora_|\.original_module\.", key)}
    named = str(base or config.get("base_model_name_or_path") or "")
    found = base or (named and recorded_folder(named, f"{folder / CONFIG}"))
    for read in filter(None, (folder, found)):
        if output.exists() and output.resolve().parent == Path(read).resolve():
            raise UniLoraError(f"{output} is in the folder {read}, which is read; give another output")
    shell = _shell(Path(found), config, saved) if found and (Path(found) / "config.json").is_file() else None
    if base and not shell:
        raise UniLoraError(f"{base} holds no config.json; give --base the folder of a transformers model")
    modules = _saved_modules(tensors, config, shell) or _targets(config, folder, shell)
    for module in modules:
        if rank > (most := min(module.out_features, module.in_features)):
            raise UniLoraError(
                f"{folder / CONFIG}: r is {rank}, and {module.name} has a rank of {most} at most; give PEFT's own folder"
            )
    segments = [Segment(f"{name}.weight", out, columns, rank, transposed) for name, out, columns, transposed in modules]
    index, s = _index(tensors, modules, d, seed, sum(segment.size for segment in segments))
    layer_map = LayerMap(segments, alpha=s * rank)
    values = {"theta": tensors[THETA]} | {f"saved.{name}": t for name, t in saved.items()}
    adapter = Adapter(
        Projection("table", D=layer_map.D, d=d, seed=seed, tensors={"index": index}),
        layer_map,
        read_values(tensors[THETA]),
        _record(named, shell, layer_map, saved) if shell else None,
        {name: read_values(t) for name, t in saved.items()},
        {name: t.dtype for name, t in values.items() if t.dtype in DTYPES},
    )
    missing = f"the base {named!r} is not here, so that the file has no record of it; give --base to record it"
    return {
        "output": str(output),
        "files": 1,
        "bytes": save_adapter(adapter, output),
        "index": "saved" if _has_indices(tensors) else "drawn again with proj_seed",
        "d": d,
        "D": layer_map.D,
        "weights": len(segments),
        "saved": sorted(saved),
        "warnings": [] if shell else [missing],
    }


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UniLoraError(f"{folder} has no {name}; give the folder that PEFT saved, with safetensors")
    return folder / name


def _whole(config, folder, name) -> int:
    allowed = NUMBERS[name]
    if type(config.get(name)) is not int or config[name] not in allowed:
        raise UniLoraError(
            f"{folder / CONFIG}: {name} is {config.get(name)!r:.40}; it must be a whole number from {allowed[0]} to {allowed[-1]}"
        )
    return config[name]


def _check_fields(config, folder) -> None:
    for name, (kind, may_be_list) in FIELDS.items():
        value = config.get(name)
        if (isinstance(value, list) and not may_be_list) or any(
            type(item) is not kind for item in _listed(config, name)
        ):
            words = {str: "a text", int: "a whole number"}[kind] + (", or a list of such" if may_be_list else "")
            raise UniLoraError(f"{folder / CONFIG}: {name} is {value!r:.40}; it must be {words}")


def _listed(config, name) -> list:
    """A field that may be one value, a list, or missing."""
    value = config.get(name)
    return value if isinstance(value, list) else [] if value is None else [value]


def _parameter(key: str) -> str:
    """The model's name of a parameter that PEFT saved in full: PEFT puts the modules that it adapts or saves one level deeper."""
    if not key.startswith(PREFIX):
        raise UniLoraError(f"{key} is no parameter of the model; it cannot be imported")
    return re.sub(r"\.(base_layer|modules_to_save)\.", ".", key.removeprefix(PREFIX))


def _has_indices(tensors) -> bool:
    return any(key.endswith(INDICES) for key in tensors)


def _shell(folder: Path, config: dict, saved: dict[str, Stored]) -> Shell:
    mapping = config.get("auto_mapping")
    architecture = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    return shell_of(
        folder, architecture, config.get("task_type"), {name: t.shape[0] for name, t in saved.items() if t.shape}
    )


def _record(folder: str, shell: Shell, layer_map: LayerMap, saved) -> Base:
    tensors = tensors_of(Path(folder))
    names = {name: stored_name(name, tensors) for name in layer_map.by_weight()}
    stored = {name: tensors[inner] for name, inner in names.items()}
    shapes = {name: t.shape for name, t in stored.items()}
    for segment in layer_map.segments:
        segment.check_shape(shapes[segment.name])

    def read(name):
        return read_values(stored[name])

    others = {name: t for name, t in by_model_name(tensors, names).items() if name not in (*names, *saved)}
    found = rest.fingerprint(sampled(others))
    return Base.of(folder, layer_map, shapes, read, shell.architecture, shell.id2label, rest=found)


def _saved_modules(tensors, config, shell) -> list[Module]:
    """The modules with an index of their own, in the order of the model, or of their names where there is no base to tell."""
    names = [key.removeprefix(PREFIX).removesuffix(INDICES) for key in tensors if key.endswith(INDICES)]
    if not shell:
        names.sort(key=lambda name: [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
        transposed = bool(config.get("fan_in_fan_out"))
        modules = [Module(name, 0, 0, transposed) for name in names]
    else:
        indexed = set(names)
        modules = [module for module in shell.modules if module.name in indexed]
        if unknown := sorted(indexed - {module.name for module in modules}):
            raise UniLoraError(f"the base has no Linear or Conv1D {unknown[0]}; give the base that was adapted")
    result = []
    for module in modules:
        (rank, columns), (out, other) = (_entry(tensors, module, f"indices_{factor}").shape for factor in "AB")
        if not rank == other == config["r"]:
            raise UniLoraError(f"the indices of {module.name} are of rank {rank} and {other}, and r is {config['r']}")
        if shell and (module.out_features, module.in_features) != (out, columns):
            raise UniLoraError(f"{module.name} has another shape in the base; give the base that was adapted")
        result.append(Module(module.name, out, columns, module.transposed))
    return result


def _targets(config, folder, shell) -> list[Module]:
    """The modules that PEFT's configuration names, in the order of the model: PEFT deals its index out in it."""
    if not shell:
        raise UniLoraError(
            f"{folder} has no indices (PEFT's save_indices), and the order in which they are drawn again is that of the base's"
            " modules: give --base the folder of the base model"
        )
    try:
        targets = _targeted(config, [*(module.name for module in shell.modules), *shell.others])
    except UniLoraError as error:
        raise error.within(folder / CONFIG) from None
    found = [module for module in shell.modules if module.name in targets]
    other = [name for name in shell.others if name in targets]
    if other:
        raise UniLoraError(f"{other[0]} is a target, but neither a Linear nor a Conv1D; give the base that was adapted")
    if not found:
        raise UniLoraError(
            f"no module of the base is among the target_modules of {folder}; give the base that was adapted"
        )
    return found


def _targeted(config, names: list[str]) -> set[str]:
    """Those of a model's modules that PEFT adapts (``peft.tuners.tuners_utils.check_target_module_exists``)."""
    if whole := _listed(config, "modules_to_save"):
        kept = matches([rf"(^|.*\.){module}($|\..*)" for module in whole], names, "match")
        names = [name for name, *found in zip(names, *kept, strict=True) if not any(found)]
    targets, layers = config.get("target_modules") or [], _listed(config, "layers_to_transform")
    if isinstance(targets, str):
        return {name for name, found in zip(names, *matches([targets], names), strict=True) if found}
    whole, ends = set(targets), tuple(f".{target}" for target in targets)
    ending = [name for name in names if name not in whole and name.endswith(ends)]
    if layers and ending:
        before = [rf"(?:^|.*?\.){pattern}" for pattern in _listed(config, "layers_pattern")] or [r".*?\.[^.]*"]
        numbered = matches([rf"{expression}\.(\d+)\." for expression in before], ending, "match")
        first = (next(filter(None, found), None) for found in zip(*numbered, strict=True))
        ending = [name for name, found in zip(ending, first, strict=True) if found and found[1] in map(str, layers)]
    return {name for name in names if name in whole} | set(ending)


def _index(tensors, modules, d: int, seed: int, D: int) -> tuple[np.ndarray, float]:
    """The table of all modules, A before B, and s, by which the scales of B are larger than 1/√n."""
    if not _has_indices(tensors):
        return drawn_index(D, d, seed), 1.0
    parts = [(module, factor) for module in modules for factor in "AB"]
    pieces = [_indices(_entry(tensors, module, f"indices_{factor}")) for module, factor in parts]
    index = np.concatenate(pieces)
    if len(index) != D or not 0 <= index.min() <= index.max() < d:
        raise UniLoraError(f"the saved indices are {len(index)} numbers up to {index.max()}; {D} below {d} are needed")
    counts, ratios = np.bincount(index, minlength=d), {"A": [], "B": []}
    for (module, factor), piece in zip(parts, pieces, strict=True):
        scales = read_values(_entry(tensors, module, f"scales_{factor}")).ravel()
        if len(scales) != len(piece):
            raise UniLoraError(f"{module.name} has another number of scales than of indices for its {factor}")
        ratios[factor].append((scales * np.sqrt(counts[piece]), _off(scales)))
    if not _all_are(1, ratios["A"]):
        raise UniLoraError("the saved scales of A are not 1/√n; such an adapter cannot be imported")
    typical = np.median(np.concatenate([ratio for ratio, _ in ratios["B"]]))
    for digits in range(1, 18):  # the shortest decimal that all of them are roundings of
        s = float(f"{typical:.{digits}g}")
        if _all_are(s, ratios["B"]):
            return index, s
    raise UniLoraError("the saved scales of B are not one multiple of 1/√n; such an adapter cannot be imported")


def _off(scales: np.ndarray) -> float:
    bits = scales.view(np.uint32)
    return next(off for zeros, off in ROUNDED.items() if not (bits & zeros).any())


def _all_are(s: float, ratios) -> bool:
    return all((abs(ratio - s) <= off * abs(s)).all() for ratio, off in ratios)


def _entry(tensors, module: Module, what: str) -> Stored:
    key = f"{PREFIX}{module.name}.unilora_{what}"
    if key not in tensors or len(tensors[key].shape) != 2:
        raise UniLoraError(f"the folder has no matrix {key}, which an adapter with saved indices has")
    return tensors[key]


def _indices(stored: Stored) -> np.ndarray:
    if stored.dtype not in INTEGERS:
        raise UniLoraError(f"{stored.file}: an index is stored as {stored.dtype}; PEFT's are I64")
    form = np.dtype(INTEGERS[stored.dtype])
    return np.fromfile(stored.file, form, stored.size // form.itemsize, offset=stored.start)


def drawn_index(D: int, d: int, seed: int) -> np.ndarray:
    """PEFT's table, int64[D], each column ⌊D/d⌋ or ⌈D/d⌉ times (``peft.tuners.unilora.UniLoraModel.generate_index``)."""
    generator = np.random.default_rng(seed)
    index = np.repeat(np.arange(d), D // d)
    if D % d:
        index = np.concatenate([index, generator.choice(d, size=D % d, replace=False)])
    generator.shuffle(index)
    return index
