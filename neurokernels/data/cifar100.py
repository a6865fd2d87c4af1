"""CIFAR-100: 60,000 colour photographs of 32 x 32 pixels in a hundred classes, five to each of twenty superclasses.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. No package is known that carries it
whole, so it comes from the user's own files or from the official archive. The checksums of the two files are those that
torchvision-ruby publishes, which gives for CIFAR-10 the ones in ``cifar10.py``.
"""

import torch

from neurokernels.data.cifar import PIXELS, parse
from neurokernels.data.registry import Dataset, Spec
from neurokernels.data.sources import Contents, File, WebArchive

_TRAIN, _TEST = "train.bin", "test.bin"
_LABELS = 2  # the superclass, then the class
_FILES = (
    File(_TRAIN, 50_000 * (_LABELS + PIXELS), "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
    File(_TEST, 10_000 * (_LABELS + PIXELS), "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
)
#: Both kinds of labels count in the order of the alphabet.
_SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
_PLACE = {name: place for place, names in enumerate(_SUPERCLASSES.values()) for name in names}
_CLASSES = tuple(sorted(_PLACE))
_SUPERCLASS = tuple(_PLACE[name] for name in _CLASSES)


def _part(contents: Contents, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of one file and their classes, whose superclasses must be those of the table above."""
    images, labels = parse([contents[name]], _LABELS)
    superclass, label = labels.unbind(1)
    if int(label.max()) >= len(_CLASSES):
        raise ValueError(f"cifar100: expected labels below {len(_CLASSES)} in {name}, got {int(label.max())}")
    wrong = (torch.tensor(_SUPERCLASS)[label] != superclass).nonzero()
    if len(wrong):
        at = int(wrong[0])
        of, got = _CLASSES[int(label[at])], int(superclass[at])
        raise ValueError(f"cifar100: expected superclass {_PLACE[of]} of {of} in {name}, got {got} at image {at}")
    return images, label.clone()


def _decode(contents: Contents) -> Dataset:
    train_images, train_labels = _part(contents, _TRAIN)
    test_images, test_labels = _part(contents, _TEST)
    return Dataset(
        "cifar100",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=_CLASSES,
        superclasses=tuple(_SUPERCLASSES),
        superclass=_SUPERCLASS,
    )


SPEC = Spec(
    "cifar100",
    _FILES,
    (WebArchive("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "cifar-100-binary"),),
    _decode,
    folders=("cifar-100-binary",),  # as the official archive unpacks
)
