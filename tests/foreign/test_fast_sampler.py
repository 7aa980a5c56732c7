from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign import (
    Conditional,
    DecodedCode,
    MappedCode,
    Plain,
    ProductMaskedConv,
    ShiftedStreams,
    TwoStacks,
    randomized,
)
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models import likelihood
from vlae_fast.models.decoders.make import make_decoder

DECODERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], dict[str, Any]]] = {
    "plain": (Plain, (1, 7, 6), {}),
    "plain, accelerated": (lambda: accelerated(Plain()), (1, 7, 6), {}),
    "plain, of three channels": (lambda: Plain(3, outputs=3), (3, 4, 5), {}),
    "conditional": (Conditional, (1, 6, 7), {"latent_dim": 3}),
    "map of z": (MappedCode, (1, 6, 5), {"latent_dim": 3}),
    "network of z": (lambda: DecodedCode(6, 5), (1, 6, 5), {"latent_dim": 3}),
    "two stacks": (TwoStacks, (1, 7, 6), {}),
    "shifted streams": (ShiftedStreams, (1, 6, 5), {}),
    "levels": (
        lambda: TwoStacks(2, outputs=8),
        (2, 4, 5),
        {"likelihood": likelihood.make_likelihood("categorical", 2, levels=4), "layout": "BCKHW"},
    ),
    "an activation at the end": (
        lambda: nn.Sequential(vf.MaskedConv2d("A", 1, 4, 5), nn.ELU(), nn.Conv2d(4, 1, 1), nn.ELU()),
        (1, 5, 5),
        {},
    ),
    "ours, dilated": (
        lambda: nn.Sequential(
            vf.GatedMaskedConv2d("A", 1, 4, 3, dilation=2), vf.MaskedConv2d("B", 4, 1, 3, dilation=(1, 3))
        ),
        (1, 7, 8),
        {},
    ),
    "ours, foreign": (
        lambda: nn.Sequential(vf.GatedMaskedConv2d("A", 1, 4, 5), vf.MaskedConv2d("B", 4, 1, 3)),
        (1, 5, 5),
        {},
    ),
}


THREE_OF_FOUR = likelihood.make_likelihood("categorical", 3, levels=4)


@pytest.mark.parametrize(("layout", "view"), [("BKCHW", (4, 3)), ("BCKHW", (3, 4))])
@pytest.mark.parametrize("gated", [False, True])
def test_levels_are_read_in_the_layout_that_is_said(layout: str, view: tuple[int, int], gated: bool) -> None:
    """A head that says red 3, green 0, blue 1, whatever its input."""
    head = torch.zeros(view)
    for channel, level in enumerate((3, 0, 1)):
        head[(level, channel) if layout == "BKCHW" else (channel, level)] = 40.0
    net = nn.Sequential(vf.MaskedConv2d("A", 3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 1))
    with torch.no_grad():
        net[2].weight.mul_(1e-3)
        net[2].bias.copy_(head.flatten())
    net = nn.Sequential(net, nn.ELU()) if gated else net
    sampler = vf.fast_sampler(net, (3, 4, 4), likelihood=THREE_OF_FOUR, layout=layout)
    noise = torch.rand(2, 3, 4, 4)
    images = sampler.sample(None, noise)
    assert (3 * images).round().long().flatten(2).unique(dim=2).tolist() == [[[3], [0], [1]]] * 2
    assert images.equal(vf.naive_sample(sampler.decoder, None, noise))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            (3, 4, 4),
            {"likelihood": THREE_OF_FOUR},
            r"layout must be given for levels of more.*got None",
        ),
        ((3, 4, 4), {"likelihood": THREE_OF_FOUR, "layout": "KC"}, r"layout must be an order of the letters.*got 'KC'"),
        ((3, 4, 4), {"layout": "BCKHW"}, r"layout is for levels of more than one channel, got 'BCKHW'"),
    ],
)
def test_a_layout_that_is_missing_or_has_no_place(shape: tuple[int, int, int], options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"fast_sampler: {message}"):
        vf.fast_sampler(nn.Conv2d(3, 12, 1), shape, **options)


@pytest.mark.parametrize(
    ("view", "layout", "fits"),
    [
        ((3, 4), "BCKHW", True),
        ((3, 4), "BKCHW", False),
        ((4, 3), "BKCHW", True),
        ((4, 3), "BCKHW", False),
        ((3, 2, 2), "BCKHW", True),
        ((12,), "BKCHW", True),
    ],
)
def test_a_layout_has_the_lengths_of_the_outputs_dimensions(view: tuple[int, ...], layout: str, fits: bool) -> None:
    net = nn.Sequential(vf.MaskedConv2d("A", 3, 12, 3), nn.Unflatten(1, view))
    if fits:
        vf.fast_sampler(net, (3, 4, 4), likelihood=THREE_OF_FOUR, layout=layout)
        return
    with pytest.raises(
        ValueError, match=rf"layout must fit .* with channels of \[{view[0]}, {view[1]}\], got '{layout}'"
    ):
        vf.fast_sampler(net, (3, 4, 4), likelihood=THREE_OF_FOUR, layout=layout)


def accelerated(model: nn.Module) -> nn.Module:
    assert len(vf.accelerate(model).replaced) == 3
    return model


@pytest.mark.parametrize("name", DECODERS)
def test_images_are_those_of_the_naive_sampler(name: str) -> None:
    make, shape, options = DECODERS[name]
    decoder = randomized(make())
    sampler = vf.fast_sampler(decoder, shape, **options)
    z = torch.randn(6, options["latent_dim"]) if "latent_dim" in options else None
    noise = torch.rand(6, *shape)
    naive = vf.naive_sample(sampler.decoder, z, noise)
    assert 0.02 < naive.mean() < 0.98
    assert all(image.equal(expected) for image, expected in zip(sampler.sample(z, noise), naive, strict=True))


@pytest.mark.parametrize("name", DECODERS)
def test_the_program_is_the_forward(name: str) -> None:
    make, shape, options = DECODERS[name]
    decoder = randomized(make()).double()
    z = torch.randn(2, options["latent_dim"]).double() if "latent_dim" in options else None
    sampler = vf.fast_sampler(decoder, shape, backend="reference", **options)
    x = torch.rand(2, *shape).double()
    context = (
        z
        if z is None or sampler.decoder.code_map is None
        else torch.cat(list(map(sampler.decoder.code_map, z.split(1))))
    )
    got = vf.reference.run_program(sampler.program.stages, sampler.program.weights, context, x)
    torch.testing.assert_close(got, sampler.decoder(x, z))


def test_residuals_and_activations_join_the_stage_before_them() -> None:
    stages = vf.fast_sampler(randomized(Conditional()), (1, 6, 7), latent_dim=3).program.stages
    shapes = [(s.activation, s.residual, s.context_dim > 0) for s in stages]
    assert shapes == [
        ("none", -1, False),  # 2 x - 1: its padding is not that of x
        ("none", -1, True),  # the first convolution, with z beside it
        ("elu", -1, False),
        ("gate", -1, True),
        ("none", 2, False),
        ("elu", -1, False),
        ("gate", -1, True),
        ("relu", -1, False),  # of the last block's sum, which nothing else reads
        ("none", -1, False),
    ]


def test_the_decoder_stays_as_it_is() -> None:
    decoder = randomized(Plain()).train()
    decoder[1].eval()
    decoder(torch.rand(2, 1, 5, 5))
    before = {k: v.clone() for k, v in decoder.state_dict().items()}
    sampler = vf.fast_sampler(decoder, (1, 5, 5))
    assert [m.training for m in decoder] == [i != 1 for i in range(len(decoder))]
    assert all(v.equal(before[k]) for k, v in decoder.state_dict().items())
    noise = torch.rand(2, 1, 5, 5)
    images = sampler.sample(None, noise)
    nn.init.zeros_(decoder[-1].bias)
    assert sampler.sample(None, noise).equal(images)


@pytest.mark.parametrize("kind", ["gated", "two-stack", "resnet", "pixelcnn++"])
def test_our_own_decoders_traced_are_the_programs_that_they_write(kind: str) -> None:
    decoder = make_decoder(kind, input_dim=1, latent_dim=3, hidden_dim=4, n_layers=2, image_size=(6, 5))
    z, noise = torch.randn(4, 3), torch.rand(4, 1, 6, 5)
    ours, traced = vf.PixelCNNSampler(randomized(decoder)), vf.fast_sampler(decoder, (1, 6, 5), latent_dim=3)
    assert traced.steps == ours.steps and len(traced.program.stages) <= len(ours.program.stages)
    assert traced.sample(z, noise).equal(ours.sample(z, noise))


class Around(nn.Module):
    """A chain with something in it that has its own forward."""

    def __init__(self, inner: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.inner, self.last = ProductMaskedConv("A", 1, 4, 3, padding=1), Inner(inner), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


class Inner(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "open gate": lambda x: torch.cat([x[:, :2], x[:, :2]], 1) * x.sigmoid(),
    "open gate, sigmoid first": lambda x: torch.cat([x[:, :2].sigmoid() * x[:, 2:], x[:, 2:]], 1),
    "swish": lambda x: x * x.sigmoid(),
    "silu": nn.functional.silu,
    "glu": lambda x: torch.cat([nn.functional.glu(x, 1), x[:, :2]], 1),
    "gelu": nn.functional.gelu,
    "gelu by tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "softplus": lambda x: nn.functional.softplus(x, beta=2),
    "square": lambda x: x * x,
    "product": lambda x: nn.functional.elu(x) * x.tanh() + x,
    "layer norm": lambda x: nn.functional.layer_norm(x.permute(0, 2, 3, 1), (4,), torch.ones(4) / 3).permute(
        0, 3, 1, 2
    ),
    "sigmoid and tanh": lambda x: torch.cat([x[:, :2].sigmoid(), x[:, 2:].tanh()], 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_between_layers(name: str) -> None:
    decoder = randomized(Around(ACTIVATIONS[name]))
    sampler, noise = vf.fast_sampler(decoder, (1, 4, 4)), torch.rand(3, 1, 4, 4)
    assert sampler.sample(None, noise).equal(vf.naive_sample(sampler.decoder, None, noise))
    assert len(sampler.program.stages) <= 6  # a product with a sigmoid is one stage


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "hardshrink": (nn.functional.hardshrink, "got hardshrink in Inner at 'inner'"),
    "product of crops": (
        lambda x: (nn.functional.pad(x, (1, 0)) * nn.functional.pad(x, (1, 0)))[..., :4],
        r"products of two images of \(4, 4\), got one of \(4, 5\)",
    ),
    "layer norm of rows": (lambda x: nn.functional.layer_norm(x, x.shape[2:]), "over the channels of each pixel"),
    "flip": (lambda x: x.flip(3), "got flip of dimension 3 in Inner at 'inner'"),
    "mean": (
        lambda x: x - x.mean((2, 3), keepdim=True),
        r"means over channels, got one over dimension 3 of \[B, C, H, W\] in Inner at 'inner'",
    ),
    "transposed": (lambda x: x.transpose(2, 3), "parameters of images of .*, got an output of .* of B W H"),
    "look at data": (lambda x: x if x.sum() > 0 else -x, "must take the same branches for all images"),
    "cropped on the other side": (
        lambda x: nn.functional.pad(x, (0, 1)).sub(1).relu()[..., 1:].relu(),
        r"activations of images of \(4, 4\), or cropped to it, got one of",
    ),
    "random": (lambda x: x + torch.rand(1), "must be what its program computes, the same in every call"),
    "reads itself": (lambda x: nn.functional.pad(x, (0, 1))[..., 1:], "got one that reads its own pixel"),
    "reads ahead": (lambda x: nn.functional.pad(x, (0, 2))[..., 2:], "got one that reads ahead"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stops_it_is_named(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        vf.fast_sampler(Around(function), (1, 4, 4))


class Scaled(Conditional):
    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return super().forward(x, z) * z[:, :1, None, None].exp()


def test_products_with_z() -> None:
    decoder, z, noise = Scaled(), torch.randn(2, 3), torch.rand(2, 1, 4, 4)
    sampler = vf.fast_sampler(decoder, (1, 4, 4), latent_dim=3)
    assert sampler.sample(z, noise).equal(vf.naive_sample(sampler.decoder, z, noise))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (4, 4)}, r"image_shape must be \(C, H, W\), all positive, got \(4, 4\)"),
        ({"image_shape": (1, 4, 4), "latent_dim": -1}, "latent_dim must be 0 or more, got -1"),
        ({"image_shape": (1, 4, 4), "likelihood": "categorical"}, "likelihood must be one of"),
        (
            {"image_shape": (1, 4, 4), "likelihood": likelihood.make_likelihood("categorical", 1, levels=4)},
            "as many channels as the parameters of its likelihood, 4, got 1",
        ),
        ({"image_shape": (2, 4, 4)}, "must be traceable by torch.fx, got .*channels"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"fast_sampler: .*{message}"):
        vf.fast_sampler(Plain(), **arguments)


def test_z_is_checked() -> None:
    sampler = vf.fast_sampler(Conditional(), (1, 4, 4), latent_dim=3)
    with pytest.raises(ValueError, match=r"fast_sampler: z must be \[B, 3\], got \(2, 4\)"):
        sampler.sample(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="fast_sampler: z must be None, got"):
        vf.fast_sampler(Plain(), (1, 4, 4)).sample(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="decoder must have parameters"):
        vf.fast_sampler(nn.ReLU(), (1, 4, 4))
