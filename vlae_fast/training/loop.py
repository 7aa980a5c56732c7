"""Trains a VLAE and keeps a checkpoint per epoch. Minimises, for a batch of images:

    mean reconstruction + weight * mean KL        [nats per image]

or a variation of it (`Settings`, models/objectives.py). KL is the Monte Carlo estimate log q(z|x) - log p(z) under the
model's own prior, or the closed form where posterior and prior are Gaussian. Its weight may rise from almost 0, so that
z is in use before it is paid for. Figures shown are those of the ELBO (weight 1, no free bits) whatever is minimised.

Epoch e draws its random numbers (order, binarization, noise, z) from (seed, e) alone: a run that was interrupted after
epoch e and resumed is the run that was not. In several processes (processes.py) each takes its share of every batch;
their losses and gradients are put together, so that the run is that of one process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint, processes
from ..data import Images, Source, for_training
from ..data.corruption import mirrored
from ..evaluation import batches, bits_per_dim, evaluate
from ..layers import WeightNorm, initialize
from ..models.growth import copy_weights
from ..models.mode import evaluating
from ..models.vlae import VLAE
from . import progress as shown
from . import resume as resuming
from .average import Average
from .checks import check_run, check_same_run
from .logs import check_logs, make_logs
from .objective import Batch, Objective, make_optimizer, update
from .progress import History, Shown
from .settings import Schedule, Settings


def train(
    model: VLAE,
    images: Images | Source,
    *,
    epochs: int,
    out_dir: str | Path,
    init: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    time_limit: float | None = None,
    progress: bool = True,
    log: Collection[str] = (),
    on_epoch: Callable[[dict[str, float]], object] | None = None,
    on_step: Callable[[int, float], object] | None = None,
    **settings: Any,
) -> History:
    """Trains `model` in place up to epoch `epochs`; out_dir/checkpoint is replaced after each epoch.

    Leaves the caller's random state alone. Weight-normalised layers are initialised by the first batch before epoch 1,
    unless the run starts from a checkpoint.
    With Polyak averaging, validation, checkpoint and the model in the end have the averaged weights, and averages of
    the running statistics of batch normalisation.

    Under torchrun, or in a process group of the caller's, all processes call this alike, share each batch of
    ``batch_size`` images, and have the model in the end. The first one writes and shows. Where torchrun starts them
    anew (``--max-restarts``) the run goes on from its checkpoint.

    Args:
        images: `Images`, or a data set, loader or tensor of one's own, of which a tenth is held out to validate; with
            `data.from_dataset` you choose. It is read into memory once.
        init: a checkpoint, or the name of a model that ships, whose weights a run starts from; optimizer, step and
            schedule are new. The model has its options, or larger ones as in `models.grow`. A resumed run does not
            read it again.
        resume: continues from out_dir/checkpoint, and starts afresh where there is none.
        overwrite: starts afresh where there is one, and replaces it after the first epoch. One of the two at most.
        device: of the model; in several processes ``cuda`` is a GPU for each, by its number on its machine.
        time_limit: seconds; no epoch starts that would likely end later.
        log: some of "csv" (out_dir/log.csv) and "tensorboard" (out_dir/tensorboard), a row or a point per epoch.
        on_epoch: called with the epoch's figures, those that are returned, once its checkpoint is written; the model is
            in evaluation mode then, with averaged weights where there are any. It returns True to end the run there, in
            one process or all.
        on_step: called after each update with its number, from 0 and on from epoch to epoch, and the batch's loss in
            nats per image. It leaves torch's global generator alone, from which the run draws z.
        settings: the fields of `Settings`.

    Returns:
        One dict per epoch: epoch, seconds, and for train and valid ("valid_...") loss, reconstruction and kl in nats
        per image, bits_per_dim; and kl_weight and lr, the KL's weight and the step size at the epoch's end.

    Raises:
        ValueError: a bad argument, a checkpoint of other settings, a non-finite loss; processes with different
            arguments.
        TypeError: an unknown setting.
        RuntimeError: another process ended.
        Interrupted: on Ctrl-C; says what is saved.
    """
    if epochs < 1:
        raise ValueError(f"epochs: must be at least 1, got {epochs}")
    if resume and overwrite:
        raise ValueError("resume, overwrite: at most one must be given (go on, or start afresh), got both")
    check_logs(log)
    processes.join()
    images, folder = for_training(images, model.likelihood.levels), Path(out_dir) / "checkpoint"
    resume, overwrite = resuming.after_restart(folder, resume=resume, overwrite=overwrite)
    said = Shown(progress and processes.is_first(), epochs)
    run = _Run(model.to(processes.device_of(device)), images, Settings(**settings), epochs, folder, overwrite, init)
    _open(run, said, resume=resume)
    if (count := processes.count()) > 1:
        said.note(f"{count} processes share each batch of {run.settings.batch_size}; the step size is that of one")
    check_same_run(model, images, run.description, epochs=epochs, resume=resume, overwrite=overwrite, epoch=run.done)
    run.logs = make_logs(log, Path(out_dir), run.done) if processes.is_first() else ()
    run.on_epoch, run.on_step = on_epoch or run.on_epoch, on_step or run.on_step
    run.up_to(epochs, time_limit, said)
    if run.average is not None:
        run.average.swap()
    model.eval()
    return run.history


class _Run:
    """A run: its model, data, optimizer and folder, which the epochs share."""

    logs: Collection[Callable[[History], None]] = ()
    on_epoch: Callable[[dict[str, float]], object] = staticmethod(lambda row: None)
    on_step: Callable[[int, float], object] = staticmethod(lambda step, loss: None)

    def __init__(
        self,
        model: VLAE,
        images: Images,
        settings: Settings,
        epochs: int,
        folder: Path,
        overwrite: bool,
        init: str | Path | None,
    ) -> None:
        self.model, self.images, self.settings = model, images, settings
        self.folder, self.overwrite, self.init = folder, overwrite, init
        self.device = next(model.parameters()).device
        self.schedule = Schedule(settings, epochs, math.ceil(len(images.train) / settings.batch_size))
        self.description = resuming.describe(self.schedule, images, init)
        check_run(model, images, settings)
        self.optimizer = make_optimizer(settings, model, self.device)
        self.optimizer.register_step_pre_hook(lambda *_: processes.total_gradients(model.parameters()))
        if settings.clip_grad:
            self.optimizer.register_step_pre_hook(self._clip)
        self.objective = Objective(settings, model.likelihood.levels)
        self.bits = functools.partial(bits_per_dim, dims=images.dims, likelihood=model.likelihood)
        self.average = Average(model, settings.polyak) if settings.polyak else None
        self.history: History = []
        self.draws: torch.Generator | None = None  # of one of several processes

    @property
    def done(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    def up_to(self, epochs: int, time_limit: float | None, said: Shown) -> None:
        """Runs the epochs that are left, while there is time; an interruption says what is saved."""
        start = time.perf_counter()
        try:
            for number in range(self.done + 1, epochs + 1):
                if any(processes.in_each(_out_of_time(start, time_limit, self.history))) or self.epoch(number, said):
                    break
        except KeyboardInterrupt as interrupt:
            raise resuming.Interrupted("interrupted: " + "; ".join(self.saved())) from interrupt
        except processes.LostProcessError as lost:
            raise processes.LostProcessError("; ".join([str(lost), *self.saved()])) from lost

    def epoch(self, number: int, said: Shown) -> bool:
        """Trains, validates and saves; returns whether the caller ends the run here."""
        start = time.perf_counter()
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):  # z: from the global generators
            with said.epoch(number, self.schedule.steps):
                if number == 1:
                    self._initialize()
                    processes.spread(self.model.state_dict().values())
                self._start_draws(number)
                terms, kl_weight = self._updates(number, said)
            with self._averaged() as trained:
                valid = evaluate(self.model, self.images, "valid", seed=self.settings.seed, shared=True)
                if not math.isfinite(valid.elbo):
                    raise self._not_finite(f"epoch {number}: the validation loss is {-valid.elbo}")
                lr = self.optimizer.param_groups[0]["lr"]
                seconds = processes.from_first(time.perf_counter() - start)
                row = {"epoch": number, "seconds": seconds, "kl_weight": kl_weight, "lr": lr}
                row |= shown.row("", *terms, self.bits) | shown.row("valid_", valid.reconstruction, valid.kl, self.bits)
                self.history.append(row)
                if processes.is_first():
                    checkpoint.save(
                        self.folder, self.model, self.optimizer, epoch=number, training=self.description,
                        history=self.history, trained=trained,
                    )  # fmt: skip
                    resuming.replaced(self.folder)
                figures = f"{shown.text(*terms, self.bits)}; valid {-valid.elbo:.2f} nats/image"
                figures += f"; lr {lr:.3g}" if lr < self.settings.lr else ""
                said.end(figures, row["seconds"])
                return any(processes.in_each(self._tell(row)))

    def _tell(self, row: dict[str, float]) -> bool:
        """Writes the logs, and calls back; True where the caller wants no more epochs."""
        for write in self.logs:
            write(self.history)
        with evaluating(self.model):
            return self.on_epoch(dict(row)) is True

    def _start_draws(self, number: int) -> None:
        """Starts what an epoch draws beside its batches: by torch's global generators, as a model does by itself.

        Of several processes each has a generator in the state of that of one, and other global ones: for dropout.
        """
        seed = _seed(self.settings.seed, number, "z")
        if processes.count() > 1:
            self.draws = torch.Generator(self.device).manual_seed(seed)
            seed = _seed(self.settings.seed, number, f"z of {processes.rank()}")
        torch.manual_seed(seed)

    def _initialize(self) -> None:
        """Initialises the weight-normalised layers of a new model by the first batch."""
        plain = all(layer.is_plain() for layer in self.model.modules() if isinstance(layer, WeightNorm))
        if self.init is not None or not plain:
            return
        self.model.train()  # batch normalisation by the batch, as in the updates
        torch.manual_seed(_seed(self.settings.seed, 0, "z"))
        initialize(self.model, *next(self._batches(self._order(1))))

    def _updates(self, number: int, said: Shown) -> tuple[tuple[float, float], float]:
        """One pass over the training images; returns its mean reconstruction and KL, and the KL's weight at its end."""
        self.model.train()
        sums, count = torch.zeros(2, dtype=torch.float64, device="cpu"), 0
        reduced = self.schedule.plateau([row["valid_loss"] for row in self.history])
        for step, batch in enumerate(self._batches(self._order(number)), start=(number - 1) * self.schedule.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.lr(step) * reduced
            scheduled = self.schedule.kl_weight(step)
            terms = update(self.model, self.optimizer, batch, self.objective, scheduled, self.draws)
            if not math.isfinite(sum(terms)):
                raise self._not_finite(
                    f"epoch {number}, step {step % self.schedule.steps + 1}: the loss is {sum(terms)}"
                )
            if self.average is not None:
                self.average.update(step)
            count += len(batch.x)
            sums += len(batch.x) * torch.tensor(terms, dtype=torch.float64, device="cpu")
            reconstruction, kl = (sums / count).tolist()
            said.step(reconstruction + kl)
            self.on_step(step, sum(terms))
        return (reconstruction, kl), self.objective.weight(scheduled)

    def _clip(self, *_: Any) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad)

    def _order(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(_seed(self.settings.seed, number, "batches"))

    def _batches(self, order: torch.Generator) -> Iterator[Batch]:
        for x, labels in batches(self.model, self.images, "train", self.settings.batch_size, order, shuffle=True):
            yield Batch(mirrored(x, order) if self.settings.flip else x, labels)

    def _averaged(self) -> contextlib.AbstractContextManager[Mapping[str, Tensor]]:
        return contextlib.nullcontext({}) if self.average is None else self.average.in_place()

    def saved(self) -> tuple[str, str]:
        return resuming.saved(self.folder, self.history, self.overwrite)

    def _not_finite(self, what: str) -> ValueError:
        advice = "try a lower lr, more warm-up epochs or a smaller model, in another out_dir"
        return ValueError(f"training stopped at {what}, which must be finite; {self.saved()[0]}; {advice}")


def _open(run: _Run, said: Shown, *, resume: bool) -> None:
    """Goes on from the run's folder where there is a checkpoint and resume; checks that a save into it will work."""
    if checkpoint.exists(run.folder):
        if resume:
            run.history, before = resuming.resume(
                run.folder, run.model, run.optimizer, run.average, run.objective, run.description
            )
            if before != processes.count():
                said.note(f"resumed after epoch {run.done}, until which there were {before} processes")
        elif not run.overwrite:
            raise ValueError(f"out_dir: {run.folder} exists: resume or overwrite it, or choose another out_dir")
    if run.init is not None and not run.done:
        copy_weights(checkpoint.load(run.init).model, run.model)
    checkpoint.prepare(run.folder)
    checkpoint.check_loadable(run.model, run.folder)


def _seed(seed: int, epoch: int, use: str) -> int:
    """Unrelated 63-bit seeds for each use of randomness: seed + epoch would repeat between neighbouring seeds."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{use}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _out_of_time(start: float, limit: float | None, history: History) -> bool:
    expected = history[-1]["seconds"] if history else 0.0  # the last epoch, since machines slow down and speed up
    return limit is not None and bool(history) and time.perf_counter() - start + expected > limit
