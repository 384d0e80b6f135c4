"""Finds the images of rows beside the rows' own files, and decodes them within bounds, as a small file can unfold to
gigabytes."""

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import datasets
import huggingface_hub.constants
from PIL import Image, ImageOps

from unilora_spec import UniLoraError
from unilora_spec.documents import read_bytes
from unilora_spec.places import own_file

from .formats import format_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # Pillow would start Ghostscript for others
MOST_BYTES, MOST_PIXELS = 2**27, 2**26
MEND = "give JPEG, PNG, WebP, GIF or BMP with 8 bits for each colour"


class NoImage(Exception):
    """What is wrong with an image and what to do, as the rest of a sentence that begins with "image of row 3 of
    FILE"."""


def with_paths(rows: datasets.Dataset, column: str, label: str, source: str) -> datasets.Dataset:
    """``rows`` with images that are not decoded, and with paths that are no longer relative to the file or folder
    ``source``.

    In a folder of images, whose classes are the names of folders within it, labels become these names, as the numbers
    of classes differ between two such folders where one lacks a class.
    """
    feature, folder = rows.features[column], _folders(source)[0]
    if isinstance(feature, datasets.Image):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    elif feature in (datasets.Value("string"), datasets.Value("large_string")):
        paths = [os.path.join(folder, cell.strip()) if (cell or "").strip() else None for cell in rows[column]]
        rows = rows.remove_columns(column).add_column(column, paths)
    classes = rows.features.get(label)
    if _is_folder(source) and isinstance(classes, datasets.ClassLabel):
        names = [None if number is None else classes.int2str(number) for number in rows[label]]
        rows = rows.remove_columns(label).add_column(label, names)
    return rows


def content_of(cell) -> bytes | None:
    """The bytes of an image's file, from a cell that holds them or the file's path; None where it holds neither.

    Raises ``NoImage`` for a cell that is something else, and for a file that cannot be read.
    """
    path = cell
    if isinstance(cell, Mapping):
        path = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if path is None or isinstance(path, bytes):
        return path
    if not isinstance(path, str):
        raise NoImage(f"is {str(cell)!r:.60}; give --image the column of the images, or of their files' names")
    try:
        return read_bytes(Path(path), MOST_BYTES)
    except UniLoraError as error:
        raise NoImage(f"cannot be read: {error.message}") from None


def check_place(cell, source: str) -> None:
    """Raises ``NoImage`` for a path that leads out of the folder in which the rows of ``source`` lie, also by a link. For a data set of the
    Hub that folder is the cache."""
    path = cell.get("path") if isinstance(cell, Mapping) and cell.get("bytes") is None else cell
    if isinstance(path, str) and not any(own_file(folder, os.path.abspath(path)) for folder in _folders(source)):
        raise NoImage(f"is {path!r:.200}, which is not within {_folders(source)[0]}; put the images beside the rows")


def check(content: bytes) -> None:
    """Raises ``NoImage`` for bytes that ``decoded`` refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound here is lower than Pillow's
        decoded(content)


def decoded(content: bytes) -> Image.Image:
    """The image in a file's bytes as RGB, upright; the first frame where there are several. Raises ``NoImage`` for
    bytes that are no image of ``FORMATS`` within bounds."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height <= MOST_PIXELS and image.mode[0] not in "IF":
                image.load()
                upright = ImageOps.exif_transpose(image)
                return (upright.convert("RGBA") if upright.has_transparency_data else upright).convert("RGB")
    except Image.DecompressionBombError:
        raise NoImage(f"has more than {MOST_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # Pillow lets the errors of its decoders through, of many kinds
        said = (
            "" if isinstance(error, Image.UnidentifiedImageError) else f" ({str(error) or type(error).__name__:.200})"
        )
        raise NoImage(f"is no image, or a damaged one{said}; {MEND}") from error
    if width * height > MOST_PIXELS:
        raise NoImage(f"has {width:,} × {height:,} pixels, more than {MOST_PIXELS:,}; make it smaller")
    raise NoImage(f"has more than 8 bits for each colour; {MEND}")


def _folders(source: str) -> tuple[str | Path, ...]:
    """The folders in which files that rows of ``source`` name may be."""
    if format_of(Path(source).name) or source.lower().endswith(".zip"):
        return (Path(source).parent,)
    if _is_folder(source):
        return (source.split(":", 2)[0],)
    return huggingface_hub.constants.HF_HUB_CACHE, str(datasets.config.HF_DATASETS_CACHE)


def _is_folder(source: str) -> bool:
    return Path(source.split(":", 2)[0]).is_dir()
