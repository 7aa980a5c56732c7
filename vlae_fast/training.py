"""Trains a VLAE and keeps a checkpoint per epoch. What is minimised, for a batch of images:

    mean reconstruction + beta * max(mean KL, free_bits * ln 2)        [nats per image]

KL is the Monte Carlo estimate log q(z|x) - log p(z) under the model's own prior. beta rises from 1/(w+1) to 1 over w
warm-up epochs, so that z is in use before it is paid for. Figures shown are those of beta = 1 without free bits.

Epoch e draws its random numbers (order, binarization, z) from (seed, e) alone: a run that was interrupted after epoch
e and resumed is the run that was not.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from ._extras import require
from .data import Images
from .evaluation import bits_per_dim, evaluate
from .models.vlae import VLAE, loss_terms

History = list[dict[str, float]]

_PARTS = ("loss", "reconstruction", "kl", "bits_per_dim")
_FIGURES = {"epoch", "seconds", *_PARTS, *(f"valid_{part}" for part in _PARTS)}  # of each epoch


class Interrupted(KeyboardInterrupt):
    """Training was interrupted; the message says what is saved and how to go on."""


@dataclass(frozen=True)
class Settings:
    """Everything but the model and the data that decides what a run computes; a resumed run must have the same."""

    batch_size: int = 64
    lr: float = 1e-3
    lr_decay: float = 1.0
    seed: int = 0
    warmup_epochs: int = 0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, got {self.batch_size}")
        if not 0 < self.lr_decay <= 1:
            raise ValueError(f"lr_decay: must be > 0 and <= 1, got {self.lr_decay}")
        for name, low in (("lr", 0.0), ("free_bits", 0.0), ("warmup_epochs", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= low) or (name == "lr" and value == 0):
                raise ValueError(f"{name}: must be finite and {'> 0' if name == 'lr' else '>= 0'}, got {value}")

    def lr_in(self, epoch: int) -> float:
        return float(self.lr * self.lr_decay ** (epoch - 1))

    def beta(self, epoch: int) -> float:
        """The weight of the KL in epoch 1, 2, ...: 1 once the warm-up is over."""
        return min(1.0, epoch / (self.warmup_epochs + 1))


def train(
    model: VLAE,
    images: Images,
    *,
    epochs: int,
    batch_size: int = 64,
    lr: float = 1e-3,
    lr_decay: float = 1.0,
    seed: int = 0,
    out_dir: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    warmup_epochs: int = 0,
    free_bits: float = 0.0,
    time_limit: float | None = None,
    progress: bool = True,
) -> History:
    """Trains `model` in place up to epoch `epochs`; out_dir/checkpoint is replaced after each epoch.

    lr_decay: factor on lr after each epoch. free_bits: bits per image of KL that cost nothing. time_limit: seconds; no
    epoch starts that would likely end later.
    resume: continues from out_dir/checkpoint, and starts afresh where there is none. overwrite: starts afresh where
    there is one, and replaces it after the first epoch. One of the two at most. Leaves the caller's random state alone.

    Returns: one dict per epoch: epoch, seconds, and for train and valid ("valid_...") loss, reconstruction and kl in
    nats per image, bits_per_dim.
    Raises: ValueError for a bad argument, a checkpoint of other settings, a non-finite loss; Interrupted on Ctrl-C.
    """
    settings = Settings(batch_size, lr, lr_decay, seed, warmup_epochs, free_bits)
    if epochs < 1:
        raise ValueError(f"epochs: must be at least 1, got {epochs}")
    if resume and overwrite:
        raise ValueError("resume, overwrite: at most one must be given (go on, or start afresh), got both")
    folder = Path(out_dir) / "checkpoint"
    description = asdict(settings) | _describe(images)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    history: History = []
    if resume and checkpoint.exists(folder):
        history = _resume(folder, model, optimizer, description)
    elif checkpoint.exists(folder) and not overwrite:
        raise ValueError(f"out_dir: {folder} exists: resume or overwrite it, or choose another out_dir")
    start = time.perf_counter()
    saved = functools.partial(_saved, folder, history, overwrite)
    try:
        for epoch in range(len(history) + 1, epochs + 1):
            if _out_of_time(start, time_limit, history):
                break
            bar = _bar(progress, epoch, epochs, math.ceil(len(images.train) / batch_size))
            history.append(_epoch(model, optimizer, images, settings, epoch, bar, saved))
            checkpoint.save(folder, model, optimizer, epoch=epoch, training=description, history=history)
    except KeyboardInterrupt as interrupt:
        raise Interrupted("interrupted: " + "; ".join(saved())) from interrupt
    model.eval()
    return history


def _epoch(
    model: VLAE,
    optimizer: torch.optim.Optimizer,
    images: Images,
    settings: Settings,
    epoch: int,
    bar: Any,
    saved: Callable[[], tuple[str, str]],
) -> dict[str, float]:
    start = time.perf_counter()
    device = next(model.parameters()).device
    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # z: from the global generators
        torch.manual_seed(_seed(settings.seed, epoch, "z"))
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_in(epoch)
        order = torch.Generator().manual_seed(_seed(settings.seed, epoch, "batches"))
        sums, count = torch.zeros(2, dtype=torch.float64), 0
        for x in images.batches("train", settings.batch_size, generator=order, shuffle=True):
            terms = _step(model, optimizer, x.to(device), settings, settings.beta(epoch))
            if not math.isfinite(sum(terms)):
                raise _not_finite(f"epoch {epoch}, step {bar.n + 1}: the loss is {sum(terms)}", saved()[0])
            sums, count = sums + len(x) * torch.tensor(terms, dtype=torch.float64), count + len(x)
            reconstruction, kl = (sums / count).tolist()
            bar.set_postfix_str(_figures(reconstruction, kl, images.dims), refresh=False)
            bar.update()
        valid = evaluate(model, images, "valid", seed=settings.seed)
        if not math.isfinite(valid.elbo):
            raise _not_finite(f"epoch {epoch}: the validation loss is {-valid.elbo}", saved()[0])
        bar.set_postfix_str(_figures(reconstruction, kl, images.dims) + f"; valid {-valid.elbo:.2f} nats/image")
    row = {"epoch": epoch, "seconds": time.perf_counter() - start}
    row |= _row("", reconstruction, kl, images.dims)
    return row | _row("valid_", valid.reconstruction, valid.kl, images.dims)


def _step(
    model: VLAE, optimizer: torch.optim.Optimizer, x: Tensor, settings: Settings, beta: float
) -> tuple[float, float]:
    """One update, none where the loss is not finite; returns mean reconstruction and KL before it, nats per image."""
    out = model(x)
    terms = loss_terms(out.logits, x, out.mu, out.logvar, out.z, out.log_pz)
    reconstruction, kl = terms.reconstruction.mean(), terms.kl.mean()
    shown = (reconstruction.item(), kl.item())
    if math.isfinite(sum(shown)):
        optimizer.zero_grad(set_to_none=True)
        if settings.free_bits:
            kl = kl.clamp(min=settings.free_bits * math.log(2))
        (reconstruction + beta * kl).backward()
        optimizer.step()
    return shown


def _resume(folder: Path, model: VLAE, optimizer: torch.optim.Optimizer, description: dict[str, Any]) -> History:
    found = checkpoint.load(folder)
    theirs, ours = {"model": found.model.config} | found.training, {"model": model.config} | description
    for key in sorted(theirs.keys() | ours.keys()):
        if _plain(theirs.get(key)) != _plain(ours.get(key)):
            raise ValueError(f"resume: {key} must be that of {folder}, {theirs.get(key)!r}, got {ours.get(key)!r}")
    for row in found.history:
        if missing := sorted(_FIGURES - row.keys()):
            names, epoch = ", ".join(missing), row["epoch"]
            raise ValueError(f"resume: history must have every figure of every epoch, got no {names} of epoch {epoch}")
    model.load_state_dict(found.model.state_dict())
    checkpoint.load_optimizer(found, optimizer)
    return list(found.history)


def _plain(value: Any) -> Any:
    """Tuples come back from JSON as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _describe(images: Images) -> dict[str, Any]:
    return {"data": images.name, "split": images.split, "binarization": images.binarization}


def _seed(seed: int, epoch: int, use: str) -> int:
    """Unrelated 63-bit seeds for each use of randomness: seed + epoch would repeat between neighbouring seeds."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{use}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _out_of_time(start: float, limit: float | None, history: History) -> bool:
    expected = history[-1]["seconds"] if history else 0.0  # the last epoch, since machines slow down and speed up
    return limit is not None and bool(history) and time.perf_counter() - start + expected > limit


def _not_finite(what: str, saved: str) -> ValueError:
    advice = "try a lower lr, more warm-up epochs or a smaller model, in another out_dir"
    return ValueError(f"training stopped at {what}, which must be finite; {saved}; {advice}")


def _saved(folder: Path, history: History, overwrite: bool) -> tuple[str, str]:
    """What of this run is on disk, and how to go on."""
    first = "(the first checkpoint is written after epoch 1)"
    if not checkpoint.exists(folder):
        return f"nothing is saved yet {first}", "the same command starts again"
    if overwrite and not _is_of(folder, history):
        earlier = f"the earlier run in {folder} is still there, untouched"
        return f"nothing of this run is saved yet {first}, {earlier}", "the same command starts again and replaces it"
    flag = "--resume instead of --overwrite" if overwrite else "--resume"
    epoch = checkpoint.load(folder).epoch
    return f"the last good checkpoint is {folder}, epoch {epoch}", f"the same command with {flag} (resume=True) goes on"


def _is_of(folder: Path, history: History) -> bool:
    """Whether the checkpoint belongs to the run of this history: no two runs took the same seconds."""
    try:
        found = checkpoint.load(folder)
    except (ValueError, OSError):  # an earlier run may be damaged, and that is why it is replaced
        return False
    return found.epoch > 0 and found.history == history[: found.epoch]


def _bar(progress: bool, epoch: int, epochs: int, steps: int) -> Any:
    label = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
    layout = "{l_bar}{bar:12}| {elapsed}{postfix}"
    interval = 0.5 if sys.stderr.isatty() else math.inf  # a log file gets the first and the last state of a bar only
    return require("tqdm").tqdm(
        desc=label, total=steps, file=sys.stderr, disable=not progress, bar_format=layout, mininterval=interval
    )


def _figures(reconstruction: float, kl: float, dims: int) -> str:
    loss = reconstruction + kl
    bits = bits_per_dim(loss, dims)
    return f"loss {loss:.2f} = reconstruction {reconstruction:.2f} + KL {kl:.2f} nats/image, {bits:.4f} bits/dim"


def _row(prefix: str, reconstruction: float, kl: float, dims: int) -> dict[str, float]:
    loss = reconstruction + kl
    row = {"loss": loss, "reconstruction": reconstruction, "kl": kl, "bits_per_dim": bits_per_dim(loss, dims)}
    return {prefix + key: value for key, value in row.items()}
