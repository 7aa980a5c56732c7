"""Ops under ``torch.device(...)``, as torch's CUDA graphs run a model: nothing goes where the caller's tensors would.

The shapes are no other test's: tables that are kept are made here.
"""

from types import ModuleType

import pytest
import torch
from cases.decoders import inputs, random_decoder, small_decoder
from cases.rows import backends_of, is_interpreted, require

import vlae_fast as vf
from vlae_fast import data
from vlae_fast.testing import Case, conv_case, linear_case, made_case, run

INVERSE = made_case(3, 13, (23, 37), cond=True, steps=2)
CASES = [
    conv_case("A", (2, 3, 6, 5), 18, 5, image_channels=3, cond="map", activation="gate"),
    conv_case("B", (1, 7, 4, 9), 13, 3, activation="elu"),
    linear_case(3, 23, 41, activation="tanh"),
    linear_case(3, 19, 29, adjacency=True),
    INVERSE,
]


def check(case: Case, backend: str) -> None:
    outs, _ = run(Case(case.name, case.op, case.tensors, case.options), "reference")
    cotangents = [torch.randn_like(o) for o in outs]
    want = run(case, "reference", cotangents)
    with torch.device("meta"):
        got = run(case, backend, cotangents)
    for got_part, want_part in zip(got, want, strict=True):
        for a, b in zip(got_part, want_part, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "backend"),
    [pytest.param(case, backend, id=f"{case}-{backend}") for case in CASES for backend in backends_of(case.op)],
)
def test_ops(case: Case, backend: str) -> None:
    check(case, require(backend))


def test_inverse_in_cuda(cuda: ModuleType) -> None:
    check(INVERSE, "cuda")


@pytest.mark.parametrize("backend", backends_of("pixelcnn_sample"))
def test_sampler(backend: str) -> None:
    decoder = small_decoder() if is_interpreted(backend) else random_decoder(7)
    z, noise = inputs(decoder, 2)
    want = vf.PixelCNNSampler(decoder, "reference").sample(z, noise)
    with torch.device("meta"):
        got = vf.PixelCNNSampler(decoder, require(backend)).sample(z, noise)
    assert got.equal(want)


def test_batches() -> None:
    def first() -> torch.Tensor:
        return next(iter(data.digits().batches("train", 5, generator=torch.Generator().manual_seed(1), shuffle=True)))

    want = first()
    with torch.device("meta"):
        assert first().equal(want)
