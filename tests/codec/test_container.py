"""The file: what is damaged, truncated or a lie is one error that says where, before memory is taken."""

import random
import tracemalloc

import pytest
from cases.codec import images_of, labels_of, model_of
from cases.mutated import mutated_bytes

from vlae_fast import codec
from vlae_fast.backends import cpu
from vlae_fast.codec.container import MODES, Chunk, File, FileError, Header, Reader, signed, varint, write
from vlae_fast.plan import Emit

HEADER = Header("mean", "avx2", bytes(range(16)), Emit("categorical", 5), (1, 2, 3), 5, 2, b"abc")
LABELLED = HEADER._replace(classes=300, label_settings=b"defg")
CHUNKS = [Chunk(b"one", 1), Chunk(b"", 2), Chunk(b"three" * 99, 3)]


@pytest.mark.parametrize("header", [HEADER, LABELLED])
def test_what_is_written_is_read(header: Header) -> None:
    found = File(write(header, CHUNKS))
    assert found.header == header
    assert [Chunk(found.payload(i), found.table[i][2]) for i in range(3)] == CHUNKS
    assert [HEADER.rows_of(i) for i in range(3)] == [range(2), range(2, 4), range(4, 5)]


@pytest.mark.parametrize("value", [0, 127, 128, 300, (1 << 62) - 1])
def test_varints(value: int) -> None:
    assert Reader(varint(value), "x").varint("n") == value


@pytest.mark.parametrize("header", [HEADER, LABELLED])
def test_every_cut_is_an_error(header: Header) -> None:
    data = write(header, CHUNKS)
    for n in range(len(data)):
        with pytest.raises(FileError, match=r"file: byte [\d,]+: "):
            File(data[:n])
    with pytest.raises(FileError, match="truncated, or longer than it is"):
        File(data + b"x")


@pytest.mark.parametrize("header", [HEADER, LABELLED])
def test_every_changed_bit_is_an_error(header: Header) -> None:
    data = write(header, CHUNKS)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(FileError, match=r"file: (byte|chunk) \d"):
            found = File(bytes(changed))
            [found.payload(i) for i in range(3)]


LIES = {
    "magic": (HEADER, lambda d: b"GIF89a" + d, "must start with .*: no .vlae file"),
    "version": (HEADER, lambda d: d[:8] + b"\7" + d[9:], "version must be 1 or 2, got 7"),
    "images": (HEADER._replace(images=1 << 50), bytes, "chunks take at least"),
    "chunk": (HEADER._replace(images=1 << 16, per_chunk=1 << 16, shape=(1, 999, 999)), bytes, "at most .* parameters"),
    "settings": (HEADER, lambda d: d[:29] + d[29:].replace(b"\3abc", b"\xff\xff\xff\x7fabc"), "settings must have"),
    "classes": (HEADER._replace(classes=1 << 17), bytes, "classes must be from 1 to 65,536, got 131,072"),
    "labels": (LABELLED, lambda d: d.replace(b"\4abc", b"\xff\xff\xff\x7fabc"), "labels' settings must have"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lie_takes_no_memory(case: str) -> None:
    header, change, message = LIES[case]
    data = signed(change(write(header, CHUNKS)))
    tracemalloc.start()
    with pytest.raises(FileError, match=message):
        File(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.skipif(cpu.why_not() is not None, reason="the codec runs on the CPU library")
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, mode) for name in ("bernoulli", "categorical") for mode in MODES),
        ("iaf of three steps", "bits_back"),
        *(("classes", mode) for mode in MODES),
    ],
)
def test_a_hostile_file_with_right_checksums_is_an_error_or_images(name: str, mode: str) -> None:
    pytest.importorskip("constriction")
    model, rng, refused = model_of(name), random.Random(0), 0
    data = codec.encode(model, images_of(model, 3), labels_of(model, 3), mode=mode, per_chunk=2)
    for _ in range(25):
        try:
            images = codec.decode(model, signed(mutated_bytes(data, rng)), limit=1 << 20)
        except ValueError:
            refused += 1
        else:
            model.likelihood.check(images)
    assert refused > 12
