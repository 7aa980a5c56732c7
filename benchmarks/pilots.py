"""Where a CPU minute of training goes furthest: models of the same CPU time on static MNIST, from scratch.

    OMP_NUM_THREADS=1 python -m benchmarks.pilots --data DIR --seconds 180 --keep out/pilots

Every pilot has the settings of the recipe ``static-mnist``, shortened: the step falls to 0 by a cosine over the CPU
time, the weight of the KL rises in its first fifth, the average of the weights is over fewer updates. Time is that of
the process (`time.process_time`), so other load counts little. Validated are the averaged weights, by one draw of z for
each of the same 1,000 validation images; the difference is that of an image, with its standard error over images. Test
images are not looked at.

A pilot that is in the folder of --keep is not run again; several commands with other --names may share the folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlae_fast import VLAE, data, evaluation, training
from vlae_fast.models import PRESETS, grow, preset
from vlae_fast.training.average import Average
from vlae_fast.training.objective import Batch, Objective, make_optimizer, update

_RECIPE, _WARM_UP, _VALID = "static-mnist", 0.2, 1000
_SETTINGS = training.Settings(**{**PRESETS[_RECIPE].settings, "polyak": 0.99})


@dataclass(frozen=True)
class Pilot:
    """A row of the table: what differs from the recipe, and what changes after the share `at` of the CPU time.

    changes: options of `VLAE`. settings: fields of `training.Settings`. grown, later: options and fields from then on.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    grown: Mapping[str, int] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.5

    @property
    def says(self) -> str:
        said = [f"{key} {value}" for key, value in {**self.changes, **self.settings}.items()]
        of_then = [f"{key} {value}" for key, value in {**self.grown, **self.later}.items()]
        return ", ".join(said + [f"{then} after {self.at:.0%} of the time" for then in of_then]) or "none"


PILOTS = (
    Pilot("recipe"),
    Pilot("larger z", {"latent_dim": 64, "flow_steps": 4}),
    Pilot("IAF posterior", {"posterior": "iaf"}),
    Pilot("grown wider", {"hidden_dim": 16, "encoder_hidden": 32}, grown={"hidden_dim": 32}),
    Pilot("grown deeper", {"n_layers": 2}, grown={"n_layers": 4}),
    Pilot("constant step", settings={"lr_schedule": "constant"}),
    Pilot("no average", settings={"polyak": 0.0}),
    Pilot("longer average", settings={"polyak": 0.998}),
    Pilot("large batches at the end", later={"batch_size": 256}, at=0.8),
    Pilot("importance weights at the end", later={"objective": "iwae", "samples": 5}, at=0.9),
    Pilot("free bits but at the end", settings={"free_bits": 8.0}, later={"free_bits": 0.0}, at=0.8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of static MNIST")
    parser.add_argument("--seconds", type=float, default=180, help="CPU time of each pilot")
    parser.add_argument("--keep", type=Path, required=True, help="folder for what each pilot found")
    parser.add_argument("--names", default="", help="pilots with commas between them, the first to compare with")
    options = parser.parse_args()
    training.keep_freed_memory()
    wanted = options.names.split(",") if options.names else [pilot.name for pilot in PILOTS]
    pilots = {pilot.name: pilot for pilot in PILOTS}
    images = data.load(_RECIPE, options.data)
    options.keep.mkdir(parents=True, exist_ok=True)
    found = [_found(pilots[name], images, options.seconds, options.keep) for name in wanted]
    print(f"{_VALID:,} validation images; {options.seconds:g} CPU seconds a pilot, {torch.get_num_threads()} threads\n")
    print("| pilot | changes to the recipe | updates | -ELBO, nats | less the first one's |")
    print("|---|---|---|---|---|")
    first = torch.tensor(found[0]["losses"])
    for name, row in zip(wanted, found, strict=True):
        losses = torch.tensor(row["losses"])
        difference = "{:+.2f} +- {:.2f}".format(*evaluation.mean_and_error(losses - first)) if row != found[0] else ""
        print(f"| {name} | {pilots[name].says} | {row['updates']:,} | {losses.mean():.2f} | {difference} |")


def _found(pilot: Pilot, images: data.Images, seconds: float, keep: Path) -> dict[str, Any]:
    """What a pilot found: updates, and the loss of each validation image; from the folder, if it was run already."""
    path = keep / f"{pilot.name.replace(' ', '-')}-{seconds:g}.json"
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    model, updates = run(pilot, images, seconds)
    terms = evaluation.per_image(model, evaluation.subset(images, "valid", _VALID), "valid")
    found = {"updates": updates, "losses": (terms.reconstruction + terms.kl).tolist()}
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found


def run(pilot: Pilot, images: data.Images, seconds: float) -> tuple[VLAE, int]:
    """The model of a pilot with averaged weights, and how many updates it had."""
    torch.manual_seed(0)
    model, settings = preset(_RECIPE, **pilot.changes), replace(_SETTINGS, **pilot.settings)
    optimizer, average = _begin(model, settings)
    objective, order = Objective(settings, model.likelihood.levels), torch.Generator().manual_seed(0)
    given = _endless(model, images, settings.batch_size, order)
    start, changed, before = time.process_time(), not (pilot.grown or pilot.later), 0
    for step in itertools.count():
        share = (time.process_time() - start) / seconds
        if share >= 1:
            break
        if not changed and share >= pilot.at:
            changed = True
            if pilot.grown:
                model, before = grow(model, **pilot.grown), step
                optimizer, average = _begin(model, settings)
            settings = replace(settings, **pilot.later)
            objective = Objective(settings, model.likelihood.levels)
            given = _endless(model, images, settings.batch_size, order)
        for group in optimizer.param_groups:
            group["lr"] = _step(settings, share)
        update(model, optimizer, Batch(next(given)), objective, min(1.0, share / _WARM_UP + 1e-3))
        if average is not None:
            average.update(step - before)
    if average is not None:
        average.swap()
    return model, step


def _step(settings: training.Settings, share: float) -> float:
    falls = settings.lr_schedule == "cosine"
    return settings.lr * (0.5 * (1 + math.cos(math.pi * share)) if falls else 1.0)


def _begin(model: VLAE, settings: training.Settings) -> tuple[torch.optim.Optimizer, Average | None]:
    model.train()
    average = Average(model, settings.polyak) if settings.polyak else None
    return make_optimizer(settings, model, torch.device("cpu")), average


def _endless(model: VLAE, images: data.Images, size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Batches of the training images, in a new order each time round."""
    for _ in itertools.count():
        yield from (x for x, _ in evaluation.batches(model, images, "train", size, order, shuffle=True))


if __name__ == "__main__":
    main()
