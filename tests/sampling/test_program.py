"""Stages that a decoder writes itself, and weight normalisation folded into them."""

import pytest
import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import reference
from vlae_fast.masks import MASK_TYPES, live_taps
from vlae_fast.plan import Sites
from vlae_fast.sampling.program import Program, build_program
from vlae_fast.sampling.schedule import derive

CENTRE = ((0, 0),)


class OwnStages(nn.Module):
    """``elu(W x + V z) + 1x1`` of plain tensors: all that a foreign decoder needs is `write_program`."""

    def __init__(self) -> None:
        super().__init__()
        self.input_dim, self.latent_dim, self.image_size = 2, 3, (4, 5)
        self.weight = nn.Parameter(torch.randn(6, 2, 3, 5))
        self.context = nn.Parameter(torch.randn(6, 3))
        self.out = nn.Conv2d(6, 2, 1)
        self.taps = ((-1, 2), (-1, -2), (0, -1))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        live = torch.zeros_like(self.weight)
        for dy, dx in self.taps:
            live[:, :, 1 + dy, 2 + dx] = 1
        pre = nn.functional.conv2d(x, self.weight * live, padding=(1, 2)) + (z @ self.context.T)[:, :, None, None]
        return self.out(nn.functional.elu(pre))

    def write_program(self, program: Program) -> None:
        hidden = program.add([(0, self.weight, self.taps)], None, "elu", self.context)
        program.add([(hidden, self.out.weight, CENTRE)], self.out.bias)


def test_a_foreign_decoder_writes_its_stages() -> None:
    torch.manual_seed(0)
    decoder, noise, z = OwnStages(), torch.rand(3, 2, 4, 5), torch.randn(3, 3)
    assert vf.PixelCNNSampler(decoder).sample(z, noise).equal(vf.naive_sample(decoder, z, noise))


def test_stages_of_a_program() -> None:
    """Several sources, a gate, a residual after the activation, and activations of a buffer as it is."""
    torch.manual_seed(0)
    program, x, z = Program(2), *torch.randn(2, 1, 2, 4, 5, dtype=torch.float64)
    z, taps = torch.randn(1, 3, dtype=torch.float64), live_taps("A", (3, 3))
    a, b = nn.Conv2d(2, 4, 3, padding=1).double(), nn.Conv2d(2, 4, 1, bias=False).double()
    v = torch.randn(4, 3, dtype=torch.float64)
    gated = program.add([(0, a.weight, taps), (0, b.weight, CENTRE)], a.bias, "gate", v, residual=0)
    relu = program.activate(gated, "relu")
    both = program.activate(gated, "concat_elu")
    assert [program.channels(i) for i in (0, gated, relu, both)] == [2, 2, 2, 4]
    live = vf.masks.conv_mask("A", a.weight.shape)
    pre = nn.functional.conv2d(x, a.weight * live, a.bias, padding=1) + b(x) + (z @ v.T)[:, :, None, None]
    h = pre[:, :2].tanh() * pre[:, 2:].sigmoid() + x

    def run(stages: int) -> Tensor:
        return reference.run_program(program.stages[:stages], program.weights, z, x)

    torch.testing.assert_close(run(gated), h)
    torch.testing.assert_close(run(relu), h.relu())
    torch.testing.assert_close(run(both), nn.functional.elu(torch.cat([h, -h], 1)))


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_weight_norm_is_that_of_the_live_weights(mask_type: str) -> None:
    layer = vf.MaskedConv2d(mask_type, 3, 4, 5, weight_norm=True).double()
    plain = vf.MaskedConv2d(mask_type, 3, 4, 5).double()
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x))  # until it is trained or initialised
    nn.init.uniform_(layer.gain, 0.5, 2)
    torch.testing.assert_close(layer.live_weight().flatten(1).norm(dim=1), layer.gain)
    layer(x).square().sum().backward()
    assert (layer.weight.grad[~layer.mask] == 0).all() and (layer.weight.grad[layer.mask] != 0).all()
    radial = (layer.weight.grad * layer.weight).flatten(1).sum(1)  # the loss does not depend on the length of v
    torch.testing.assert_close(radial, torch.zeros_like(radial), rtol=0, atol=1e-8)


def test_weight_norm_is_folded_once_for_sampling() -> None:
    decoder = vf.PixelCNNDecoder(1, 0, 4, 0, initial_kernel=3, image_size=(5, 6))
    decoder.initial_conv = vf.MaskedConv2d("A", 1, 4, 3, weight_norm=True)
    nn.init.uniform_(decoder.initial_conv.gain, 0.5, 2)
    program = build_program(decoder)
    assert [tuple(w.shape) for w in program.weights] == [(4, 1, 4), (4,), (1, 4, 1), (1,)]
    noise = torch.rand(2, 1, 5, 6)
    assert vf.PixelCNNSampler(decoder).sample(None, noise).equal(vf.naive_sample(decoder, None, noise))


W = torch.zeros(4, 2, 3, 3)


def phases(program: Program, *all_sites: Sites) -> None:
    """A stage for each, that joins the first one's buffer."""
    for n, sites in enumerate(all_sites):
        program.add([(0, W, CENTRE)], sites=sites, joins=1 if n else -1)


def test_only_computed_pixels_are_drawn_and_read() -> None:
    program = Program(2)
    phases(program, Sites(2, 1, 0), Sites(2, 0, 1))
    with pytest.raises(ValueError, match="must compute what it draws from at all pixels, got 1 phases of buffer 1"):
        derive(program.stages[:1], (4, 4))
    program.add([(1, torch.randn(1, 4, 1, 1), ((0, 0),))])
    rule = r"stage 2, of sites \(1, 0, 0\), must read pixels that stages compute, got buffer 1 at \(0, 0\)"
    with pytest.raises(ValueError, match=rule):
        derive(program.stages, (4, 4))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: p.add([]), "Program.add: sources must not be empty"),
        (lambda p: p.add([(0, W, CENTRE)], activation="mish"), "activation must be one of none, .*got 'mish'"),
        (lambda p: p.activate(0, "elu"), "an activation must follow a stage with weights"),
        (lambda p: p.add([(1, W, CENTRE)]), "a buffer that is read must be 0 to 0, those written so far, got 1"),
        (
            lambda p: p.add([(0, W[:, :1], CENTRE)]),
            r"weight of buffer 0 must be \[4, 2\] x kh x kw, got \[4, 1, 3, 3\]",
        ),
        (lambda p: p.add([(0, W, ((0, 2),))]), r"taps of buffer 0 must lie in an odd kernel, 3 x 3, got \[\(0, 2\)\]"),
        (lambda p: p.add([(0, W, CENTRE)], torch.zeros(3)), r"bias must be \[4\], got \[3\]"),
        (lambda p: p.add([(0, W, CENTRE)], context=torch.zeros(3, 2)), r"context must be \[4, D\], got \[3, 2\]"),
        (lambda p: p.add([(0, W, CENTRE)], residual=0), "residual must be a buffer of 4 channels, got 2"),
        (
            lambda p: p.add([(0, W, CENTRE)], sites=Sites(17)),
            r"sites must have a stride in 1..16, row .*got \(17, 0, 0\)",
        ),
        (lambda p: p.add([(0, W, CENTRE)], sites=Sites(2, 0, 2)), r"row and column below it, got \(2, 0, 2\)"),
        (
            lambda p: phases(p, Sites(2, 1, 0), Sites(2, 1, 0)),
            r"sites must be others than .* buffer 1, got \(2, 1",
        ),
        (lambda p: phases(p, Sites(2), Sites(3, 1, 1)), "joins must be the own buffer of a stage of stride 3, got 1"),
    ],
)
def test_errors(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(Program(2))
