"""Reads a base's folder for a training: the tokenizer, the number of positions, the number of parameters. Weights are
read only to compare them with the adapter's record."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from unilora_spec import Adapter, UniLoraError
from unilora_spec.base_folder import base_folder
from unilora_spec.base_model import compare_with_base, read_config, tensors_of

from .tokens import Tokenizer


@dataclass(frozen=True)
class Base:
    """A base's folder.

    ``positions``   the largest number of tokens that it reads; None where its config.json does not say
    ``parameters``  the number of parameters in its files; None where the folder has no weights
    ``warnings``    sentences for the user, such as that the weights are not those of the record
    """

    folder: Path
    tokenizer: Tokenizer
    positions: int | None
    parameters: int | None
    warnings: tuple[str, ...]


def base_of(adapter: Adapter, given: str | None, file: Path) -> Base:
    """The base of the adapter in ``file``: the folder ``given``, or the one that the adapter names.

    Without weights in it, a folder is taken as it is: a machine that trains by a graph needs none. Raises ``UniLoraError`` where there is
    no such folder, it lacks what is needed, or its weights are of another form.
    """
    try:
        folder = base_folder(adapter, given and Path(given))
    except UniLoraError as error:
        raise error if given else error.within(file) from None
    parameters, warnings = None, []
    if any(folder.glob("*.safetensors")):
        parameters = sum(prod(stored.shape) for stored in tensors_of(folder).values())
        if not compare_with_base(adapter, folder)["same_contents"]:
            warnings.append(
                f"the weights in {folder} are others than those that {file} was made for; its tokenizer is taken all the same"
            )
    return Base(folder, Tokenizer(folder), _positions(folder / "config.json"), parameters, tuple(warnings))


def _positions(path: Path) -> int | None:
    if not path.is_file():
        raise UniLoraError(f"{path.parent}: it has no config.json; give --base the folder of the base model")
    config = read_config(path)
    config = config.get("text_config") or config
    found = (config.get(name) for name in ("max_position_embeddings", "n_positions"))
    return next((number for number in found if isinstance(number, int)), None)
