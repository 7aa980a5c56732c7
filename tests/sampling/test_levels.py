"""Channels of a pixel that see each other: parts between draws, equal to the users' loop over pixels and channels."""

from collections.abc import Callable, Sequence

import pytest
import torch
from cases.deadline import slow_where
from cases.rows import backends_of, is_interpreted, require
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast import reference
from vlae_fast.masks import live_taps
from vlae_fast.models import make_likelihood
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Draw, Emit, Plan, Source, Stage
from vlae_fast.sampling.levels import in_turn
from vlae_fast.sampling.naive import naive_sample_with_logits
from vlae_fast.sampling.program import Program
from vlae_fast.sampling.schedule import derive

SIZE, TAPS, HERE = (3, 4), live_taps("B", (3, 3)), ((0, 0),)
CATEGORICAL = make_likelihood("categorical", 3, levels=4)
GROUPS = {  # the image channel that each of 12 features belongs to
    "thirds": [0] * 4 + [1] * 4 + [2] * 4,
    "interleaved": [0, 1, 2] * 4,
    "uneven": [2, 0, 0, 1, 2, 2, 0, 2, 2, 2, 2, 2],
}


def able(row: str, request: pytest.FixtureRequest) -> str:
    """The row, which has to run here; CUDA's as compiled for the host."""
    if row == "cuda":
        request.getfixturevalue("cuda")
        return row
    return require(row)


class ByChannel(nn.Module):
    """Masked layers whose features belong to image channels; a residual, a gate and a skip connection to the image."""

    image_size = SIZE

    def __init__(self, groups: Sequence[int], likelihood: object = None, channels: int = 3) -> None:
        super().__init__()
        self.input_dim, self.likelihood = channels, likelihood
        n = len(groups)
        emit = Emit() if likelihood is None else likelihood.emit
        heads = [0] * emit.params(channels)
        for c in range(channels):
            for p in emit.params_of(c, channels):
                heads[p] = c
        image = list(range(channels))
        self.layers = nn.ParameterList(
            [
                self.masked(groups, image, strict=True),
                self.masked([*groups, *groups], groups),
                self.masked(heads, groups),
            ]
        )
        self.skip = self.masked(heads, image, strict=True)
        self.bias = nn.Parameter(torch.randn(n) * 0.3)

    @staticmethod
    def masked(out: Sequence[int], into: Sequence[int], *, strict: bool = False) -> nn.Parameter:
        weight = torch.randn(len(out), len(into), 3, 3) * 0.35
        o, i = torch.tensor(out)[:, None], torch.tensor(into)[None]
        weight[:, :, 1, 1] *= o > i if strict else o >= i
        weight[:, :, 1, 2:] = 0
        weight[:, :, 2:] = 0
        return nn.Parameter(weight)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        first, middle, last = self.layers
        h = nn.functional.elu(nn.functional.conv2d(x, first, self.bias, padding=1))
        a, b = nn.functional.conv2d(h, middle, padding=1).chunk(2, 1)
        h = a.tanh() * b.sigmoid() + h
        return nn.functional.conv2d(h, last, padding=1) + nn.functional.conv2d(x, self.skip, padding=1)

    def write_program(self, program: Program) -> None:
        first, middle, last = self.layers
        h = program.add([(0, first, TAPS)], self.bias, "elu")
        h = program.add([(h, middle, TAPS)], None, "gate", residual=h)
        program.add([(h, last, TAPS), (0, self.skip, TAPS)])


def users_loop(decoder: ByChannel, noise: Tensor) -> Tensor:
    """One forward for each channel of each pixel; Bernoulli pixels, or levels by the inverse of the cumulative sum."""
    image = torch.zeros_like(noise)
    with torch.no_grad():
        for i in range(SIZE[0]):
            for j in range(SIZE[1]):
                for c in range(noise.shape[1]):
                    logits, u = decoder(image)[:, :, i, j].double(), noise[:, c, i, j].double()
                    if decoder.likelihood is None:
                        image[:, c, i, j] = (u < logits[:, c].sigmoid()).float()
                        continue
                    own = logits.view(len(noise), noise.shape[1], -1)[:, c]
                    level = (own.softmax(1).cumsum(1) <= u[:, None]).sum(1).clamp(max=own.shape[1] - 1)
                    image[:, c, i, j] = level.float() / (own.shape[1] - 1)
    return image


@slow_where(lambda row, levels, groups: is_interpreted(row) and (levels, groups) != (4, "uneven"))
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("levels", [2, 4])
@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
def test_images_are_those_of_the_users_loop(row: str, levels: int, groups: str, request: pytest.FixtureRequest) -> None:
    decoder = ByChannel(GROUPS[groups], None if levels == 2 else make_likelihood("categorical", 3, levels=levels))
    sampler, noise = vf.PixelCNNSampler(decoder, able(row, request)), torch.rand(2, 3, *SIZE)
    images = sampler.sample(None, noise)
    assert images.equal(users_loop(decoder, noise)) and images.unique().numel() == levels
    assert images.equal(vf.naive_sample(decoder, None, noise))
    assert [draw.after for draw in sampler.plan.draws] == [3, 6, 9]
    assert Plan.from_words(sampler.plan.words) == sampler.plan


@pytest.mark.filterwarnings("ignore:.*known has pixels that depend on unknown ones:UserWarning")
@slow_where(lambda row, temperature: is_interpreted(row) and temperature == 1)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
def test_what_is_known_of_a_pixel_is_seen_by_the_channels_after_it(
    row: str, temperature: float, request: pytest.FixtureRequest
) -> None:
    """Green alone is known: red does not see it, blue does, and the images are the naive ones."""
    decoder, noise = ByChannel(GROUPS["interleaved"]), torch.rand(3, 3, *SIZE)
    sampler, values = vf.PixelCNNSampler(decoder, able(row, request)), (torch.rand(3, 3, *SIZE) < 0.5).float()
    mask = torch.tensor([False, True, False])[:, None, None] & (torch.rand(3, *SIZE) < 0.7)
    options = {"known": (mask, values), "temperature": temperature}
    images = sampler.sample(None, noise, **options)
    assert images[mask.expand_as(images)].equal(values[mask.expand_as(images)])
    assert images.equal(vf.naive_sample(decoder, None, noise, **options))


@slow_where(lambda row: is_interpreted(row))  # it draws normal pixels in tests/reference, by channels above
@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
def test_normal_pixels_channel_by_channel(row: str, request: pytest.FixtureRequest) -> None:
    decoder, noise = ByChannel(GROUPS["uneven"]), torch.randn(2, 3, *SIZE)
    decoder.likelihood = type("Affine", (), {"emit": Emit("affine", 0)})
    small = ByChannel(GROUPS["uneven"], decoder.likelihood)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(0.3)
    images, params = vf.PixelCNNSampler(small, able(row, request)).sample_with_logits(None, noise)
    naive, expected = naive_sample_with_logits(small, None, noise)
    torch.testing.assert_close(images, naive, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(params, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row", ["cpu", "cuda"])
def test_logits_are_the_same_bits(row: str, request: pytest.FixtureRequest) -> None:
    decoder, noise = ByChannel(GROUPS["interleaved"], CATEGORICAL), torch.rand(16, 3, *SIZE)
    samplers = [vf.PixelCNNSampler(decoder, able(row, request), order=order) for order in ("wavefront", "raster")]
    images, logits = samplers[0].sample_with_logits(None, noise)
    threads = torch.get_num_threads()
    try:
        for n in (1, 2) if row == "cpu" else (threads,):
            torch.set_num_threads(n)
            for sampler in samplers:
                for rows in (slice(0, 16), slice(3, 4)):
                    got_images, got = sampler.sample_with_logits(None, noise[rows])
                    assert got_images.equal(images[rows]) and got.equal(logits[rows])
    finally:
        torch.set_num_threads(threads)


def test_a_colour_image_takes_the_steps_of_a_grey_one() -> None:
    grey = vf.PixelCNNSampler(ByChannel([0] * 12, channels=1), "reference")
    for groups in GROUPS.values():
        colours = vf.PixelCNNSampler(ByChannel(groups), "reference")
        assert colours.steps == grey.steps and set(colours.plan.leads) == {0}


@pytest.mark.parametrize("levels", [2, 4])
def test_fast_sampler_finds_the_channels_and_the_layout(levels: int) -> None:
    """A forward that nobody described; the order of its levels follows from which channels they depend on."""
    decoder = ByChannel(GROUPS["uneven"], None if levels == 2 else CATEGORICAL)
    sampler = vf.fast_sampler(decoder, (3, *SIZE), likelihood=decoder.likelihood)
    noise = torch.rand(2, 3, *SIZE)
    assert sampler.sample(None, noise).equal(users_loop(decoder, noise)) and len(sampler.plan.draws) == 3


def test_our_own_layers_with_masks_of_channels() -> None:
    layers = [
        vf.MaskedConv2d("A", 3, 9, 3, image_channels=3, activation="relu"),
        vf.MaskedConv2d("B", 9, 3, 3, image_channels=3),
    ]
    decoder = vf.PixelCNNDecoder(3, 0, 9, 0, initial_kernel=3, image_size=SIZE)
    decoder.initial_conv, decoder.final_conv = layers
    sampler, noise = vf.PixelCNNSampler(decoder), torch.rand(3, 3, *SIZE)
    assert len(sampler.plan.draws) == 3
    assert sampler.sample(None, noise).equal(vf.naive_sample(decoder, None, noise))


def test_without_live_weights_at_the_centre_nothing_is_cut() -> None:
    decoder = ByChannel([0] * 12)
    with torch.no_grad():
        for weight in (decoder.layers[0], decoder.skip):
            weight[:, :, 1, 1] = 0
    plan = vf.PixelCNNSampler(decoder, "reference").plan
    assert plan.draws == () and [s.out_channels for s in plan.stages] == [12, 12, 3]


@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
def test_a_stage_of_its_own_pixel_that_no_parameter_sees_is_not_cut(row: str, request: pytest.FixtureRequest) -> None:
    """A scaled copy of the image, read at earlier pixels: all channels are drawn at once, those of a mixture too."""
    emit = Emit("logistic_mixture", 4, 2)
    program = Program(3)
    scaled = program.add([(0, 2 * torch.eye(3)[:, :, None, None], HERE)], -torch.ones(3))
    h = program.add([(scaled, torch.randn(8, 3, 3, 3) * 0.3, live_taps("A", (3, 3)))], torch.randn(8), "elu")
    program.add([(h, torch.randn(emit.params(3), 8, 1, 1) * 0.3, HERE)])
    parts, noise = in_turn(program, emit, SIZE), torch.rand(2, 4, *SIZE)
    assert parts.stages == tuple(program.stages) and parts.draws == ()
    schedule = derive(parts.stages, SIZE)
    plan = Plan(3, schedule.slope, parts.stages, schedule.leads, emit)
    (images, _), (naive, _) = (
        pixelcnn_sample(noise, pixelcnn_pack(parts.weights, plan, backend=b), plan, backend=b)
        for b in (able(row, request), "reference")
    )
    assert images.equal(naive)


def mixed(program: Program, change: Callable[[Tensor], Tensor] = lambda w: w) -> None:
    """A residual, a factor and a norm whose channels are of other levels than those of what they read."""
    groups = torch.tensor([0, 1, 2, 0, 1, 2])
    first = torch.randn(6, 3, 3, 3) * 0.4
    first[:, :, 1, 1] *= groups[:, None] > torch.arange(3)
    a = program.add([(0, change(first), TAPS)], torch.randn(6), "elu")
    b = program.add([(0, torch.randn(6, 3, 3, 3), live_taps("A", (3, 3)))], None, "sigmoid")
    c = program.add([(b, torch.randn(6, 6, 1, 1), HERE)], None, "tanh", factor=a, residual=b)
    d = program.norm(b, torch.randn(6), torch.randn(6), 1e-3, activation="silu", residual=b)
    e = program.product(c, d)
    last = torch.randn(3, 6, 1, 1) * (torch.arange(3)[:, None] >= groups)[:, :, None, None]
    program.add([(e, last, HERE)])


@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
def test_residuals_factors_and_norms_of_other_levels(row: str, request: pytest.FixtureRequest) -> None:
    program = Program(3)
    mixed(program)
    parts, noise = in_turn(program, Emit(), SIZE), torch.rand(2, 3, *SIZE)
    schedule = derive(parts.stages, SIZE, draws=parts.draws)
    plan = Plan(3, schedule.slope, parts.stages, schedule.leads, Emit(), parts.draws)
    x = (torch.rand(2, 3, *SIZE) < 0.5).float()
    dense = reference.run_program(program.stages, program.weights, None, x)
    torch.testing.assert_close(reference.run_plan(plan, parts.weights, None, x), dense)
    naive, _ = reference.naive_sample(
        lambda image: reference.run_program(program.stages, program.weights, None, image), noise, 3
    )
    packed = pixelcnn_pack(parts.weights, plan, backend=able(row, request))
    images, _ = pixelcnn_sample(noise, packed, plan, backend=row)
    assert images.equal(naive)


def test_a_row_that_lacks_a_kind_says_so() -> None:
    require("triton")
    program = Program(1)
    h = program.add([(0, torch.randn(4, 1, 3, 3), live_taps("A", (3, 3)))])
    program.add([(program.norm(h), torch.randn(1, 4, 1, 1), HERE)])
    schedule = derive(tuple(program.stages), SIZE)
    stages = tuple(stage._replace(kind="blur" if stage.kind == "norm" else "sum") for stage in program.stages)
    plan = Plan(1, schedule.slope, stages, schedule.leads)
    with pytest.raises(RuntimeError, match="triton: has no stage of kind blur"):
        pixelcnn_pack(program.weights, plan, backend="triton")


class Reads(ByChannel):
    def __init__(self, live: Tensor, likelihood: object = None) -> None:
        super().__init__([0] * 12, likelihood, len(live))
        with torch.no_grad():
            self.skip.zero_()[: len(live), :, 1, 1] = live.float()
            self.layers[0][:, :, 1, 1] = 0


@pytest.mark.parametrize(
    ("live", "message"),
    [
        (torch.eye(1), "the parameters of channel 0 depend on channel 0 of it"),
        (torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 0]]), "the parameters of channel 1 depend on channel 2 of it"),
    ],
)
def test_a_channel_that_sees_later_ones_is_refused(live: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"got one that reads its own pixel: {message}"):
        vf.PixelCNNSampler(Reads(live))


def test_words_of_an_older_version_are_refused() -> None:
    words = Plan(1, 1, (Stage(1, "none", -1, 0, (Source(0, ((0, -1),)),)),), (0,)).words
    with pytest.raises(ValueError, match="plan must be of version 4, got 3: make it anew"):
        Plan.from_words([3, *words[1:]])
    require("cpu")
    with pytest.raises(RuntimeError, match="plan must be of version 4: make it anew, got 3"):
        torch.ops.vlae_fast_cpu.pixelcnn_pack([torch.zeros(1, 1, 1), torch.zeros(1)], [3, *words[1:]], "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": (Draw(2, 1), Draw(1, 2), Draw(2, 2))}, r"stages before a draw\) must be in 2\.\.2, got 1"),
        ({"draws": (Draw(2, 2), Draw(2, 2))}, "have one draw of all channels, or one of each"),
        ({"draws": (Draw(1, 1), Draw(2, 3), Draw(2, 2))}, r"buffer of a draw\) must be in 1\.\.2, got 3"),
        ({"leads": (0, 1)}, "lead of stage 1 must be at most 0 where stage 0 before it reads it, got 1"),
        ({"leads": (1, 0)}, r"lead of stage 0 must be at most 0 to read buffer \d at \(0, -1\), got 1"),
    ],
)
def test_plans_that_no_library_takes(change: dict[str, object], message: str) -> None:
    """A hostile plan ends in an error of the C++ library, never in a read of what is not there."""
    require("cpu")
    left = ((0, -1),)
    stages = tuple(Stage(1, "none", -1, 0, (Source(0, left), Source(buffer, left))) for buffer in (2, 0))
    plan = Plan(3, 1, stages, (0, 0), Emit(), (Draw(1, 1), Draw(2, 2), Draw(2, 2)))._replace(**change)
    weights = [torch.zeros(1, 3, 1), torch.zeros(1, 1, 1), torch.zeros(1), *[torch.zeros(1, 3, 1)] * 2, torch.zeros(1)]
    with pytest.raises(RuntimeError, match=message):
        packed = torch.ops.vlae_fast_cpu.pixelcnn_pack(weights, plan.words, "")
        torch.ops.vlae_fast_cpu.pixelcnn_sample(torch.rand(1, 3, 2, 2), packed, plan.words, None, None, None, 1.0)
