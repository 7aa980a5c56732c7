"""A cached sampler for a decoder that was written for another sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import check_module, spelled, whole
from ...layers.hooked_weight import WEIGHT_HOOKS
from ...sampling.agreement import largest_excess
from ...sampling.emit import emit_of, emit_params, random_images
from ...sampling.fixed_order import FixedOrder
from ...sampling.made import MADESampler, without_autocast
from ...sampling.program import Program
from ...sampling.sampler import PixelCNNSampler
from ..probe import ProbeError, without_hooks
from .condition import Call, Condition, conditions, usual_call
from .decisions import check_answers, check_decisions
from .flattened import ForeignMADEImageSampler, sampler_of_pixels
from .mades import asked_of, sampler_of_vectors
from .operations import BATCH
from .output import check_bernoulli, check_layout, is_of_logits, pick
from .pixels import candidates, check_pixels
from .probabilities import refuse_probabilities
from .trace import Trace, TraceError, Written, as_it_is, kept_sizes, trace, uncompiled, write
from .writer import OverPixelsError

_ROWS = 3  # of the images that a program is compared on


class ForeignDecoder:
    """Any module ``decoder(x)`` or ``decoder(x, condition)`` as what `PixelCNNSampler` and `naive_sample` ask for.

    Arguments as in `fast_sampler`.
    """

    def __init__(
        self,
        decoder: nn.Module,
        image_shape: tuple[int, ...],
        *,
        latent_dim: int = 0,
        condition: Any = None,
        likelihood: Any = None,
        layout: str | None = None,
        pixels: Any = None,
        output: Any = None,
        call: Call | None = None,
    ) -> None:
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(f"fast_sampler: image_shape must be (C, H, W), all positive, got {tuple(image_shape)}")
        if whole("fast_sampler", "latent_dim", latent_dim) < 0:
            raise ValueError(f"fast_sampler: latent_dim must be 0 or more, got {latent_dim}")
        if latent_dim and condition is not None:
            raise ValueError(f"fast_sampler: latent_dim must be 0 where there is a condition, got {latent_dim}")
        if likelihood is not None and not hasattr(likelihood, "emit"):
            rule = "likelihood must be one of vlae_fast.models.make_likelihood, or None"
            raise ValueError(f"fast_sampler: {rule}, got {likelihood!r}")
        self.decoder, self.likelihood, self.latent_dim = decoder, likelihood, latent_dim
        self.emit = emit_of(self)
        self.params = getattr(likelihood, "params", self.emit.params(image_shape[0]))
        check_layout(layout, self.emit)
        check_pixels(pixels, self.emit.levels)
        self.input_dim, self.image_size = image_shape[0], (image_shape[1], image_shape[2])
        self.like = _like(decoder)
        self._layout, self._pixels, self._output, self._call = layout, pixels, output, call or usual_call
        self._given = condition
        self._written: Written | None = None  # known when it is traced, with the condition
        self.condition: Condition | None = None
        self._answers: list[Any] | None = None  # what a forward that asks for values was told
        self._of_logits: bool | None = None  # the last result, where it was a Bernoulli

    @property
    def code_map(self) -> nn.Module | None:
        """The network of what the stages see in place of the condition; None where they see it as it is."""
        return None if self._written is None else self._written.network

    def __call__(self, x: Tensor, z: Any) -> Tensor:
        """Parameters ``[B, P, H, W]`` of pixels in [0, 1], in the order of the likelihood."""
        return self.written.reading.params(self.output(x, z))

    @property
    def written(self) -> Written:
        if self._written is None:
            self.write_program(Program(self.input_dim))
        assert self._written is not None
        return self._written

    def output(self, x: Tensor, z: Any, decoder: nn.Module | None = None) -> Tensor:
        """The output of the decoder, or of a copy of it, in batches of the size that it is kept to."""
        written, condition = self.written, self.condition
        assert condition is not None
        return self._in_batches(decoder or self.decoder, written.pixels.of(x), condition.tensors_of(z), written.batch)

    def _in_batches(self, decoder: nn.Module, x: Tensor, tensors: Sequence[Tensor], batch: int) -> Tensor:
        if batch == BATCH:
            return self._run(decoder, x, tensors)
        parts = []
        for at in range(0, len(x), batch):
            rows = [t[at : at + batch] for t in (x, *tensors)]
            count = len(rows[0])
            rows = [torch.cat([t, *[t[-1:]] * (batch - count)]) for t in rows]
            parts.append(self._run(decoder, rows[0], rows[1:])[:count])
        return torch.cat(parts)

    def _run(self, decoder: nn.Module, x: Tensor, tensors: Any) -> Tensor:
        assert self.condition is not None
        with as_it_is(decoder), torch.no_grad(), torch.autocast(x.device.type, enabled=False), uncompiled():
            result = self._call(decoder, x, self.condition.rebuilt(tensors))
            self._of_logits = is_of_logits(result)
            height, width = self.image_size
            return pick(result, self._output, len(x) * self.params * height * width)

    def check_z(self, z: Any) -> None:
        """Raises ValueError unless z is like the example, ``[B, latent_dim]``, or None where there is neither."""
        if self.condition is None:
            self.write_program(Program(self.input_dim))
        assert self.condition is not None
        self.condition.tensors_of(z)

    def write_program(self, program: Program) -> None:
        """Appends what a trace of the decoder finds; raises ValueError as `fast_sampler` does."""
        self.like = _like(self.decoder)  # it may have been moved since
        with torch.autocast(self.like.device.type, enabled=False):  # the same inside and outside
            traced = self._trace()
            self._written = write(traced, program, self.emit, self.params, self._pixels, self._layout)
            if self.emit.kind == "bernoulli":
                check_bernoulli(self._of_logits, self._written.reading.ends == "sigmoid")
            self._answers = self._checked_answers(traced.like) if traced.decides else None

    def check_answers(self, z: Any) -> None:
        """Raises ValueError where a forward that asks for values branches otherwise for the condition z, on zeros."""
        if self._answers is None:
            return
        assert self.condition is not None
        if tensors := self.condition.tensors_of(z):
            rows, batch = len(tensors[0]), self.written.batch
            x = self.written.pixels.of(self.like.new_zeros(rows, self.input_dim, *self.image_size))
            calls = 1 if batch == BATCH else -(-rows // batch)
            check_answers(lambda: self._in_batches(self.decoder, x, tensors, batch), self._answers, calls)

    def _checked_answers(self, like: Tensor) -> list[Any]:
        condition, pixels, generator = self.condition, self.written.pixels, torch.Generator().manual_seed(1)
        assert condition is not None

        def run(x: Tensor, n: int) -> None:
            rows = condition.rows(len(x)) if n == 0 else condition.random_rows(len(x), generator, True)
            self._run(self.decoder, pixels.of(x), rows)

        return check_decisions(run, like, self.emit.levels)

    def _trace(self) -> Trace:
        """The first trace that succeeds, of all ways in which the decoder may be called."""
        shape = (self.input_dim, *self.image_size)
        errors: list[tuple[Any, TraceError]] = []
        for batch in dict.fromkeys((BATCH, *kept_sizes(self.decoder))):
            for condition in conditions(self._given, self.latent_dim, self.like):
                for pixels in candidates(self._pixels, (shape[0], shape[1], shape[2]), self.emit.levels):
                    self.condition = condition
                    try:
                        return trace(self._copied(), self._run, pixels, condition, self.like.new_zeros(batch, *shape))
                    except TraceError as error:
                        errors.append((pixels, error))
        raise ValueError(f"fast_sampler: decoder must be traceable by torch.fx, got {_telling(errors)}")

    def _copied(self) -> nn.Module:
        try:
            return without_hooks(self.decoder).eval()
        except ProbeError as reason:
            rule = "decoder must be one that can be copied"
            raise ValueError(f"fast_sampler: {rule}, got one where {reason}") from reason


def _telling(errors: list[tuple[Any, TraceError]]) -> TraceError:
    """The error of the call that went farthest, of integers alone where real numbers are no index."""
    wants_index = any(word in str(errors[0][1]) for word in ("indices", "Long", "Int", "index tensor"))
    fitting = [error for pixels, error in errors if wants_index and pixels.integer]
    return max(fitting or [error for _, error in errors], key=lambda error: error.calls)


def _has_hooks(decoder: nn.Module) -> bool:
    """True where a part has a hook beside those that compute its weight."""
    hooks = [h for m in decoder.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return any(not isinstance(hook, WEIGHT_HOOKS) for hook in hooks)


def _like(decoder: nn.Module) -> Tensor:
    """A number of the dtype and device that a decoder computes with."""
    own = [*decoder.parameters(), *decoder.buffers()]
    if any(map(nn.parameter.is_lazy, own)):
        raise ValueError("fast_sampler: decoder must have been called once, got one with lazy parameters")
    tensors = [t.detach() for t in own if t.is_floating_point()]
    if next(decoder.parameters(), None) is None or not tensors:
        raise ValueError(f"fast_sampler: decoder must have parameters, got {type(decoder).__name__} with none")
    return tensors[0].new_zeros(())


class ForeignSampler(PixelCNNSampler):
    """`PixelCNNSampler` of a `ForeignDecoder`: z may be a condition of any structure."""

    decoder: ForeignDecoder

    def _check_z(self, z: Any) -> None:
        self.decoder.check_z(z)

    def _rows(self, z: Any) -> int | None:
        tensors = self._tensors(z)
        return len(tensors[0]) if tensors else None

    def _tensors(self, z: Any) -> list[Tensor]:
        assert self.decoder.condition is not None
        return self.decoder.condition.tensors_of(z)

    def _context(self, z: Any, rows: int) -> Tensor | None:
        """The context that the stages see, of the condition and of constant maps: the same bits in any batch."""
        try:
            if rows:
                self.decoder.check_answers(z)
            return self._context_of(z, rows)
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError) as error:  # a label that has no row
            first, *_ = f"{type(error).__name__}: {error}".splitlines()
            raise ValueError(f"fast_sampler: condition must be one that decoder runs on, got {first}") from error

    def _context_of(self, z: Any, rows: int) -> Tensor | None:
        if not self.program.context_dim:
            return None
        if self._spread is None:
            return super()._context(z, rows)
        tensors, network = self._tensors(z), self._spread.network
        if not rows:
            one = network(*(t for t in self.decoder.condition.rows(1)))  # type: ignore[union-attr]
            return one[:0]
        fixed = self._spread.is_fixed and self._device.type == "cpu"
        with FixedOrder(self._spread.products) if fixed else torch.no_grad():
            if not tensors:  # constants alone
                one = network()
                return one.expand(rows, *one.shape[1:]).contiguous()
            return torch.cat([network(*(t[i : i + 1].clone() for t in tensors)) for i in range(rows)])

    def _output_of_one(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor | None:
        """The decoder's output for the first image alone, None where it does not run on one."""
        condition = self.decoder.condition
        assert condition is not None
        try:
            return self.decoder.output(x[:1], condition.rebuilt([t[:1] for t in tensors]))
        except Exception:  # as by a `squeeze` of all dimensions
            return None

    @torch.no_grad()
    def _check_forward(self) -> None:
        """Compares the program with the decoder's own output once, on three images and as many conditions.

        So many were not traced. The first is compared by itself as well: a forward may ask for the size of its batch.
        """
        decoder, generator, emit = self.decoder, torch.Generator().manual_seed(0), self.plan.emit
        channels, condition = self.plan.image_channels, decoder.condition
        assert condition is not None
        x = random_images((_ROWS, channels, *self._size), emit.levels, generator).to(self._device, self._dtype)
        tensors = condition.random_rows(_ROWS, generator)
        z = condition.rebuilt(tensors)
        with torch.autocast(self._device.type, enabled=False):
            output, context = decoder.output(x, z), self._context(z, _ROWS)
            reading, got = decoder.written.reading, self.params_of(x, z)
            finished = None if reading.ends is None else reading.finished
            if finished is not None:
                got = finished(got)
            eps = max(torch.finfo(self._dtype).eps, 0 if self._device.type == "cpu" else 2**-10)
            own = None
            if context is not None and self._spread is not None:
                parts = [self._spread.network(*(t[i : i + 1] for t in tensors)) for i in range(_ROWS if tensors else 1)]
                own = torch.cat(parts).expand_as(context)
            stages, weights, bounded = self.program.stages, self.program.weights, reading.ends in ("sigmoid", "softmax")

            def excess(output: Tensor) -> float:
                if finished is None:
                    expected = emit_params(decoder, reading.params(output))
                else:
                    expected = reading.normalised(reading.own(output))
                n = len(expected)
                maps = [None if t is None else t[:n] for t in (context, own)]
                return largest_excess(
                    expected, got[:n], stages, weights, maps[0], x[:n], eps, maps[1], finished, bounded
                )

            error = excess(output)
            if not error and (alone := self._output_of_one(x, tensors)) is not None:
                error = excess(alone)
        if error:
            rule = "decoder.forward must be what its program computes, the same in every call and for every batch size"
            if _has_hooks(decoder.decoder):
                rule = f"{rule}, without its hooks, which are not traced"
            what = "logits" if finished is None else "probabilities" if bounded else "log-probabilities"
            raise ValueError(f"fast_sampler: {rule}, got {what} that differ by {error:.3g}")
        if emit.kind == "bernoulli" and finished is None:
            refuse_probabilities(decoder._copied(), lambda copied: decoder.output(x, z, copied))


def _sides(image_shape: Any) -> tuple[int, ...]:
    """The shape as integers; raises TypeError where it is no sequence of them."""
    try:
        sides = tuple(image_shape)
    except TypeError:
        rule = "image_shape must be (C, H, W), or (D,) of a MADE"
        raise TypeError(f"fast_sampler: {rule}, got {spelled(image_shape)}") from None
    return tuple(whole("fast_sampler", "each of image_shape", n) for n in sides)


@contextmanager
def _off_meta() -> Iterator[None]:
    """The CPU as default device where that is meta, as under ``torch.device("meta")``: nothing is computed there."""
    with torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext():
        yield


@_off_meta()
def fast_sampler(
    decoder: nn.Module,
    image_shape: tuple[int, ...],
    *,
    latent_dim: int = 0,
    condition: Any = None,
    likelihood: Any = None,
    layout: str | None = None,
    pixels: tuple[float, float] | str | None = None,
    output: Any = None,
    call: Call | None = None,
    levels: int | Sequence[int] | None = None,
    backend: str = "auto",
    isa: str | None = None,
) -> PixelCNNSampler | MADESampler | ForeignMADEImageSampler:
    """A cached wavefront sampler of anyone's PixelCNN decoder, with its current weights.

    Its forward is traced by torch.fx in evaluation mode, and what it does to x and its condition becomes a program:
    masked convolutions of any kind (padded and cropped ones too), linear layers over channels, sums, concatenations,
    products, activations, batch normalisation and normalisation over channels, in whatever dimensions channels stand.
    The condition may enter through any network, and constants may differ from pixel to pixel. What is looked up by a
    pixel's level (`nn.Embedding`, `torch.nn.functional.one_hot`, thresholds) is read off at every level of the
    likelihood, however it is written, where images have one channel and at most 1,024 levels. Causal self-attention
    over all pixels before may be masked and scaled in any way; it is drawn in raster order. The program is checked
    against that forward.

    The channels of a pixel may see each other (masks that let G see R): they are drawn one after the other, in no more
    steps. What cannot be expressed (attention to a part of the pixels before, for one) ends in an error that says what
    it is, and where.

    Args:
        decoder: a module ``decoder(x [B, C, H, W])``, or ``decoder(x, condition)``, that returns the parameters of its
            likelihood. It may also take ``[B, H, W]`` or ``[B, H, W, C]``, or with H = 1 sequences ``[B, C, W]`` and
            ``[B, W]``: the first that it runs on is taken.
        image_shape: (C, H, W); or (D,) of a MADE ``x [B, D] -> logits`` of bits or levels, whose sampler is a
            `MADESampler`; beside `levels` it takes `likelihood`, `pixels` (also ``"one_hot"``), `layout` (``BDK``,
            ``BKD``), `output`, `call` and `backend`.
        latent_dim: D of a condition z ``[B, D]`` of real numbers; 1: of labels ``[B]`` where it runs on these alone.
            0: no z.
        condition: an example of what the decoder is called with beside x: a tensor ``[B, ...]`` of any dtype, a tuple
            (by place) or a dict (by name) of tensors. ``sampler.sample`` takes the same.
        likelihood: of `vlae_fast.models.make_likelihood`; None: Bernoulli pixels. Probabilities at the end are
            theirs: of Bernoulli pixels ``a sigmoid(v) + b`` or ``a tanh(v) + b`` from 0 to 1, of a categorical one a
            softmax or log_softmax over the levels.
        layout: the order of the letters B, C, K, H, W in the outputs of a categorical likelihood, joined or not:
            ``BCKHW`` (the K levels of a channel side by side), ``BKCHW`` (as `torch.nn.functional.cross_entropy` takes
            them), ``BHWCK``. It must be given for more than one channel where the output's dimensions do not tell.
            Of a mixture of logistics, the order of C, K, T behind its K logits, T being means, log scales and
            coefficients: ``TCK`` as `make_likelihood` has it, or ``CTK`` as the code of PixelCNN++. It must be given
            for three channels, for no comparison can tell.
        pixels: what the decoder is given for level 0 and level K - 1, ``(low, high)``; ``"index"``: the levels
            themselves, of dtype long where it takes that. None: ``(0, 1)``, unless forward shows that it takes levels:
            it runs on integers alone, divides by K - 1 first, or looks up what numbers in [0, 1] would not reach.
            Images that the sampler returns are in [0, 1] in any case.
        output: the index or name of the parameters in what the decoder returns; None: the one tensor that fits.
        call: ``call(decoder, x, condition)`` where the decoder is called otherwise, say ``decoder(condition, x)``.
        levels: of a MADE: K of every dimension, or one for each; None: of its likelihood, bits where that is None.
        backend: ``auto`` or a name of `vlae_fast.backends.report`. isa: as in `PixelCNNSampler`.

    Raises:
        ValueError: the decoder cannot be traced, or does something that a program cannot express: says what and where.
        RuntimeError: the named backend cannot run this; says why.

    >>> from vlae_fast import MaskedConv2d
    >>> decoder = nn.Sequential(MaskedConv2d("A", 1, 8, 7), nn.ReLU(), nn.Conv2d(8, 1, 1))
    >>> fast_sampler(decoder, (1, 28, 28)).sample(None).shape
    torch.Size([1, 1, 28, 28])
    """
    check_module("fast_sampler", "decoder", decoder)
    if any(t.is_meta for t in (*decoder.parameters(), *decoder.buffers())):
        raise ValueError("fast_sampler: decoder must have weights of numbers, got some on the device meta")
    image_shape = _sides(image_shape)
    if len(image_shape) == 1:
        others = {"latent_dim": latent_dim or None, "condition": condition, "isa": isa}
        asked = asked_of(image_shape[0], likelihood, levels, pixels, layout, call, output)
        with without_autocast():
            return sampler_of_vectors(decoder, asked, others, backend)
    if levels is not None:
        raise ValueError(f"fast_sampler: levels must be those of a likelihood for images, got levels={levels!r}")
    traced = ForeignDecoder(
        decoder,
        image_shape,
        latent_dim=latent_dim,
        condition=condition,
        likelihood=likelihood,
        layout=layout,
        pixels=pixels,
        output=output,
        call=call,
    )
    try:
        return ForeignSampler(traced, backend, isa=isa)
    except OverPixelsError:
        given = (latent_dim or None, condition, likelihood, layout, output, call, isa)
        with without_autocast():
            made = (
                None if any(v is not None for v in given) else sampler_of_pixels(decoder, image_shape, pixels, backend)
            )
        if made is None:
            raise
        return made
