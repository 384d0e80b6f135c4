"""Folders of pictures, and a ViT that learns two colours."""

import json

import numpy as np
import pytest
import torch

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")
from runs import one_thread, own_cache  # noqa: F401  fixtures

COLORS = {"red": (200, 30, 30), "teal": (30, 160, 160)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A ViT of two layers without a head for images of 32 × 32, and its image processor."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        initializer_range=0.2,
    )  # fmt: skip
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "do_resize": True, "do_rescale": True,
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "rescale_factor": 1 / 255,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def picture(color, number):
    """Noise of one color, 40 × 36 pixels, another for each ``number``."""
    noise = np.random.default_rng(number).integers(-25, 25, (36, 40, 3))
    return Image.fromarray((np.array(COLORS[color]) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images, with a folder for each class."""
    root = tmp_path_factory.mktemp("colors")
    for number in range(24):
        color = list(COLORS)[number % 2]
        (root / color).mkdir(exist_ok=True)
        picture(color, number).save(root / color / f"{number}.png")
    return root


@pytest.fixture
def small(base, folder, tmp_path):
    """Settings of a run of a second."""
    run = {"base": base, "data": folder, "output": tmp_path / "vec.safetensors", "task": "image-classification"}
    return run | {"rank": 2, "dim": 64, "batch_size": 8, "epochs": 4, "lr": 1e-2, "head_lr": 2e-2, "holdout": 0.3}


def listed(path, cells, labels=None):
    """A .jsonl file with the names of images."""
    labels = labels or [f"c{number % 2}" for number in range(len(cells))]
    path.write_text("".join(json.dumps({"image": c, "label": n}) + "\n" for c, n in zip(cells, labels)))
    return path


def as_parquet(folder, path):
    """The images of a folder of images as a data set with an image column, their classes as its names."""
    files = sorted(folder.rglob("*.png"))
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(COLORS))})
    cells = {
        "img": [{"bytes": file.read_bytes(), "path": None} for file in files],
        "label": [file.parent.name for file in files],
    }
    datasets.Dataset.from_dict(cells, features=features).to_parquet(path)
    return path
