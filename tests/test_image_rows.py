"""Rows of images: what a model is shown of them, how they are read, and what is refused."""

import json
import shutil
import struct
import zlib

import numpy as np
import pyarrow.parquet
import pytest
import torch

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")
from random import Random

from pictures import COLORS, as_parquet, base, folder, listed, picture, small  # noqa: F401  fixtures
from runs import one_thread, own_cache  # noqa: F401  fixtures

from backends.rows import images
from backends.settings import TrainSettings
from backends.torch.tasks import rows_and_task
from backends.torch.tasks.crops import _box, central, random_part
from backends.torch.training.base import prepare
from backends.torch.training.train import train
from unilora_spec import UniLoraError, WorkFailed


def settings_of(data, **options):
    given = {"base": "b", "data": str(data), "output": "v", "task": "image-classification", "holdout": 0}
    return TrainSettings(**given | options)


# What a model is shown


def test_what_is_held_out_is_shown_as_it_is_and_what_is_trained_otherwise_in_each_epoch(small):
    _, _, data, task = prepare(TrainSettings(**small))
    rows = [data.train[number] for number in range(3)]
    shown, again, first, second = (
        task.batch(rows),
        task.batch(rows[:2]),
        task.training_batch(rows, 0),
        task.training_batch(rows[1:], 1),
    )
    assert shown["pixel_values"].shape == (3, 3, 32, 32) and shown["pixel_values"].dtype == torch.float32
    assert torch.equal(shown["pixel_values"][:2], again["pixel_values"])
    assert torch.equal(task.training_batch(rows[1:], 0)["pixel_values"], first["pixel_values"][1:])
    assert not torch.equal(first["pixel_values"][1:], second["pixel_values"])
    task.settings.seed += 1
    assert not torch.equal(task.training_batch(rows, 0)["pixel_values"], first["pixel_values"])
    task.settings.augment = False
    assert torch.equal(task.training_batch(rows, 0)["pixel_values"], shown["pixel_values"])
    (image,) = (images.decoded(images.content_of(rows[0]["image"])),)
    pixels = np.asarray(central(image, 32, 32, 2), np.float32).transpose(2, 0, 1) / 255
    # float32 of numbers to 1
    np.testing.assert_allclose(shown["pixel_values"][0], (pixels - 0.5) / 0.5, atol=1e-6)


def test_the_middle_of_an_image():
    grey = np.zeros((10, 30), np.uint8)
    grey[:, 10:20] = 255
    middle = central(Image.fromarray(grey).convert("RGB"), 10, 10, Image.Resampling.BILINEAR)
    assert np.asarray(middle).min() == 255
    for size in ((7, 300), (300, 7), (1, 1), (224, 224)):
        assert central(Image.new("RGB", size), 12, 10, 2).size == (12, 10)


def test_parts_by_chance_are_those_of_the_authors():
    """Their area is even between 8 and 100 %, where they fit, their form between 3/4 and 4/3; every second one is mirrored."""
    random = Random(0)
    boxes = np.array([_box(1000, 1000, random) for _ in range(2000)])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes.max() <= 1000
    assert 0.079 <= (wide * high).min() / 1e6 < 0.1 and (wide * high).max() / 1e6 > 0.9
    assert 0.745 < (wide / high).min() < 0.8 and 1.25 < (wide / high).max() < 1.34  # sides are whole pixels
    assert _box(3, 1000, random) == (0, 498, 3, 502)  # nothing fits: the middle, a third longer
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, :4] = 255
    shown = [np.asarray(random_part(Image.fromarray(half), 8, 8, 2, random), float) for _ in range(400)]
    left = [image[:, 0].mean() > image[:, -1].mean() for image in shown if image[:, 0].mean() != image[:, -1].mean()]
    assert abs(np.mean(left) - 0.5) < 4 * 0.5 / len(left) ** 0.5  # four standard errors


# Reading


def test_images_of_every_source_are_the_same_rows(folder, tmp_path):
    """A folder, a list of file names and a data set with an image column: the same rows are held out."""
    files = sorted(folder.rglob("*.png"))
    names = [str(file.relative_to(folder)) for file in files]
    csv = folder / "list.csv"
    as_parquet(folder, tmp_path / "a.parquet")
    csv.write_text("image,label\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in names))
    try:
        listing = rows_and_task(settings_of(csv, holdout=0.3))[0]
    finally:
        csv.unlink()
    others = [rows_and_task(settings_of(where, holdout=0.3))[0] for where in (folder, tmp_path / "a.parquet")]

    def contents(data, column):
        return sorted(images.content_of(cell) for cell in data.held_out[column])

    expected = contents(listing, "image")
    assert len(expected) > 2
    assert contents(others[0], "image") == expected and contents(others[1], "img") == expected


def test_a_folder_of_splits_whose_second_lacks_a_class(tmp_path):
    """Numbers of classes are those of a folder alone, so that names are compared."""
    for split, colors in (("train", ("blue", "red", "teal")), ("test", ("red", "teal"))):
        for number, color in enumerate(colors * 2):
            (tmp_path / split / color).mkdir(parents=True, exist_ok=True)
            picture("red", number).save(tmp_path / split / color / f"{number}.png")
    data, task = rows_and_task(settings_of(f"{tmp_path}/train", eval=f"{tmp_path}/test"))
    assert task.labels == ("blue", "red", "teal")
    assert sorted(task.label(row) for row in data.held_out["label"]) == [1, 1, 2, 2]
    data, task = rows_and_task(settings_of(f"{tmp_path}:train", eval=f"{tmp_path}:test"))
    assert task.labels == ("blue", "red", "teal") and len(data.train) == 6 and len(data.held_out) == 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_way_to_hold_colors_is_read(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture("teal", 0).convert(mode).save(path)
    assert images.decoded(path.read_bytes()).mode == "RGB"


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # orientation: a quarter turn
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert images.decoded((tmp_path / "a.jpg").read_bytes()).size == (10, 20)


def test_rows_without_an_image_are_left_out(tmp_path):
    for number in range(2):
        picture("red", number).save(tmp_path / f"{number}.png")
    data, _ = rows_and_task(settings_of(listed(tmp_path / "a.jsonl", ["0.png", "1.png", None, "  "])))
    assert len(data.train) == 2 and data.dropped == {"image": 2}


def test_a_file_that_is_gone_while_training_is_named(small, tmp_path):
    small["data"] = shutil.copytree(small["data"], tmp_path / "rows")
    _, _, data, task = prepare(TrainSettings(**small))
    rows = data.train.to_list()
    shutil.rmtree(tmp_path / "rows")
    with pytest.raises(WorkFailed, match="rows: an image that was sound before cannot be read: .*no such file"):
        task.training_batch(rows, 0)


# Refusals


def bomb(width, height):
    """A PNG of a few bytes that says that it has so many pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no image", "is no image, or a damaged one; give JPEG, PNG"),
        (bomb(9000, 9000), r"has 9,000 × 9,000 pixels, more than 67,108,864; make it smaller"),
        (bomb(60_000, 60_000), "has more than 67,108,864 pixels; make it smaller"),
        (bomb(30, 30), "is no image, or a damaged one"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image, or a damaged one; give JPEG"),
        (None, "is '.*1.png', which is not within .*; put the images beside the rows"),
        ("tiff", "is no image, or a damaged one; give JPEG"),
        ("deep", "has more than 8 bits for each colour; give"),
        ("cut", "is no image, or a damaged one"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_image_is_refused_with_its_row(tmp_path, content, words):
    picture("red", 0).save(tmp_path / "0.png")
    if content == "tiff":
        picture("red", 0).save(tmp_path / "1.tiff")
        (tmp_path / "1.tiff").rename(tmp_path / "1.png")
    elif content == "deep":
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "1.png")
    elif content == "cut":
        (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:-900])
    elif content is not None:
        (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(UniLoraError, match=f"a.jsonl: image of row 2 ({words})"):
        rows_and_task(settings_of(listed(tmp_path / "a.jsonl", ["0.png", "1.png"])))


@pytest.mark.parametrize("how", ["above", "absolute", "link", "within parquet"])
def test_no_file_elsewhere_is_read(tmp_path, how):
    inside, outside = tmp_path / "rows", tmp_path / "secret.png"
    inside.mkdir()
    picture("red", 0).save(outside)
    picture("red", 1).save(inside / "0.png")
    (inside / "link.png").symlink_to(outside)
    path = {"above": "../secret.png", "absolute": str(outside), "link": "link.png", "within parquet": str(outside)}[how]
    if how == "within parquet":
        data = inside / "a.parquet"
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        cells = [{"bytes": (inside / "0.png").read_bytes(), "path": None}, {"bytes": None, "path": path}]
        rows = datasets.Dataset.from_dict({"image": cells, "label": ["a", "b"]}, features=features)
        pyarrow.parquet.write_table(rows.data.table, data)  # Dataset.to_parquet would put the file's bytes into it
    else:
        data = listed(inside / "a.jsonl", ["0.png", path])
    with pytest.raises(UniLoraError, match=r"image of row 2 is '.*', which is not within .*put the images beside"):
        rows_and_task(settings_of(data))


def test_a_link_out_of_a_folder_of_images_is_not_read(folder, tmp_path):
    for color in COLORS:
        (tmp_path / "rows" / color).mkdir(parents=True)
        picture(color, 0).save(tmp_path / "rows" / color / "0.png")
    picture("red", 1).save(tmp_path / "secret.png")
    (tmp_path / "rows" / "red" / "1.png").symlink_to(tmp_path / "secret.png")
    for source in (f"{tmp_path}/rows", f"{tmp_path}/rows:train"):
        with pytest.raises(UniLoraError, match="image of row 2 is .*, which is not within"):
            rows_and_task(settings_of(source))


def test_calls_that_are_refused(tmp_path, folder):
    for options, words in (
        ({"task": "classification", "image": "img"}, "--image is for image-classification; leave it out"),
        ({"task": "classification", "augment": False}, "--no-augment is for image-classification"),
        ({"text": "a"}, "--text is for texts, and image-classification reads none; give --image"),
    ):
        with pytest.raises(UniLoraError, match=words):
            settings_of(folder, **options)
    with pytest.raises(
        UniLoraError, match="there is no column 'photo'; its columns are 'image', 'label'; give --image"
    ):
        rows_and_task(settings_of(folder, image="photo"))
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(3):
        picture("red", number).save(flat / f"{number}.png")
    with pytest.raises(
        UniLoraError, match="there is no column 'label'; .*put those of each class into a folder of its own"
    ):
        rows_and_task(settings_of(flat))
    with pytest.raises(UniLoraError, match="image of row 1 is '7'; give --image the column of the images"):
        rows_and_task(settings_of(listed(tmp_path / "a.jsonl", [7, 8])))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, "could not be loaded: .*preprocessor_config.json"),
        ({"height": 64, "width": 64}, "makes images of 64 × 64 in RGB, which the model does not take"),
        ({"height": 10**6, "width": 10**6}, "makes images of 1000000 × 1000000 pixels; give a size of 1 to 4,096"),
    ],
)
def test_an_image_processor_that_does_not_fit_is_refused(small, tmp_path, size, words):
    small["base"] = shutil.copytree(small["base"], tmp_path / "base")
    config = tmp_path / "base" / "preprocessor_config.json"
    if size:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"size": size}))
    else:
        config.unlink()
    with pytest.raises(UniLoraError, match=words):
        train(TrainSettings(**small))
