"""Checkpoints that an adapter is merged into."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from export.folders.merge import merge
from unilora_spec import (
    Adapter,
    Base,
    LayerMap,
    Projection,
    Segment,
    save_adapter,
    structure_fingerprint,
)

safetensors = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")

TENSORS, SIZE = 20, 15 * 2**20  # the large base: 300 MiB in two files


def plain(segments, saved=None, base=None):
    """An adapter of tensors that no framework's model holds."""
    layer_map = LayerMap(segments, alpha=8)
    theta = np.random.default_rng(0).normal(size=8).astype(np.float32)
    return Adapter(Projection(D=layer_map.D, d=8, seed=42), layer_map, theta, base, saved or {})


def merge_to(tmp_path, adapter, base=None, output="merged"):
    save_adapter(adapter, tmp_path / "vec.safetensors")
    return merge(tmp_path / "vec.safetensors", tmp_path / output, base)


def write_base(folder, tensors, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    safetensors.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A base of 300 MiB in two files, and an adapter of every weight in it."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "base").mkdir()
    rows, columns = SIZE // 4 // 1024, 1024
    random = np.random.default_rng(0)
    names = [f"layers.{i}.weight" for i in range(TENSORS)]
    for part, half in enumerate((names[: TENSORS // 2], names[TENSORS // 2 :])):
        tensors = {name: torch.from_numpy(random.random((rows, columns), np.float32)) for name in half}
        safetensors.save_file(tensors, folder / "base" / f"model-{part}.safetensors", {"format": "pt"})
    record = Base(str(folder / "base"), structure_fingerprint(dict.fromkeys(names, (rows, columns))), "0" * 32)
    save_adapter(plain([Segment(n, rows, columns, 4) for n in names], base=record), folder / "vec.safetensors")
    small = write_base(folder / "small", {names[0]: torch.zeros(4, 4)})
    save_adapter(
        plain(
            [Segment(names[0], 4, 4, 1)],
            base=replace(record, name=str(small), structure=structure_fingerprint({names[0]: (4, 4)})),
        ),
        folder / "small.safetensors",
    )
    return folder
