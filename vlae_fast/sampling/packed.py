"""A decoder's weights, packed for a plan: what a sampler has before it draws, and how it stays up to date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import backends, reference
from ..backends import cpu
from ..layers.conv import is_expanded, without_expansion
from ..masks import Offset
from ..ops import pixelcnn_pack, pixelcnn_sample
from ..plan import Plan
from .agreement import largest_excess
from .emit import emit_of_plan, emit_params, random_images, write_program
from .fixed_order import Spread
from .levels import in_turn
from .live import live_weights
from .program import Decoder
from .schedule import derive
from .window import offsets_seen


class PackedDecoder:
    """The plan of a decoder, and its weights as they were at the last `refresh`. Arguments as in `PixelCNNSampler`."""

    def __init__(
        self,
        decoder: Decoder,
        backend: str = "auto",
        *,
        order: str = "wavefront",
        isa: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.decoder = decoder
        self._asked: dict[str, Any] = {"backend": backend, "order": order, "isa": isa, "dtype": dtype}
        self.program, emit = write_program(decoder), emit_of_plan(decoder)
        self._size = (int(decoder.image_size[0]), int(decoder.image_size[1]))
        parts = in_turn(self.program, emit, self._size)
        schedule = derive(parts.stages, self._size, order=order, draws=parts.draws)
        channels, weights = self.program.image_channels, parts.weights
        self.plan = Plan(channels, schedule.slope, parts.stages, schedule.leads, emit, parts.draws)
        self.steps = schedule.steps
        self._dtype, self._device = weights[0].dtype, weights[0].device
        self.dtype = held_in(self._dtype, dtype)
        self.backend = backends.pick("pixelcnn_sample", weights[0], backend, self.plan, self.dtype).name
        self.isa = isa_of(self.backend, isa, self.dtype)
        self._packed = self._pack(weights)
        self._live = live_weights(decoder, self.program, self.plan) if self.backend == "cpu" else None
        # a copy: training goes on, and a sampler stays what it was, as the packed weights do
        code_map = getattr(decoder, "code_map", None)
        wide = self.isa if self.isa in cpu.isas() else None  # the map of z stays in the decoder's dtype
        self._spread = None if code_map is None else self._spread_of(code_map, wide)
        self._refreshes = 0
        self._memory: list[Tensor] = []  # of runs in steps
        self._check_forward()

    def _spread_of(self, code_map: nn.Module, isa: str | None) -> Spread:
        return Spread(code_map, self.backend, isa)

    def _pack(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return pixelcnn_pack(weights, self.plan, backend=self.backend, isa=self.isa, dtype=self.dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes the decoder's weights as they are now: afterwards this is the sampler that a new one would be.

        The plan stays, and ``decoder.forward`` is not checked again. Where the plan would be another (of other layers,
        or where a weight between the channels of a pixel is zero that was not, or the reverse), all is made anew, with
        its checks. It is cheapest where weights are packed from where parameters have them: backend ``cpu``, no weight
        normalisation, no hooks, one image channel. A run that was started before it can not go on.

        Raises:
            ValueError: a weight is not finite; or as the constructor does, where all is made anew.
        """
        packed = None if self._live is None else self._live.repacked(self._packed[0])
        if packed is not None:
            self._packed = [packed]
            self.program.weights.clear()  # they are those of before
        elif not self._repack():
            fresh, refreshes = type(self)(self.decoder, **self._asked), self._refreshes
            self.__dict__.update(fresh.__dict__, _refreshes=refreshes)
        if self._spread is not None:
            self._spread.refresh(self.decoder.code_map)  # type: ignore[attr-defined]
        self._refreshes += 1

    def _repack(self) -> bool:
        """Writes the program anew and packs its weights; False where its plan would be another."""
        program, plan = write_program(self.decoder), self.plan
        parts = in_turn(program, plan.emit, self._size)
        code_map = getattr(self.decoder, "code_map", None)
        now = (parts.stages, parts.draws, parts.weights[0].dtype, parts.weights[0].device, code_map is None)
        same = now == (plan.stages, plan.draws, self._dtype, self._device, self._spread is None)
        if not same or emit_of_plan(self.decoder) != plan.emit or tuple(self.decoder.image_size) != self._size:
            return False
        self._packed = self._pack(parts.weights)
        self.program = program
        self._live = live_weights(self.decoder, program, plan) if self.backend == "cpu" else None
        return True

    @property
    def in_turn(self) -> bool:
        """True where the channels of a pixel are drawn one after the other, each given those before."""
        return len(self.plan.all_draws) > 1

    def offsets_seen(self) -> set[Offset]:
        """Offsets (dy, dx) of the pixels that a pixel's parameters depend on, by the taps of the program."""
        return offsets_seen(self.program.stages, self._size)

    def _check_z(self, z: Tensor | None) -> None:
        if hasattr(self.decoder, "check_z"):
            self.decoder.check_z(z)
        if z is None:
            return
        if z.dtype != self._dtype:
            raise TypeError(f"PixelCNNSampler: z must have the weights' dtype, {self._dtype}, got {z.dtype}")
        if not torch.isfinite(z).all():
            raise ValueError("PixelCNNSampler: z must be finite, got nan or inf")

    def _rows(self, z: Any) -> int | None:
        """The batch size that z asks for, None where it asks for none."""
        return None if z is None else len(z)

    def _context(self, z: Tensor | None, rows: int) -> Tensor | None:
        """The context of the gated layers, None without such layers: z itself, or its map, the same bits always.

        rows: of the batch.
        """
        if z is None or not self.program.context_dim:
            return None
        code = z.dim() == 2 or (is_expanded(z) and z.shape[1] == getattr(self.decoder, "latent_dim", 0))
        if self._spread is None or not code:
            return without_expansion(z)
        if z.shape[0] == 0:
            return z.new_empty((0, self.program.context_dim))
        return self._spread(without_expansion(z))

    @torch.no_grad()
    def params_of(self, x: Tensor, z: Any) -> Tensor:
        """The parameters ``[B, P, H, W]`` of all pixels of images x ``[B, C, H, W]``: one pass, every pixel known."""
        self._check_z(z)
        if self._rows(z) not in (None, len(x)):
            raise ValueError(f"PixelCNNSampler: z must have a row for each of {len(x)} images, got {self._rows(z)}")
        with torch.autocast(self._device.type, enabled=False):
            context = self._context(z, len(x))
            if self.backend == "reference":
                return reference.run_plan(self.plan, self._packed, context, x)
            noise = x.new_zeros((len(x), self.plan.emit.noises(x.shape[1]), *self._size))
            mask = torch.ones_like(x, dtype=torch.bool)
            return pixelcnn_sample(noise, self._packed, self.plan, context, mask, x, backend=self.backend)[1]

    @torch.no_grad()
    def _check_forward(self) -> None:
        """Compares with the decoder once: a `forward` of its own would be sampled wrongly in silence."""
        decoder, generator = self.decoder, torch.Generator().manual_seed(0)
        emit, channels = self.plan.emit, self.plan.image_channels
        x = random_images((1, channels, *self._size), emit.levels, generator).to(self._device, self._dtype)
        z = None
        if latent_dim := getattr(decoder, "latent_dim", self.program.context_dim):
            z = torch.randn(1, latent_dim, generator=generator, device="cpu").to(self._device, self._dtype)
        stages, weights = self.program.stages, self.program.weights
        with torch.autocast(self._device.type, enabled=False):
            expected, context = emit_params(decoder, decoder(x, z)), self._context(z, 1)
            own = None if context is None or self._spread is None or z is None else self._spread.network(z)
            results = [(self.params_of(x, z), self.dtype)]
            if self.dtype != self._dtype:  # its roundings would excuse another function
                results.insert(0, (reference.run_program(stages, weights, context, x), self._dtype))
            for got, dtype in results:
                # convolutions on a GPU may round their inputs to 10 bits
                eps = max(torch.finfo(dtype).eps, 0 if self._device.type == "cpu" else 2**-10)
                if error := largest_excess(expected, got, stages, weights, context, x, eps, own):
                    break
        if error:
            rule = "what its program computes, the same in every call"
            if not hasattr(decoder, "write_program"):
                rule = (
                    "initial_conv, decoder_layers and final_conv in turn (and in evaluation mode where it has dropout)"
                )
            raise ValueError(f"PixelCNNSampler: decoder.forward must be {rule}, got logits that differ by {error:.3g}")


def held_in(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of a sampler's weights and activations, `own` being the decoder's, or ValueError."""
    choices = [own, *(narrow for narrow in (torch.bfloat16, torch.float16) if own.itemsize > narrow.itemsize)]
    if dtype is not None and dtype not in choices:
        raise ValueError(f"PixelCNNSampler: dtype must be None or one of {', '.join(map(str, choices))}, got {dtype}")
    return dtype or own


def isa_of(backend: str, isa: str | None, dtype: torch.dtype) -> str | None:
    """The instruction set of a sampler that holds weights and activations in a dtype, or ValueError."""
    choices = cpu.isas(dtype) if backend == "cpu" else ()
    if isa is not None and isa not in choices:
        rule = f"one of {', '.join(choices)} on this machine" if choices else f"None for backend {backend!r}"
        raise ValueError(f"PixelCNNSampler: isa must be {rule}, got {isa!r}")
    return isa or next(iter(choices), None)
