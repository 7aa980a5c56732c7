"""The sampling program: what a decoder computes at a pixel, and when. Read by every backend of `pixelcnn_sample`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from typing import NamedTuple

from torch import Tensor, finfo

from . import activations
from .arguments import spelled
from .masks import Offset

PLAN_VERSION = 4
ACTIVATIONS = activations.names("pixelcnn_sample")  # the index is the code in a plan

# Beyond, logits over the temperature, or scales times it, leave float64: what is drawn then depends on who draws.
TEMPERATURES = (1e-100, 1e100)
EMITS = ("bernoulli", "categorical", "logistic_mixture", "affine")  # likewise; every backend draws them
KINDS = ("sum", "norm", "attend")  # of a stage, likewise


def check_temperature(op: str, temperature: float) -> None:
    """Raises ValueError in the name of `op` unless a temperature is in its range."""
    least, most = TEMPERATURES
    try:
        fits = bool(least <= temperature <= most)
    except (TypeError, ValueError, RuntimeError):  # a text; arrays and tensors of several numbers
        raise TypeError(f"{op}: temperature must be a number, got {spelled(temperature)}") from None
    if not fits:
        raise ValueError(f"{op}: temperature must be in [{least}, {most}], got {temperature}")


class Emit(NamedTuple):
    """How a pixel is drawn from the last buffer, see `vlae_fast.reference.pixelcnn_draw.draw` for the formulas.

    An image of C channels is drawn from P parameters a pixel and n planes of noise, by kind:

        bernoulli          P = C                            n = C      x in {0, 1}
        categorical        P = C levels                     n = C      x in {k / (levels - 1)}
        logistic_mixture   P = K (1 + 2 C + C (C - 1) / 2)  n = C + 1  likewise, or with levels = 0 x in [0, 1];
                                                                       K = components
        affine             P = 2 C                          n = C      any x: shift + exp(log_scale) * noise

    A plan has one of EMITS. Where pixels are drawn in one pass, without a plan, there is one kind more:

        continuous_bernoulli  P = C                         n = C      x in [0, 1]
    """

    kind: str = "bernoulli"
    levels: int = 2  # 0 where x is continuous
    components: int = 0  # of a mixture

    def params(self, channels: int) -> int:
        """P, the parameters of a pixel, for an image of so many channels."""
        mixture = self.components * (1 + 2 * channels + channels * (channels - 1) // 2)
        counts = {"categorical": channels * self.levels, "logistic_mixture": mixture, "affine": 2 * channels}
        return counts.get(self.kind, channels)

    @property
    def by_channel(self) -> bool:
        """True where the parameters of a channel are its own, so that it can be drawn before those of the next."""
        return self.kind != "logistic_mixture"

    def params_of(self, channel: int, channels: int) -> list[int]:
        """Which of the P parameters are those of one channel, where they are ``by_channel``."""
        if self.kind == "affine":
            return [channel, channels + channel]
        each = self.params(channels) // channels
        return list(range(channel * each, (channel + 1) * each))

    @property
    def rule(self) -> str:
        """The values that a pixel may have, in words."""
        if not self.levels:
            return "from 0 to 1" if self._is_bounded else "finite"
        top = self.levels - 1
        return "0 or 1" if top == 1 else f"k / {top} for k = 0..{top}"

    def holds(self, x: Tensor) -> Tensor:
        """True where a pixel is a level, up to a few roundings of its dtype; without levels, where `rule` holds."""
        if not self.levels:
            return (x >= 0) & (x <= 1) if self._is_bounded else x.isfinite()
        k = (x * (self.levels - 1)).round()
        return (x - k / (self.levels - 1)).abs().le(4 * finfo(x.dtype).eps) & (k >= 0) & (k < self.levels)

    @property
    def _is_bounded(self) -> bool:
        return self.kind in ("continuous_bernoulli", "logistic_mixture")

    def noises(self, channels: int) -> int:
        """n, the planes of noise, for an image of so many channels."""
        return channels + (self.kind == "logistic_mixture")

    @property
    def noise_is_normal(self) -> bool:
        """True where noise is standard normal, False where it is uniform in [0, 1)."""
        return self.kind == "affine"


BERNOULLI = Emit()


class Sites(NamedTuple):
    """The pixels (i, j) with ``i % stride == row`` and ``j % stride == column``; by default all."""

    stride: int = 1
    row: int = 0
    column: int = 0

    def of(self, x: Tensor) -> Tensor:
        """These pixels of ``x [..., H, W]``, a view."""
        return x[..., self.row :: self.stride, self.column :: self.stride]

    def meet(self, others: Sites, tap: Offset) -> bool:
        """True where a pixel of these, moved by `tap`, is one of the others."""
        step = gcd(self.stride, others.stride)
        return (self.row + tap[0] - others.row) % step == 0 == (self.column + tap[1] - others.column) % step


EVERYWHERE = Sites()
MAX_STRIDE = 16


class Source(NamedTuple):
    """A read of ``buffer`` (0: the image, s + 1: the output of stage s) at ``taps``."""

    buffer: int
    taps: tuple[Offset, ...]


class Stage(NamedTuple):
    """``out = act(pre) * buffer[factor] + buffer[residual]``, both at its own pixel, by kind::

        sum    pre = bias + V context + sum over sources, taps of W[:, :, tap] buffer[. + tap]
        norm   pre = bias + gain (h - mean h) / sqrt(var h + eps), h the channels of its one source at its own pixel
        attend pre = sum over pixels p that it sees of softmax(scale q . k[p]) v[p], by heads

    The variance is that of the channels, not an estimate. The three sources of attention are q at its own pixel, then
    k and v at one tap: (0, 0), or (0, -1). All pixels up to this tap in raster order are seen, those of all rows above
    among them; the first pixel, which sees none before it, gets 0. Head n has the n-th of `heads` equal parts of the
    channels of q, k, v and the result. Weights in turn: of a sum one ``[P, C, taps]`` per source, the bias ``[P]``, V
    ``[P, D]`` where it has a context; of a norm gain ``[C]``, bias ``[C]``, eps ``[1]``; of attention scale ``[1]``.

    A stage computes the pixels of its sites alone, and other stages read it there alone: taps count in pixels of the
    image at every stride. Stages that join a buffer have other sites of one stride, so that phases fill an image.
    Attention is everywhere.
    """

    out_channels: int  # after the activation; the pre-activation of gate and glu has twice as many
    activation: str  # one of ACTIVATIONS
    residual: int  # a buffer, or -1
    context_dim: int  # D of the context that V maps to the pre-activation, 0 for none
    sources: tuple[Source, ...]  # that it reads
    kind: str = "sum"  # one of KINDS
    factor: int = -1  # a buffer, or -1
    sites: Sites = EVERYWHERE  # that it computes
    joins: int = -1  # the buffer of an earlier stage of equal channels that it writes, or -1: its own
    heads: int = 0  # of attention, else 0

    @property
    def reads(self) -> list[tuple[int, Offset]]:
        """(buffer, tap) of all that it reads; of what attention sees the last pixel of its own row."""
        reads = [(source.buffer, tap) for source in self.sources for tap in source.taps]
        return reads + [(buffer, (0, 0)) for buffer in (self.residual, self.factor) if buffer >= 0]

    def reads_of_row(self, width: int) -> list[tuple[int, Offset]]:
        """`reads`, and the last pixel of the row above that attention sees, of an image of this width."""
        seen = self.sources[1:] if self.kind == "attend" else ()
        return [*self.reads, *((source.buffer, (-1, width - 1)) for source in seen)]

    @property
    def n_weights(self) -> int:
        """How many tensors its weights are."""
        return {"norm": 3, "attend": 1}.get(self.kind, len(self.sources) + 1 + (self.context_dim > 0))

    def writes(self, index: int) -> int:
        """The buffer that it writes as the stage of that index."""
        return index + 1 if self.joins < 0 else self.joins


class Draw(NamedTuple):
    """Draws from the parameters in a buffer when the first `after` stages of a step have run."""

    after: int
    buffer: int


class Link(NamedTuple):
    """A read of what stage `writer` (-1: the draws) puts into a buffer, at a tap."""

    writer: int
    buffer: int
    tap: Offset


def links(stages: Sequence[Stage], width: int = 1) -> list[list[Link]]:
    """The reads of each of the `stages`, those of joined buffers as one for each stage whose pixels they meet.

    width: of the image, whose last column attention sees in the row above.

    Raises:
        ValueError: a stage reads pixels that none computes.
    """
    writers = [writers_of(stages, buffer) for buffer in range(len(stages) + 1)]
    found: list[list[Link]] = [[] for _ in stages]
    for s, stage in enumerate(stages):
        for buffer, tap in stage.reads_of_row(width):
            met = computed_by(stages, writers[buffer], stage.sites, tap)
            if not met:
                rule = f"stage {s}, of sites {tuple(stage.sites)}, must read pixels that stages compute"
                raise ValueError(f"pixelcnn_sample: plan: {rule}, got buffer {buffer} at {tap}")
            found[s] += [Link(writer, buffer, tap) for writer in met]
    return found


def writers_of(stages: Sequence[Stage], buffer: int) -> list[int]:
    """The stages that write a buffer, none that of a stage which joins another's; of the image [-1], the draws."""
    return [s for s, stage in enumerate(stages) if stage.writes(s) == buffer] if buffer else [-1]


def computed_by(stages: Sequence[Stage], writers: Sequence[int], sites: Sites, tap: Offset) -> list[int]:
    """A buffer's `writers` that compute what is read at a tap from `sites`; none where a pixel has none."""
    if writers == [-1]:
        return [-1]
    met = [w for w in writers if sites.meet(stages[w].sites, tap)]
    stride = stages[writers[0]].sites.stride if writers else 0
    return met if len(met) == (stride // gcd(stride, sites.stride)) ** 2 else []


def computable(stages: Sequence[Stage]) -> list[int]:
    """Indices of the `stages` in an order in which each comes after those that it reads.

    Raises:
        ValueError: stages read each other in a circle.
    """
    wanted = [{link.writer for link in own} - {-1} for own in links(stages)]
    done: dict[int, None] = {}
    while len(done) < len(stages):
        ready = [s for s in range(len(stages)) if s not in done and wanted[s] <= done.keys()]
        if not ready:
            left = [s for s in range(len(stages)) if s not in done]
            raise ValueError(f"pixelcnn_sample: plan must have no circle of stages, got one of {left}")
        done.update(dict.fromkeys(ready))
    return list(done)


def all_draws(n_stages: int, draws: tuple[Draw, ...]) -> tuple[Draw, ...]:
    """`draws`, or where there is none that of all channels behind the last of `n_stages`."""
    return draws or (Draw(n_stages, n_stages),)


class Plan(NamedTuple):
    """A program and its schedule.

    Stage s computes pixel (i, j) of its sites at step ``j + slope * i - leads[s]``, and pixel (i, j) is drawn at
    ``j + slope * i``. In a step the stages run in turn, and draws between them: one draw of all channels, or draw c of
    channel c. A stage behind draw c, and not behind draw c + 1, reads 0 for the channels after c of its own pixel.
    ``words`` is the plan as integers::

        version, image channels, emit's kind, levels and components, slope, number of stages, then per stage:
            out_channels, activation, residual, context_dim, lead, kind, factor, stride, row and column of the sites,
            joins, heads, number of sources, then per source:
                buffer, number of taps, dy, dx, dy, dx, ...
        then the number of draws, and per draw: after, buffer
    """

    image_channels: int  # C
    slope: int  # steps from a row to the one below
    stages: tuple[Stage, ...]  # in turn; stage s writes buffer s + 1, and reads those of this step and of steps before
    leads: tuple[int, ...]  # of each stage: how many steps it is ahead of the pixel
    emit: Emit = BERNOULLI  # how a pixel is drawn
    draws: tuple[Draw, ...] = ()  # none: one, behind the last stage

    @property
    def all_draws(self) -> tuple[Draw, ...]:
        """The draws, the one behind the last stage included."""
        return all_draws(len(self.stages), self.draws)

    @property
    def links(self) -> list[list[Link]]:
        """`links` of the stages."""
        return links(self.stages)

    def writers(self, buffer: int) -> list[int]:
        """`writers_of` a buffer."""
        return writers_of(self.stages, buffer)

    @property
    def words(self) -> list[int]:
        """The plan as integers, which an op can be given."""
        return list(_words(self))

    @staticmethod
    def from_words(words: Sequence[int]) -> Plan:
        """The plan that `words` were made from."""
        return _plan(tuple(words))


# Every call of a sampler converts its plan both ways; uncached, that would show beside an image of under a millisecond.
@lru_cache(maxsize=64)
def _words(plan: Plan) -> tuple[int, ...]:
    emit = (EMITS.index(plan.emit.kind), plan.emit.levels, plan.emit.components)
    words = [PLAN_VERSION, plan.image_channels, *emit, plan.slope, len(plan.stages)]
    for stage, lead in zip(plan.stages, plan.leads, strict=True):
        words += [stage.out_channels, ACTIVATIONS.index(stage.activation), stage.residual, stage.context_dim, lead]
        words += [KINDS.index(stage.kind), stage.factor, *stage.sites, stage.joins, stage.heads, len(stage.sources)]
        for source in stage.sources:
            words += [source.buffer, len(source.taps), *(d for tap in source.taps for d in tap)]
    words += [len(plan.all_draws), *(word for draw in plan.all_draws for word in draw)]
    return tuple(words)


@lru_cache(maxsize=64)
def _plan(words: tuple[int, ...]) -> Plan:
    it = iter(words)
    if (version := next(it)) != PLAN_VERSION:
        raise ValueError(f"pixelcnn_sample: plan must be of version {PLAN_VERSION}, got {version}: make it anew")
    image_channels, emit = next(it), Emit(EMITS[next(it)], next(it), next(it))
    slope, n_stages = next(it), next(it)
    stages, leads = [], []
    for _ in range(n_stages):
        out_channels, activation, residual, context_dim, lead, kind, factor = (next(it) for _ in range(7))
        sites, joins, heads, n_sources = Sites(next(it), next(it), next(it)), next(it), next(it), next(it)
        sources = []
        for _ in range(n_sources):
            buffer, n_taps = next(it), next(it)
            sources.append(Source(buffer, tuple((next(it), next(it)) for _ in range(n_taps))))
        own = (out_channels, ACTIVATIONS[activation], residual, context_dim, tuple(sources))
        stages.append(Stage(*own, KINDS[kind], factor, sites, joins, heads))
        leads.append(lead)
    draws = tuple(Draw(next(it), next(it)) for _ in range(next(it)))
    return Plan(
        image_channels, slope, tuple(stages), tuple(leads), emit, () if draws == all_draws(n_stages, ()) else draws
    )
