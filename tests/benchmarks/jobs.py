"""Jobs as users have them, each with a model of its own: images through a dense network or a forest, texts through a pipeline.

A mini-batch is a list of paths, its result a text per path. ``prepare(job)`` loads the model, once per process: the peers call
it before their clock starts, a step in ``init()``. The numbers are rounded, so that every engine returns the same texts.
"""

from __future__ import annotations

import functools
import itertools
import random
from pathlib import Path
from typing import Any

SIDE = 32  #: pixels: images are shrunk to SIDE x SIDE
_HIDDEN = 1_024  #: units of the dense network's hidden layers
_CHANNELS = (64, 128, 256, 256)  #: channels of each layer of the convolutional network
_CLASSES = 10
_WORDS = 5_000  #: different words in the texts


def prepare(job: str) -> None:
    """Load the model of a job, and import what it needs."""
    _MODELS[job]()
    if job != text_pipeline.__name__:
        from PIL import Image

        Image.preinit()


# ---- images ----


def dense_network(mini_batch: list[str]) -> list[str]:
    """Decode images and score them by a dense network in numpy."""
    import numpy as np

    layers = _layers()
    values = _pixels(mini_batch)
    for layer in layers[:-1]:
        values = np.maximum(values @ layer, 0)
    return [str(label) for label in (values @ layers[-1]).argmax(axis=1)]


def gpu_network(mini_batch: list[str]) -> list[str]:
    """Decode images and score them by a convolutional network in PyTorch, on the GPU if there is one."""
    import torch

    network, device = _network()
    pixels = torch.from_numpy(_pixels(mini_batch)).to(device).reshape(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return [str(label) for label in network(pixels).argmax(dim=1).tolist()]


def forest(mini_batch: list[str]) -> list[str]:
    """Decode images and classify them by a random forest of scikit-learn."""
    return [str(label) for label in _forest().predict(_pixels(mini_batch))]


def _pixels(paths: list[str]) -> Any:
    import numpy as np
    from PIL import Image

    pixels = np.empty((len(paths), SIDE * SIDE * 3), dtype=np.float32)
    for row, path in zip(pixels, paths, strict=True):
        with Image.open(path) as image:
            row[:] = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)).reshape(-1)
    return pixels / 255


@functools.cache
def _layers() -> list[Any]:
    import numpy as np

    numbers = np.random.default_rng(1)
    sizes = [SIDE * SIDE * 3, _HIDDEN, _HIDDEN, _CLASSES]
    shapes = itertools.pairwise(sizes)
    return [numbers.standard_normal(shape, dtype=np.float32) / np.float32(shape[0] ** 0.5) for shape in shapes]


@functools.cache
def _network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(1)
    torch.backends.cudnn.deterministic = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    channels = [3, *_CHANNELS]
    layers = [layer for pair in itertools.pairwise(channels) for layer in (nn.Conv2d(*pair, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten()).eval().to(device), device  # a label is the number of the strongest feature


@functools.cache
def _forest() -> Any:
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    numbers = np.random.default_rng(2)
    pixels = numbers.random((500, SIDE * SIDE * 3), dtype=np.float32)
    return RandomForestClassifier(100, random_state=2).fit(pixels, numbers.integers(0, _CLASSES, len(pixels)))


def write_images(folder: Path, number: int, different: int = 100) -> None:
    """Write JPEG files of 640 x 480 pixels, some 60 KB each; all but the first *different* are hard links."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    numbers = np.random.default_rng(0)
    for index in range(min(number, different)):
        coarse = Image.fromarray(numbers.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.jpg", quality=90)
    for index in range(different, number):
        (folder / f"{index:05d}.jpg").hardlink_to(folder / f"{index % different:05d}.jpg")


# ---- texts ----


def text_pipeline(mini_batch: list[str]) -> list[str]:
    """Classify every line of the files by a pipeline of scikit-learn; a text per file: the labels of its lines."""
    model = _pipeline()
    return ["".join(map(str, model.predict(Path(path).read_text().splitlines()))) for path in mini_batch]


@functools.cache
def _pipeline() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    lines = _lines(random.Random(3), 2_000)
    labels = [index % _CLASSES for index in range(len(lines))]
    model = make_pipeline(HashingVectorizer(ngram_range=(1, 2), n_features=1 << 18), SGDClassifier(random_state=3, max_iter=20))
    return model.fit(lines, labels)


def write_texts(folder: Path, number: int, lines: int = 250) -> None:
    """Write text files of so many lines."""
    folder.mkdir()
    for index in range(number):
        (folder / f"{index:05d}.txt").write_text("\n".join(_lines(random.Random(index), lines)) + "\n")


def _lines(numbers: random.Random, number: int) -> list[str]:
    return [" ".join(f"word{numbers.randrange(_WORDS)}" for _ in range(30)) for _ in range(number)]


_MODELS = {"dense_network": _layers, "gpu_network": _network, "forest": _forest, "text_pipeline": _pipeline}
