"""Long calls of the CPU's sampler: heard by Ctrl-C, with the bits of one call."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from cases.rows import require

import vlae_fast as vf
from vlae_fast.backends import chunks

SLOW = """
import signal, torch, vlae_fast as vf
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
decoder = vf.PixelCNNDecoder(1, 0, 192, 12, image_size=(48, 48))
sampler = vf.PixelCNNSampler(decoder, "cpu")
print("go", flush=True)
try:
    sampler.sample(None, torch.rand(4000, 1, 48, 48))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("z_map", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_chunks_have_the_bits_of_one_call(z_map: bool, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    require("cpu")
    sampler = vf.PixelCNNSampler(vf.PixelCNNDecoder(1, 3, 8, 2, z_channels=0, image_size=(9, 8)), "cpu")
    z = torch.randn(23, 3, 9, 8) if z_map else torch.randn(23, 3)
    noise = torch.rand(23, 1, 9, 8)
    given = (torch.rand(23, 1, 9, 8) < 0.3, torch.rand(23, 1, 9, 8).round()) if known else None
    images, logits = sampler.sample_with_logits(z, noise, known=given)
    for work in (1, 3e5):
        monkeypatch.setattr(chunks, "_CHUNK_WORK", work)
        chunks.tiles_of_thread.cache_clear()
        assert len(chunks.chunks_of(noise, sampler.plan, z)) > 1
        got = sampler.sample_with_logits(z, noise, known=given)
        assert got.images.equal(images) and got.logits.equal(logits)
    chunks.tiles_of_thread.cache_clear()


def test_chunks_are_the_batch_in_order() -> None:
    sampler = vf.PixelCNNSampler(vf.PixelCNNDecoder(3, 0, 192, 12, image_size=(32, 32)), "reference")
    for batch in (0, 1, 2, 7, 64, 1000):
        parts = chunks.chunks_of(torch.empty(batch, 3, 32, 32), sampler.plan, None)
        assert [i for part in parts for i in range(batch)[part]] == list(range(batch))
        assert all(part.stop > part.start for part in parts) or batch == 0
    assert len(parts) > 5


def test_lent_caches_must_be_large_enough() -> None:
    require("cpu")
    sampler = vf.PixelCNNSampler(vf.PixelCNNDecoder(1, 0, 8, 1, image_size=(5, 6)), "cpu")
    (packed,), words = sampler._packed, sampler.plan.words
    ops = torch.ops.vlae_fast_cpu
    size = ops.pixelcnn_cache_floats(packed, words, [5, 6], False, 3)
    given = (torch.rand(3, 1, 5, 6), packed, words, None, None, None, 1.0)
    assert ops.pixelcnn_sample(*given, torch.zeros(size))[1].equal(ops.pixelcnn_sample(*given)[1])
    for caches in (torch.zeros(size - 1), torch.zeros(1, size)):
        with pytest.raises(RuntimeError, match="pixelcnn_sample: caches must have at least"):
            ops.pixelcnn_sample(*given, caches)
    with pytest.raises(RuntimeError, match="caches must be float32"):
        ops.pixelcnn_sample(*given, torch.zeros(size).double())
    with pytest.raises(RuntimeError, match="size must be two sides in 1"):
        ops.pixelcnn_cache_floats(packed, words, [0, 6], False, 3)
    with pytest.raises(RuntimeError, match="batch must be in 1"):
        ops.pixelcnn_cache_floats(packed, words, [5, 6], False, 0)


def test_an_interrupt_is_heard_within_a_long_call() -> None:
    require("cpu")
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(0.5)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert said == "interrupted\n" and process.returncode == 0
        assert time.monotonic() - start < 10  # of minutes; without other load 0.3, and the interpreter's end
    finally:
        process.kill()
