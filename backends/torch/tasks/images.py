"""The task image-classification for an image model of transformers."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from unilora_spec import UniLoraError

from ... import tasks
from ...rows.images import decoded
from ...tasks.images import digest_of
from ..training.strangers import NO_CODE
from .crops import central, random_part
from .model import ForModel

MOST_SIDE = 2**12  # pixels of an image that a model reads


class ImageClassification(ForModel, tasks.ImageClassification):
    """The base's image processor scales the colours and gives the size. A model is shown the middle of an image in this
    size, and in training a random part, which follows from the run's seed, the epoch and the image's file alone.
    """

    model_class = AutoModelForImageClassification

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
        inputs = self._inputs(rows, partial(self._random_part, epoch))
        return inputs | {"labels": torch.from_numpy(self.labels_of(rows))}

    def _random_part(self, epoch, image, content):
        random = Random(f"{self.settings.seed} {epoch} {digest_of(content)}")
        return random_part(image, self.width, self.height, self.processor.resample, random)

    def _inputs(self, rows, crop) -> dict[str, torch.Tensor]:
        def cropped(row):
            content = self.content(row[self.column])
            return crop(decoded(content), content)

        with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow leaves the interpreter to others while it computes
            images = list(threads.map(cropped, rows))
        values = self.processor(images, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
        return {"pixel_values": values.to(self.dtype)}
