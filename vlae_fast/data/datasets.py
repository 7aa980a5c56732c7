"""The data sets by name: where their files lie, in which forms, and where they are fetched from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import emnist, layouts
from .embedded import digits
from .fetch import Download, cached, fetch
from .idx import TRAIN_IMAGES, idx_folder, spellings
from .images import Images
from .imported import imported
from .names import FIRST_IMAGES, NAMES, first_image, name_of, own_name
from .npz import npz_file
from .pictures import has_pictures, picture_folder


class Layout(NamedTuple):
    """A form of a data set: files, any one of which says that a folder has it, and the function that reads it."""

    files: tuple[str, ...]
    read: Callable[[Path, str, str], Images]  # (folder, name, binarization)


class Dataset(NamedTuple):
    folders: tuple[str, ...]  # of data_dir, looked into before data_dir itself
    layouts: tuple[Layout, ...]  # in order of preference
    downloads: tuple[Download, ...]
    binarizations: tuple[str, ...]  # that make sense, the default first
    cache: str | None = None  # folder of the downloads, where it is not named after the data set


_GREY, _BINARY, _RGB = ("dynamic", "threshold", "none"), ("fixed",), ("none",)
_IDX = Layout(spellings(TRAIN_IMAGES), idx_folder)
_GITHUB = "https://raw.githubusercontent.com"


def _sha256(url: str, digests: dict[str, str]) -> tuple[Download, ...]:
    return tuple(Download(f"{url}/{file}", f"sha256:{digest}") for file, digest in digests.items())


def _emnist(name: str) -> Dataset:
    """One of the six, from the archive of all."""
    layouts = Layout(emnist.first_files(name), emnist.emnist_files), Layout((emnist.ARCHIVE,), emnist.emnist_archive)
    url, checksum = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip", "md5:58c8d27c78d21e728a6bc7b3cc06412e"
    return Dataset(("emnist", "EMNIST/raw"), layouts, (Download(url, checksum),), _GREY, cache="emnist")


DATASETS = {
    "mnist": Dataset(
        ("mnist", "MNIST/raw"),
        (_IDX,),
        _sha256(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            {
                "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            },
        ),
        _GREY,
    ),
    "static-mnist": Dataset(
        ("binarized_mnist", "static_mnist", "MNIST_static", "BinaryMNIST"),
        (
            Layout((layouts.STATIC_MNIST_NPZ,), layouts.static_mnist_npz),
            Layout(layouts.AMAT_FILES, layouts.static_mnist_amat),
        ),
        _sha256(
            "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist",
            {
                "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
                "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
                "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
            },
        ),
        _BINARY,
    ),
    "fashion-mnist": Dataset(
        ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
        (_IDX,),
        _sha256(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            {
                "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            },
        ),
        _GREY,
    ),
    "kmnist": Dataset(
        ("kmnist", "KMNIST/raw"),
        (_IDX,),
        tuple(
            Download(f"http://codh.rois.ac.jp/kmnist/dataset/kmnist/{file}", f"md5:{digest}")
            for file, digest in {
                "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
                "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
                "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
                "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
            }.items()
        ),
        _GREY,
    ),
    "emnist-balanced": _emnist("emnist-balanced"),
    "emnist-byclass": _emnist("emnist-byclass"),
    "emnist-bymerge": _emnist("emnist-bymerge"),
    "emnist-digits": _emnist("emnist-digits"),
    "emnist-letters": _emnist("emnist-letters"),
    "emnist-mnist": _emnist("emnist-mnist"),
    "omniglot": Dataset(
        ("omniglot", "OMNIGLOT"),
        (
            Layout((layouts.OMNIGLOT_MAT,), layouts.omniglot_mat),
            Layout((layouts.OMNIGLOT_NPZ,), layouts.omniglot_npz),
        ),
        (
            Download(
                f"{_GITHUB}/yburda/iwae/78a6075484bd7dd6f47a4bb9880d2295bc7a5220/datasets/OMNIGLOT/chardata.mat",
                "git:016a3536ffe5e1d38e42563a18d7a78bfaf643ec",
            ),
        ),
        _GREY,
    ),
    "caltech-silhouettes": Dataset(
        ("caltech_silhouettes", "Caltech101Silhouettes", "silhouettes"),
        (
            Layout((layouts.CALTECH_NPZ,), layouts.caltech_npz),
            Layout((layouts.CALTECH_MAT,), layouts.caltech_mat),
        ),
        _sha256(
            f"{_GITHUB}/YingzhenLi/vae_renyi_divergence/5df877dd78410d90a523c22846b01ff0c6a3a424/data/silhouettes",
            {layouts.CALTECH_MAT: "eb6735e8d84b1850fabc5590124aab1755e90c9fd28123584324398405e1e42a"},
        ),
        _BINARY,
    ),
    "cifar10": Dataset(
        ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar10"),
        (
            Layout(layouts.CIFAR_FILES, layouts.cifar_files),
            Layout((layouts.CIFAR_TAR,), layouts.cifar_tar),
            Layout(layouts.CIFAR_PICKLES, layouts.cifar_pickles),
            Layout((layouts.CIFAR_PICKLE_TAR,), layouts.cifar_pickle_tar),
            Layout((layouts.CIFAR_NPZ,), layouts.cifar_npz),
        ),
        (Download("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),),
        _RGB,
    ),
}


def load(
    name: str | None = None,
    data_dir: str | Path | None = None,
    binarization: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Images:
    """A data set by name, from files in `data_dir` or, without it, fetched once into a cache folder.

    With a name in ``NAMES``, "digits" needs neither. Files are found in `data_dir` or a folder of it named after the
    data set, as they are downloaded or as .npz. ``module:name`` is a name in a Python module: an `Images`, what
    `from_dataset` takes, splits of it in a tuple or a dict, or a function without arguments that returns one of these.
    ``torchvision:SVHN`` is a class of torchvision's.

    Without a name `data_dir` has one's own images: a .npz file, or a folder with MNIST-style IDX files, one .npz file,
    or pictures (`npz_file`, `picture_folder`). Without either: the digits. binarization defaults to "threshold" for the
    digits, "fixed" for binary images, "none" for RGB, else "dynamic". image_size, (H, W), and channels, 1 or 3, are
    what pictures become. Images of one's own whose name would be in ``NAMES`` are called "mnist (own)".

    Raises:
        ValueError: an unknown name, a bad file, or image_size or channels where there is no folder of pictures.
        FileNotFoundError: a folder or a file is missing.
        OSError: fetching fails.
    """
    if name is None and data_dir is not None:
        found = own_images(Path(data_dir), binarization, image_size=image_size, channels=channels)
        if not _of_pictures(Path(data_dir)):
            _check_unsized(str(data_dir), image_size, channels)
        return found
    _check_unsized(name or "digits", image_size, channels)
    if name is not None and ":" in name:
        return imported(name, data_dir, binarization)
    name = (name or "digits").replace("_", "-")
    if name == "digits":
        if data_dir is not None:
            raise ValueError(f'data: "digits" is embedded and takes no data_dir, got {str(data_dir)!r}')
        return digits(binarization or "threshold")
    if name not in DATASETS:
        raise ValueError(f"data: must be one of {', '.join(NAMES)}, module:name, or no name for one's own images in "
                         f"data_dir (--data-dir on the command line), got {name!r}")  # fmt: skip
    dataset = DATASETS[name]
    how = binarization or dataset.binarizations[0]
    if how not in dataset.binarizations:
        raise ValueError(f"binarization: must be {' or '.join(dataset.binarizations)} for {name}, got {how!r}")
    folder = fetch(dataset.cache or name, dataset.downloads) if data_dir is None else _existing(data_dir)
    return _read(name, folder, how)


def own_images(
    path: Path,
    binarization: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Images:
    """The images of a file or folder without a name; see `load`. Images other than pictures keep size and channels.

    Raises:
        ValueError: a bad file.
        FileNotFoundError: no images.
    """
    if path.suffix == ".npz" and path.is_file():
        return npz_file(path, path.stem, binarization)
    folder, archives = _existing(path), sorted(path.glob("*.npz"))
    name = folder.resolve().name
    if any((folder / file).is_file() for file in _IDX.files):
        found = idx_folder(folder, name, binarization or "dynamic")
        return found if name_of(found) in FIRST_IMAGES else dataclasses.replace(found, name=own_name(name))
    if len(archives) == 1:
        return npz_file(archives[0], name, binarization)
    if _of_pictures(folder):
        return picture_folder(folder, name, binarization, image_size=image_size, channels=channels)
    looked = f"looked for {TRAIN_IMAGES}[.gz], for one .npz file, and for pictures"
    raise FileNotFoundError(f"data_dir: no IDX files with the train images in {folder}, nor other images: {looked}")


def _of_pictures(path: Path) -> bool:
    """True where `own_images` reads pictures."""
    others = any((path / file).is_file() for file in _IDX.files) or any(path.glob("*.npz"))
    return path.is_dir() and not others and has_pictures(path)


def _check_unsized(what: str, image_size: tuple[int, int] | None, channels: int | None) -> None:
    """Raises ValueError where a size is asked for of images that are not cut to one."""
    for argument, value in (("image_size", image_size), ("channels", channels)):
        if value is not None:
            raise ValueError(f"{argument}: is for folders of pictures only, got {value} for {what}")


def find(name: str, binarization: str | None = None) -> Images | None:
    """The data set `name` where its files lie already; None where they do not. Nothing is downloaded.

    Looks into the folder that the environment variable VLAE_FAST_DATA names, then into the cache of earlier downloads.
    "digits" is always there. A name that is not in ``NAMES`` is nowhere.

    Raises:
        ValueError: a bad file, or a binarization that is not of this data set.
        FileNotFoundError: VLAE_FAST_DATA is no folder.
    """
    if name == "digits":
        return load(name, None, binarization)
    if name not in DATASETS:
        return None
    if shared := os.environ.get("VLAE_FAST_DATA"):
        if not Path(shared).is_dir():
            raise FileNotFoundError(f"VLAE_FAST_DATA: must be an existing folder, got {shared!r}")
        with suppress(FileNotFoundError):
            return load(name, shared, binarization)
    folder = cached(DATASETS[name].cache or name, DATASETS[name].downloads)
    return None if folder is None else load(name, folder, binarization)


def _existing(data_dir: str | Path) -> Path:
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"data_dir: must be an existing folder, got {str(data_dir)!r}")
    return folder


def _read(name: str, data_dir: Path, binarization: str) -> Images:
    dataset = DATASETS[name]
    for folder in (*(data_dir / folder for folder in dataset.folders), data_dir):
        for layout in dataset.layouts:
            if any((folder / file).is_file() for file in layout.files):
                images = layout.read(folder, name, binarization)
                _check_origin(name, folder, images)
                return images
    files = " or ".join(layout.files[0] for layout in dataset.layouts)
    folders = ", ".join(f"{folder}/" for folder in dataset.folders)
    raise FileNotFoundError(f"data_dir: no files of {name} in {data_dir} (or its {folders}): looked for {files}")


def _check_origin(name: str, folder: Path, images: Images) -> None:
    """Raises ValueError where the files are known to be another data set's."""
    first = first_image(images)
    for other, digest in FIRST_IMAGES.items():
        if first == digest and other != name:
            raise ValueError(f"data_dir: {folder} must hold {name}, got the files of {other}")
