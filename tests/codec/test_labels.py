"""Labels of a class-conditional model's images: in the file, for the bits of their distribution; what is refused."""

import math
from typing import Any

import pytest
import torch
from cases.codec import images_of, labels_of, model_of

from vlae_fast import codec
from vlae_fast.backends import cpu
from vlae_fast.codec import labels as of_labels
from vlae_fast.codec.container import MODES, Chunk, write
from vlae_fast.codec.stack import Stack

pytest.importorskip("constriction")
pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason="the codec runs on the CPU library")

CONDITIONAL = ("classes", "classes of a code that flows", "classes alone")


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CONDITIONAL)
def test_labels_come_back(name: str, mode: str, portable: bool) -> None:
    if (name, mode) == ("classes alone", "lossy"):
        pytest.skip("a lossy file is of models with a code")
    model, n = model_of(name), 7
    x, labels = images_of(model, n), torch.arange(n, dtype=torch.int32) % model.n_classes
    data = codec.encode(model, x, labels, mode=mode, per_chunk=3, portable=portable)
    images, found = codec.decode(model, data, return_labels=True)
    assert found.dtype == torch.int64 and found.equal(labels.long())
    assert mode == "lossy" or images.equal(x)
    assert codec.decode(model, data).equal(images)
    some, found = codec.decode(model, data, chunks=[2, 0], return_labels=True)
    assert found.tolist() == labels[[6, 0, 1, 2]].tolist() and some.equal(images[[6, 0, 1, 2]])
    none = codec.encode(model, x[:0], labels[:0], mode=mode, portable=portable)
    assert [len(part) for part in codec.decode(model, none, return_labels=True)] == [0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_a_model_is_told_the_labels(mode: str) -> None:
    """Another label than the image's is another image: pixels, or at least their bits, depend on it."""
    model = model_of("classes")
    x = images_of(model, 20)
    files = [codec.encode(model, x, torch.full((20,), c), mode=mode) for c in (0, 2)]
    payloads = [codec.File(file).payload(0) for file in files]
    assert payloads[0] != payloads[1]
    if mode == "lossy":
        assert not codec.decode(model, files[0]).equal(codec.decode(model, files[1]))


def test_labels_take_the_bits_of_their_distribution() -> None:
    alike = torch.arange(3000) % 10
    rare = torch.where(torch.arange(3000) % 100 == 0, 7, 4)
    entropy = -(0.01 * math.log2(0.01) + 0.99 * math.log2(0.99))
    for labels, bits, n_settings in ((alike, math.log2(10), 0), (rare, entropy, 11), (rare[:3], math.log2(10), 0)):
        classes, stack = of_labels.fit(labels, 10), Stack()
        classes.push(stack, labels)
        assert stack.bits == pytest.approx(bits * len(labels), rel=1e-3, abs=40)
        assert len(classes.settings) == n_settings
        again = of_labels.read(classes.settings, 10, "file")
        assert again.pop(stack, len(labels)).equal(labels)  # type: ignore[union-attr]


def test_one_class_takes_nothing() -> None:
    labels, stack = torch.zeros(9, dtype=torch.int64), Stack()
    classes = of_labels.fit(labels, 1)
    classes.push(stack, labels)
    assert stack.bits == 0 and classes.pop(stack, 9).equal(labels)  # type: ignore[union-attr]


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "missing": (None, ValueError, "codec.encode: labels must be given where n_classes is 3, got None"),
    "out of range": (torch.tensor([0, 3]), ValueError, "codec.encode: labels must be from 0 to 2, got 3"),
    "negative": (torch.tensor([0, -1]), ValueError, "codec.encode: labels must be from 0 to 2, got -1"),
    "shape": (torch.tensor([0]), ValueError, r"codec.encode: labels must be \[2\], one an image, got \(1,\)"),
    "dtype": (torch.tensor([0.0, 1.0]), TypeError, "codec.encode: labels must be integers, got torch.float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_to_encode(case: str) -> None:
    model = model_of("classes")
    labels, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        codec.encode(model, images_of(model, 2), labels)


def test_labels_are_of_class_conditional_models() -> None:
    model = model_of("bernoulli")
    x = images_of(model, 2)
    with pytest.raises(ValueError, match=r"codec\.encode: labels must be None where n_classes is 0"):
        codec.encode(model, x, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"x\.vlae: return_labels must be False, for the file has no labels"):
        codec.decode(model, codec.encode(model, x), where="x.vlae", return_labels=True)  # type: ignore[call-overload]


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "another number": ({"classes": 4}, "file: classes must be 3, as the model's are, got 4"),
    "no labels": ({"classes": 0, "label_settings": b""}, "file: classes must be 3, as the model's are, got 0"),
    "too few weights": ({"label_settings": b"\1\2"}, "file: the labels' settings: byte 2: a weight must have 1 bytes"),
    "too many": ({"label_settings": b"\1\2\3\4"}, "the labels' settings: byte 3: must end here, got 1 bytes more"),
    "no weight": ({"label_settings": b"\0\0\0"}, "the labels' settings: byte 3: a weight at least must be above 0"),
    "a heavy one": ({"label_settings": b"\1\2\xff\xff\xff\x7f"}, "byte 6: a weight must be from 0 to 16,777,216, got"),
    "others": ({"label_settings": b"\1\2\3"}, r"file: chunk 0 \(images 0 to 5\): "),  # decodes to others: the CRC
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_labels_are_an_error_that_says_where(case: str, mode: str) -> None:
    model, (changes, message) = model_of("classes"), HOSTILE[case]
    file = codec.File(codec.encode(model, images_of(model, 6), labels_of(model, 6), mode=mode))
    data = write(file.header._replace(**changes), [Chunk(file.payload(0), file.table[0][2])])
    with pytest.raises(codec.FileError, match=message):
        codec.decode(model, data)


@pytest.mark.parametrize("mode", MODES)
def test_the_crc_of_images_is_of_their_labels_too(mode: str) -> None:
    batch = of_labels.Batch(torch.zeros(2, 1, 5, 6), torch.tensor([0, 1]))
    opened = codec.Opened(model_of("classes"), codec.encode(model_of("classes"), *batch, mode=mode))
    assert opened.crc_of(batch) != opened.crc_of(batch._replace(labels=torch.tensor([0, 2])))
