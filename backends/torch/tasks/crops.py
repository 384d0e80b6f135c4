"""Cuts out the part of an image that a model is shown: its middle, or in training a random part."""

import math
from random import Random

from PIL import Image

# The numbers of torchvision's RandomResizedCrop, with which the authors' ViT was trained.
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


def central(image: Image.Image, width: int, height: int, resample: int) -> Image.Image:
    """The middle of an image, as much of it as fits into the size's proportions, scaled to the size."""
    scale = max(width / image.width, height / image.height)
    wide, high = max(width, int(image.width * scale)), max(height, int(image.height * scale))
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return image.resize((wide, high), resample).crop((left, top, left + width, top + height))


def random_part(image: Image.Image, width: int, height: int, resample: int, random: Random) -> Image.Image:
    """A random part of an image, 8 to 100 % of its area and at most a third longer in one direction, scaled to the
    size, mirrored or not."""
    part = image.crop(_box(image.width, image.height, random)).resize((width, height), resample)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else part


def _box(width, height, random):
    for _ in range(TRIES):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = random.randint(0, width - wide), random.randint(0, height - high)
            return left, top, left + wide, top + high
    wide, high = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
