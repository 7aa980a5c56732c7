"""Fine-tuning a model by importance weights: what it gains on validation images, before and after, by equal draws.

    OMP_NUM_THREADS=1 python -m benchmarks.fine_tuning --data DIR --updates 300

The run is that of ``vlae-fast train --init static-mnist --objective iwae --samples 5 --lr 2e-4 --lr-schedule cosine``,
one epoch over as many training images as make the updates; evaluated are the averaged weights. Test images are not
looked at.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from vlae_fast import checkpoint, data, evaluation, training
from vlae_fast.models.vlae import VLAE

_SETTINGS: dict[str, Any] = {"objective": "iwae", "samples": 5, "lr": 2e-4, "lr_schedule": "cosine", "polyak": 0.99}
_VALID, _DRAWS = 500, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the model's data set")
    parser.add_argument("--model", default="static-mnist", help="a checkpoint, or the name of a model that ships")
    parser.add_argument("--updates", type=int, default=300, help="of the fine-tuning")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    training.keep_freed_memory()
    found = checkpoint.load(options.model)
    images = data.load(found.training["data"], options.data, found.training["binarization"])
    valid = evaluation.subset(images, "valid", _VALID)
    before = figures(found.model, valid)
    few = evaluation.subset(evaluation.subset(images, "train", options.updates * options.batch_size), "valid", _VALID)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        training.train(
            found.model, few, epochs=1, out_dir=folder, init=options.model, batch_size=options.batch_size,
            progress=False, **_SETTINGS,
        )  # fmt: skip
    seconds = time.process_time() - start
    after = figures(found.model, valid)
    print(f"{options.model}: {options.updates} updates of {options.batch_size} images, {seconds:.0f} CPU seconds")
    for name in before:
        gained, error = evaluation.mean_and_error(after[name] - before[name])
        print(
            f"{name}: {before[name].mean():.2f} -> {after[name].mean():.2f} nats, {gained:+.3f} +- {error:.3f} "
            f"({len(before[name])} validation images)"
        )


def figures(model: VLAE, images: data.Images) -> dict[str, Tensor]:
    """-ELBO and NLL of each validation image, in nats."""
    terms = evaluation.per_image(model, images, "valid")
    nll = evaluation.importance_nll(model, images, "valid", samples=_DRAWS)
    return {"-ELBO": terms.reconstruction + terms.kl, f"NLL at most, {_DRAWS} samples": nll}


if __name__ == "__main__":
    main()
