"""Sampling step by step: the caller sees the parameters of a wave's pixels, and says what the pixels are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType

import torch
from torch import Tensor

from ..ops import PixelCNNRun


class Step:
    """One draw of a `Run`: the pixels of a wave, all their channels or one.

    ``.params`` ``[B, P, pixels]`` are what the pixels are drawn from, with P those of the draw; the logits of Bernoulli
    pixels. ``.pixels`` is (rows, columns) of the pixels, ``.channel`` the channel that is drawn, None where it is all.

    A `Run` makes them: run and index say whose it is, and which.
    """

    __slots__ = ("_index", "_place", "_run", "channel", "params")

    def __init__(self, run: Run, index: int) -> None:
        place = run.inner.place
        self._run, self._index, self._place, self.params = run, index, place, run.inner.params
        self.channel = None if run.draws == 1 else place.draw

    @property
    def pixels(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the pixels, ``[pixels]`` each: the caller's own, other runs read none of them."""
        return self._place.rows.clone(), self._place.columns.clone()

    def put(self, values: Tensor) -> None:
        """Says that the pixels are `values` ``[B, C, pixels]``, C the channels of this draw: 1 where they go in turn.

        Values are those of an image: level k of K is ``k / (K - 1)``, of any floating-point dtype, or of bits 0 and 1
        of any dtype.

        Raises:
            ValueError: a shape that does not fit, a value that is no level of the likelihood, or not finite.
            TypeError: no tensor, or integers where there are more levels than two.
            RuntimeError: the step has its values, the run has ended, or the sampler was refreshed since its start.
        """
        self._run._check(self._index)
        self._run._put(values)

    def draw(self, noise: Tensor | torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """The values that `PixelCNNSampler.sample` draws here, ``[B, C, pixels]``: bit for bit, of the same noise.

        Args:
            noise: of the images ``[B, n, H, W]``, as `sample` takes it; of this draw alone, ``[B, n, pixels]``; or the
                generator that such noise is drawn from, None: PyTorch's own.
            temperature: as in `sample`.

        Raises:
            ValueError, RuntimeError: as in `put`.
        """
        self._run._check(self._index)
        return self._run._draw(noise, temperature)


class Run:
    """Images in the making: iterate over its steps, and give each its values by `Step.put`.

    ``len(run)`` is the number of steps. At the end ``.images`` ``[B, C, H, W]`` and ``.logits`` ``[B, P, H, W]`` are
    there. See `PixelCNNSampler.start`, which makes it of inner, the op's run, and is_current, whether its weights are.
    """

    def __init__(self, inner: PixelCNNRun, is_current: Callable[[], bool]) -> None:
        self.inner, self._is_current = inner, is_current
        self.draws = len(inner.state.plan.all_draws)
        self._entered, self._ended = False, False

    def __len__(self) -> int:
        return len(self.inner.places)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended = True
        self.inner.close()

    def __iter__(self) -> Iterator[Step]:
        if self._entered:
            raise RuntimeError("Run: steps must be gone through once, got a second time: start another run")
        self._entered = True
        return self._steps()

    def _steps(self) -> Iterator[Step]:
        for index in range(len(self)):
            if self.inner.at < index:
                raise RuntimeError(f"Run: each step must be given its values by put, got none for step {index - 1}")
            self._check_alive()
            yield Step(self, index)
        if self.inner.at < len(self):
            raise RuntimeError(f"Run: each step must be given its values by put, got none for step {len(self) - 1}")

    @property
    def images(self) -> Tensor:
        """``[B, C, H, W]``, when every step has its values."""
        return self._result("images", self.inner.state.images)

    @property
    def logits(self) -> Tensor:
        """The parameters ``[B, P, H, W]`` that the steps had, likewise."""
        return self._result("logits", self.inner.state.logits)

    def _result(self, name: str, result: Tensor) -> Tensor:
        if self.inner.at < len(self):
            raise RuntimeError(f"Run: {name} must be asked for at the end, got step {self.inner.at} of {len(self)}")
        return result

    def _check_alive(self) -> None:
        if self._ended:
            raise RuntimeError("Run: steps must be given their values inside the with block, got one after its end")
        if not self._is_current():
            raise RuntimeError("Run: the sampler must stay as it was at the start, got one that was refreshed")

    def _check(self, index: int) -> None:
        """Raises RuntimeError unless it is the turn of this step."""
        self._check_alive()
        if self.inner.at != index:
            raise RuntimeError(
                f"Run: a step must be given its values once, in its turn, got step {index} a second time"
            )

    def _put(self, values: Tensor) -> None:
        """The values of the step whose turn it is."""
        images, place = self.inner.state.images, self.inner.place
        if not isinstance(values, Tensor):
            raise TypeError(f"Step.put: values must be a tensor, got {type(values).__name__}")
        levels = self.inner.state.plan.emit.levels
        if levels != 2 and not values.is_floating_point():
            rule = (
                f"values must be floating point, k / {levels - 1} of level k"
                if levels
                else "values must be floating point"
            )
            raise TypeError(f"Step.put: {rule}, got {values.dtype}")
        shape = (self.inner.batch, place.n_channels, place.n_pixels)
        if values.shape != shape or values.device != images.device:
            rule = f"values must be {list(shape)} on {images.device}"
            raise ValueError(f"Step.put: {rule}, got {list(values.shape)} on {values.device}")
        if values.requires_grad or values.dtype != images.dtype:
            values = values.detach().to(images.dtype)
        self.inner.put(values)

    def _draw(self, noise: Tensor | torch.Generator | None, temperature: float) -> Tensor:
        """The values of the built-in draw for the step whose turn it is."""
        if not isinstance(noise, Tensor):
            state, place = self.inner.state, self.inner.place
            make = torch.randn if state.plan.emit.noise_is_normal else torch.rand
            shape, like = (self.inner.batch, len(place.noises), place.n_pixels), state.images
            noise = make(shape, dtype=like.dtype, device=like.device, generator=noise)
        return self.inner.draw(noise, temperature)
