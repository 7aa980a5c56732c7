"""Contract of `pixelcnn_step`: a run of a sampling program, stopped before each draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..plan import Plan, check_temperature
from ..reference.pixelcnn_step import Place, RunState, places_of, write_params


class PixelCNNRun:
    """A run of a plan on a batch: the ``params`` of the draw at a ``place``, and ``put``, which says what is drawn.

    The parameters have the bits that `pixelcnn_sample` draws from, given the same pixels. A backend without steps of
    its own (triton, cuda) computes them, and what `draw` draws, by a whole pass of its `pixelcnn_sample` each.

    Args:
        packed, plan, context: as in `pixelcnn_sample`. batch, size: B and (H, W). backend: a name.
        like: a tensor of the dtype and device of the images.
        memory: where a run that was closed left what the next one may take.
    """

    def __init__(
        self,
        packed: Sequence[Tensor],
        plan: Plan,
        context: Tensor | None,
        batch: int,
        size: tuple[int, int],
        like: Tensor,
        backend: str,
        memory: list[Tensor],
    ) -> None:
        row: Any = backends.pick("pixelcnn_sample", like, backend, plan).namespace
        self._row = row if hasattr(row, "pixelcnn_step") else _Passes(row)
        self._checks_itself = getattr(row, "pixelcnn_step_checks_numbers", False)
        channels = plan.image_channels
        images, logits = (like.new_zeros((batch, n, *size)) for n in (channels, plan.emit.params(channels)))
        state = RunState(images, logits, list(packed), plan, context)
        self.state, self.batch = state._replace(own=self._row.pixelcnn_start(state, memory)), batch
        self._memory, self._noise = memory, (batch, plan.emit.noises(channels), *size)
        self.places = places_of(plan, size, like.device)
        self.at = 0  # of the places
        self.params: Tensor = self._row.pixelcnn_step(self.state, None, None, self.places[0])

    def close(self) -> None:
        """Ends the run; nothing is put or drawn after it."""
        caches = getattr(self.state.own, "caches", None)
        if caches is not None:
            self._memory.append(caches)
        self.state = self.state._replace(own=None)

    @property
    def place(self) -> Place:
        return self.places[self.at]

    def _in_own_dtype(self, call: Callable[..., Any], *args: Any) -> Any:
        """The same bits inside autocast and outside: the caller's loop may stand in it."""
        device = self.state.images.device.type
        if not torch.is_autocast_enabled(device):
            return call(*args)
        with torch.autocast(device, enabled=False):
            return call(*args)

    def put(self, values: Tensor) -> None:
        """Takes the values ``[B, C of the draw, pixels]`` of the place, and moves to the next.

        Raises:
            ValueError: a value is none of the emit's.
        """
        if not self._checks_itself:
            check_values(self.state, values)
        following = self.places[self.at + 1] if self.at + 1 < len(self.places) else None
        self.params = self._in_own_dtype(self._row.pixelcnn_step, self.state, self.places[self.at], values, following)
        self.at += 1

    def draw(self, noise: Tensor, temperature: float) -> Tensor:
        """The values that `pixelcnn_sample` draws at the place.

        noise: of the images ``[B, n, H, W]``, or of the draw ``[B, n of the draw, pixels]``.
        """
        place, whole = self.places[self.at], self._noise
        if noise.dtype != self.params.dtype or (
            noise.shape != whole and noise.shape != (self.batch, len(place.noises), place.n_pixels)
        ):
            own = [self.batch, len(place.noises), place.n_pixels]
            rule = f"noise must be {self.params.dtype} {list(whole)} or {own}"
            raise ValueError(f"pixelcnn_step: {rule}, got {noise.dtype} {list(noise.shape)}")
        check_temperature("pixelcnn_step", temperature)
        if not self._checks_itself:
            check_noise(
                noise if noise.dim() == 3 else place.of(noise, place.noises), self.state.plan.emit.noise_is_normal
            )
        values: Tensor = self._in_own_dtype(
            self._row.pixelcnn_step_draw,
            self.state,
            place,
            self.params,
            noise.detach() if noise.requires_grad else noise,
            temperature,
        )
        return values


class _Passes:
    """Steps by whole passes of a backend's sampler, in which all pixels but those of the place are known."""

    def __init__(self, row: ModuleType) -> None:
        self.row = row

    def pixelcnn_start(self, state: RunState, memory: list[Tensor]) -> None:
        return None

    def pixelcnn_step(
        self, state: RunState, place: Place | None, values: Tensor | None, following: Place | None
    ) -> Tensor:
        if place is not None and values is not None:
            state.images[:, place.channels, place.rows, place.columns] = values
        if following is None:
            return state.logits.new_empty(len(state.logits), 0, 0)
        _, logits = self._pass(
            state, state.images.new_zeros(self._noise(state)), torch.ones_like(state.images, dtype=torch.bool)
        )
        params = following.of(logits, following.params)
        write_params(state, following, params)
        return params

    def pixelcnn_step_draw(
        self, state: RunState, place: Place, params: Tensor, noise: Tensor, temperature: float
    ) -> Tensor:
        if noise.dim() == 3:
            own, noise = noise, noise.new_zeros(self._noise(state))
            at = torch.tensor(place.noises, device=noise.device)
            noise[:, at[:, None], place.rows, place.columns] = own
        known = torch.ones_like(state.images, dtype=torch.bool)
        known[:, place.channels, place.rows, place.columns] = False
        return place.of(self._pass(state, noise, known, temperature)[0], place.channels)

    def _pass(self, state: RunState, noise: Tensor, known: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        drawn: tuple[Tensor, Tensor] = self.row.pixelcnn_sample(
            noise.contiguous(), state.packed, state.plan, state.context, known, state.images, temperature
        )
        return drawn

    @staticmethod
    def _noise(state: RunState) -> tuple[int, ...]:
        return len(state.images), state.plan.emit.noises(state.plan.image_channels), *state.images.shape[2:]


def check_values(state: RunState, values: Tensor) -> None:
    """Raises ValueError unless every value is one of the emit's."""
    off = ~state.plan.emit.holds(values)
    if off.any():
        raise ValueError(f"pixelcnn_step: values must be {state.plan.emit.rule}, got {values[off][0].item():g}")


def check_noise(noise: Tensor, is_normal: bool) -> None:
    """Raises ValueError unless all noise is in [0, 1), or finite where it is normal."""
    off = ~(noise.isfinite() if is_normal else (noise >= 0) & (noise < 1))
    if off.any():
        rule = "finite" if is_normal else "in [0, 1)"
        raise ValueError(f"pixelcnn_step: noise must be {rule}, got {noise[off][0].item():g}")
