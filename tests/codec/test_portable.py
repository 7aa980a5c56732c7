"""Portable files: the same bits by every kernel that fuses nothing, and by plain PyTorch."""

from typing import Any

import pytest
import torch
from cases.codec import MODELS, images_of, is_slow, labels_of, model_of
from cases.deadline import slow_where
from cases.unfused import UnfusedSampler
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from vlae_fast import VLAE, checkpoint, codec, data
from vlae_fast.backends import cpu
from vlae_fast.codec import lossy, portable
from vlae_fast.codec.coder import LOSSLESS
from vlae_fast.sampling import PixelCNNSampler

pytest.importorskip("constriction")
pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason="the codec runs on the CPU library")

_SMALL: dict[str, Any] = {"latent_dim": 3, "hidden_dim": 4, "n_layers": 1, "image_size": (8, 8), "flow_hidden": 8}
NORMED = {
    "weight-normed": lambda: VLAE(1, **_SMALL, decoder="resnet", encoder="resnet", encoder_norm="weight"),
    "batch-normed": lambda: VLAE(1, **_SMALL, encoder="strided", encoder_norm="batch"),
}


def shipped() -> VLAE:
    model: VLAE = checkpoint.load(checkpoint.MNIST).model
    return model


def digits(n: int) -> Tensor:
    """Images of the kind that the shipped model knows."""
    pytest.importorskip("sklearn")
    return data.digits().fixed("train")[:n]


@slow_where(is_slow)
@pytest.mark.parametrize("mode", LOSSLESS)
@pytest.mark.parametrize("name", MODELS)
def test_every_kernel_that_fuses_nothing_writes_and_reads_the_same_file(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name)
    x = images_of(model, 7)
    labels = labels_of(model, 7)
    file = codec.encode(model, x, labels, mode=mode, per_chunk=3, portable=True)
    assert codec.File(file).header.isa == "portable"
    assert codec.decode(model, file).equal(x)
    monkeypatch.setattr(portable, "WIDE", "none")
    assert portable.PortableSampler(model.decoder).isa == "baseline"
    assert codec.decode(model, file).equal(x)
    assert codec.encode(model, x, labels, mode=mode, per_chunk=3, portable=True) == file


@pytest.mark.parametrize("name", ["bernoulli", "three flow steps", "classes", "mixture"])
def test_lossy_files_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are the same numbers, which the file's CRC is of, and so are the parameters of the pixels."""
    model, found = model_of(name), []
    x, labels = images_of(model, 7), labels_of(model, 7)
    for wide in (portable.WIDE, "none"):
        monkeypatch.setattr(portable, "WIDE", wide)
        file = codec.encode(model, x, labels, mode="lossy", bits=20, per_chunk=3, portable=True)
        found.append((file, *(codec.decode(model, file, pixels=way).numpy().tobytes() for way in lossy.PIXELS)))
    assert found[0] == found[1]
    assert codec.File(found[0][0]).header.isa == "portable"


@pytest.mark.parametrize("name", ["bernoulli", "two channels", "gated", "categorical", "mixture"])
def test_parameters_are_those_of_plain_pytorch_that_fuses_nothing(name: str) -> None:
    model = portable.plain(model_of(name))
    sampler, x = portable.PortableSampler(model.decoder), images_of(model, 5)
    z = torch.randn(5, model.latent_dim)
    expected = UnfusedSampler(sampler).params_of(x, z)
    assert sampler.params_of(x, z).equal(expected)
    assert torch.cat([sampler.params_of(*one) for one in zip(x.split(1), z.split(1), strict=True)]).equal(expected)


@pytest.mark.slow  # for small models, test_parameters_are_those_of_plain_pytorch_that_fuses_nothing
def test_plain_pytorch_reads_a_file_of_the_kernels() -> None:
    model, x = shipped(), digits(3)
    opened = codec.Opened(model, codec.encode(model, x, portable=True))
    opened.pixels.sampler = UnfusedSampler(opened.pixels.sampler)  # type: ignore[assignment,arg-type]
    assert opened.chunk(0).equal(x)


@slow_where(lambda mode, most: mode == "bits_back" or most == 256)
@pytest.mark.parametrize("most", [40, 256])
@pytest.mark.parametrize("mode", LOSSLESS)
def test_many_images_by_other_kernels_threads_and_batches(
    mode: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, threads = shipped(), digits(most), torch.get_num_threads()
    counts = (most, most // 4), (16, 1)
    files = [codec.encode(model, x[:n], mode=mode, per_chunk=batch, portable=True) for n, batch in counts]
    monkeypatch.setattr(portable, "WIDE", "none")
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            for file in files:
                assert codec.decode(model, file).equal(x[: codec.File(file).header.images])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif("avx2" not in cpu.isas(), reason="no kernel of this machine fuses")
def test_fused_kernels_have_other_bits() -> None:
    """What the mode is for: without it this file would be noise on another machine."""
    model, x = shipped(), digits(4)
    z = model.encode(x)[0]
    fused, unfused = PixelCNNSampler(model.decoder, "cpu", isa="avx2"), portable.PortableSampler(model.decoder)
    a, b = fused.params_of(x, z), unfused.params_of(x, z)
    assert not a.equal(b) and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", LOSSLESS)
@pytest.mark.parametrize("name", NORMED)
def test_normalised_layers_are_folded(name: str, mode: str) -> None:
    torch.manual_seed(0)
    model = NORMED[name]().train()
    model(torch.rand(8, 1, 8, 8))  # statistics of batch norms
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = images_of(model, 5)
    assert codec.decode(model.eval(), codec.encode(model, x, mode=mode, portable=True)).equal(x)
    plain = portable.plain(model)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain.encode(x), model.encode(x), strict=True))
    z = torch.randn(5, 3)
    assert torch.allclose(plain.decoder(x, z), model.decoder(x, z), atol=1e-4)


def test_networks_have_the_values_of_pytorch_and_the_same_bits_in_any_batch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(5, 48), nn.ELU(), nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(),
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.Upsample((9, 7), mode="bilinear"), nn.Conv2d(6, 4, 3, stride=2), nn.SiLU(), nn.Sigmoid(), nn.LeakyReLU(0.3),
    )  # fmt: skip
    network.takes_batches = True  # type: ignore[assignment]
    spread, z = portable.PortableSpread(network), torch.randn(6, 5)
    with torch.no_grad():
        found = spread(z)
        assert torch.allclose(found, network(z), rtol=1e-5, atol=1e-6)
        assert torch.cat([spread(row) for row in z.split(1)]).equal(found)


def test_what_has_no_portable_way_is_refused() -> None:
    model = model_of("bernoulli")
    x = images_of(model, 2)
    with pytest.raises(ValueError, match="isa must be None where portable is set, got 'baseline'"):
        codec.encode(model, x, portable=True, isa="baseline")
    parametrizations.orthogonal(model.final_conv)
    with pytest.raises(ValueError, match=r"layers of plain weights, got decoder.final_conv with a parametrization"):
        codec.encode(model, x, portable=True)
    model = model_of("bernoulli")
    assert model.encoder is not None and isinstance(model.encoder.features, nn.Sequential)
    model.encoder.features[1] = nn.GELU()
    assert codec.decode(model, codec.encode(model, x, portable=True)).equal(x)  # only bits back decode by the encoder
    with pytest.raises(ValueError, match=r"networks of linear layers, .* elu, .*, got gelu"):
        codec.encode(model, x, portable=True, mode="bits_back")
    torch.set_flush_denormal(True)
    try:
        with pytest.raises(ValueError, match="too small to be normal"):
            codec.encode(model, x, portable=True)
    finally:
        torch.set_flush_denormal(False)
