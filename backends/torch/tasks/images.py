"""Images that have one class each."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from unilora_spec import UniLoraError, WorkFailed

from ..rows.images import NoImage, check, check_place, content_of, decoded, with_paths
from ..rows.refusals import LeftOut, WrongCell
from ..training.strangers import NO_CODE
from .crops import by_chance, central
from .labelled import Classification

COLUMNS = ("image", "img")  # the usual ones
MOST_SIDE = 2**12  # pixels of what a model reads


class ImageClassification(Classification):
    """One class for each image. What stands for a row's text is the SHA-256 of its image's file, in hexadecimal digits.

    The base's image processor scales the colours, and says the size. In it a model is shown the middle of an image, and in training a
    part by chance, which follows from the run's seed, the epoch and the image's file alone.
    """

    model_class = AutoModelForImageClassification
    column = None

    def columns(self, there):
        self.column = (
            self.settings.image or self.column or next((each for each in COLUMNS if each in there), COLUMNS[0])
        )
        return self.column, self.settings.label

    def hint(self, there):
        if self.column in there and self.settings.label == "label":
            return "in a folder of images, put those of each class into a folder of its own; else give --label"
        return "give --image the column of the images, or of their files' names"

    def as_read(self, rows, name):
        return with_paths(rows, self.column, self.settings.label, name)

    def texts_in(self, row, source):
        return self._digests(row[self.column], source.name)

    def given(self, there):
        return self.columns(there)[:1]

    def check_given(self, row):
        self._digests(row[self.column], self.settings.data)

    def _digests(self, cell, source) -> tuple[str]:
        """What stands for the texts of a row of ``source``. Raises ``LeftOut`` and ``WrongCell``."""
        try:
            check_place(cell, source)
            content = content_of(cell)
            if content is None:
                raise LeftOut("image")
            check(content)
        except NoImage as wrong:
            raise WrongCell(self.column, str(wrong)) from None
        return (_digest(content),)

    def lengths(self, rows):
        return [1] * len(rows)

    def texts(self, rows):
        return [(_digest(self._content(cell)),) for cell in rows[self.column]]

    def reader(self, base):
        return AutoImageProcessor.from_pretrained(base, backend="pil", **NO_CODE)

    def read_by(self, model, reader):
        self.processor, self.dtype = reader, model.dtype
        size = getattr(reader, "crop_size" if getattr(reader, "do_center_crop", False) else "size", None)
        square = getattr(size, "shortest_edge", None)
        self.width, self.height = (getattr(size, name, None) or square for name in ("width", "height"))
        shown = f"{self.settings.base}: its preprocessor_config.json makes images of {self.width} × {self.height}"
        if not all(side and 1 <= side <= MOST_SIDE for side in (self.width, self.height)):
            raise UniLoraError(f"{shown} pixels; give a size of 1 to {MOST_SIDE:,}")
        try:
            with torch.no_grad():
                model(pixel_values=torch.zeros(1, 3, self.height, self.width, dtype=self.dtype))
        except (ValueError, RuntimeError) as error:
            raise UniLoraError(
                f"{shown} in RGB, which the model does not take: {str(error).splitlines()[0]:.200}"
            ) from None

    def encode(self, rows):
        return self._inputs(
            rows, lambda image, content: central(image, self.width, self.height, self.processor.resample)
        )

    def training_batch(self, rows, epoch):
        if not self.settings.augment:
            return self.batch(rows)
        labels = torch.tensor([self.label(row[self.settings.label]) for row in rows])
        return self._inputs(rows, partial(self._by_chance, epoch)) | {"labels": labels}

    def _by_chance(self, epoch, image, content):
        random = Random(f"{self.settings.seed} {epoch} {_digest(content)}")
        return by_chance(image, self.width, self.height, self.processor.resample, random)

    def _inputs(self, rows, crop) -> dict[str, torch.Tensor]:
        def cropped(row):
            content = self._content(row[self.column])
            return crop(decoded(content), content)

        with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow leaves the interpreter to others while it computes
            images = list(threads.map(cropped, rows))
        values = self.processor(images, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
        return {"pixel_values": values.to(self.dtype)}

    def _content(self, cell) -> bytes:
        try:
            return content_of(cell)
        except NoImage as wrong:
            raise WorkFailed(
                f"{self.settings.data}: an image that was there {wrong}; leave the files where they are"
            ) from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
