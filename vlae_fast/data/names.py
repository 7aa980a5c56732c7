"""The names of the known data sets, apart from how they are read: images of one's own must not have them."""

from __future__ import annotations

import hashlib

from .images import Images

NAMES: tuple[str, ...] = (
    "digits",
    "mnist",
    "static-mnist",
    "fashion-mnist",
    "kmnist",
    "emnist-balanced",
    "emnist-byclass",
    "emnist-bymerge",
    "emnist-digits",
    "emnist-letters",
    "emnist-mnist",
    "omniglot",
    "caltech-silhouettes",
    "cifar10",
)
# SHA-256 of the bytes of the first training image: these two have files of the same names and shapes.
FIRST_IMAGES = {
    "mnist": "23ceaef5eb61f0e70d64ac18fdf0f60df3d5971cf30bbadac7b6ebf07f782d2c",
    "fashion-mnist": "5bd44e331a6d6998daf675700cd0c13dcd7af8ab954b7585124124da61459e7b",
}


def own_name(name: str) -> str:
    """`name` for images of one's own: "mnist" becomes "mnist (own)", so that no command takes the known set for it."""
    return f"{name} (own)" if name in NAMES else name


def name_of(images: Images) -> str:
    """The name of a data set, by its first training image where that is known: a folder may be called anything."""
    first = first_image(images)
    return next((name for name, digest in FIRST_IMAGES.items() if digest == first), images.name)


def first_image(images: Images) -> str:
    """SHA-256 of the bytes of the first training image."""
    return hashlib.sha256(images.train[0].contiguous().numpy().tobytes()).hexdigest()
