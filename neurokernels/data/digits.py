"""Digits: 1,797 handwritten digits of 8 x 8 pixels, which scikit-learn brings along; needs no network.

Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (its test part).
It has no split of its own: the last 360 images, by other writers than the first ones, are the test images here.
"""

import io

import numpy as np
import torch

from neurokernels.data.registry import Dataset, Spec
from neurokernels.data.sources import Contents, File, Installed

_TEST = 360
_FILE = File("digits.csv", 264_712, "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8")


def _decode(contents: Contents) -> Dataset:
    table = torch.from_numpy(np.loadtxt(io.BytesIO(contents[_FILE.name]), delimiter=",", dtype=np.int64))
    # 0 to 16 becomes 0 to 255, so that a pixel divided by 255 is a brightness in [0, 1] as in every other data set
    images = (table[:, :-1] * 255).div(16).round().to(torch.uint8).reshape(-1, 8, 8)
    labels = table[:, -1].clone()
    return Dataset(
        "digits",
        train_images=images[:-_TEST],
        train_labels=labels[:-_TEST],
        test_images=images[-_TEST:],
        test_labels=labels[-_TEST:],
        classes=tuple("0123456789"),
    )


SPEC = Spec("digits", (_FILE,), (Installed("sklearn", {_FILE.name: "datasets/data/digits.csv.gz"}),), _decode)
