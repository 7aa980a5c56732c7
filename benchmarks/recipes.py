"""Trains the recipes one after another for so many minutes, and evaluates each that is done; a second call goes on.

    python -m benchmarks.recipes --data DIR --out out/models --minutes 7.5 --device cuda --autocast

In OUT/NAME is the run, in OUT/NAME/packed what ``vlae-fast pack`` makes of it with its figures, where it takes at most
2 MB. Of a data set without files in DIR the recipe is passed over, with a line that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from vlae_fast import checkpoint, data, evaluation, training
from vlae_fast.commands import app
from vlae_fast.models import PRESETS, preset
from vlae_fast.training import packing

RECIPES = [name for name, found in PRESETS.items() if "data_name" in found.run]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept = os.environ.get("VLAE_FAST_DATA")
    parser.add_argument(
        "--data", type=Path, default=kept, required=kept is None, help="with the files; default: VLAE_FAST_DATA"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for a run of each recipe")
    parser.add_argument("--minutes", type=float, default=7.5, help="after which no epoch begins")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", action="store_true", help="products in bfloat16")
    parser.add_argument("--samples", type=int, default=128, help="importance samples of the NLL of test images")
    parser.add_argument("--limit", type=int, help="only so many test images, drawn at random")
    parser.add_argument("--epochs", type=int, help="in place of each recipe's")
    parser.add_argument("--presets", default="", help="names with commas between them; default: every recipe")
    options = parser.parse_args(argv)
    training.keep_freed_memory()
    end = time.monotonic() + 60 * options.minutes
    undone = []
    for name, images in found(options.presets, options.data):
        if train(name, images, options, end):
            evaluate(name, options)
        else:
            undone.append(name)
    if undone:
        print(f"not done: {', '.join(undone)}; the same command goes on")
    return 0


def found(names: str, folder: Path) -> Iterator[tuple[str, data.Images]]:
    """The recipes of these names, all where there are none, each with its images; a line for one without files."""
    for name in names.split(",") if names else RECIPES:
        try:
            images = data.load(PRESETS[name].run["data_name"], folder, PRESETS[name].run["binarization"])
        except FileNotFoundError as error:
            print(f"{name}: {error!s:.100}")
            continue
        yield name, images


def train(name: str, images: data.Images, options: argparse.Namespace, end: float) -> bool:
    """Goes on with a run while there is time; whether it is at its end."""
    recipe, folder = PRESETS[name], options.out / name
    epochs = options.epochs or recipe.run["epochs"]
    done = checkpoint.load(folder).epoch if checkpoint.exists(folder / "checkpoint") else 0
    if done < epochs and (left := end - time.monotonic()) > 0:
        torch.manual_seed(0)
        model = preset(name, input_dim=images.channels, image_size=images.image_size)
        history = training.train(
            model, images, epochs=epochs, out_dir=folder, resume=True, device=options.device, time_limit=left,
            progress=False, log=("csv",), **{**recipe.settings, "autocast": options.autocast},
        )  # fmt: skip
        rate = len(images.train) / history[-1]["seconds"]
        done = len(history)
        print(
            f"{name}: epoch {done} of {epochs}, valid {history[-1]['valid_loss']:.2f} nats/image, {rate:.0f} images/s",
            flush=True,
        )
    return done >= epochs


def evaluate(name: str, options: argparse.Namespace) -> None:
    """Figures of a run that is done, of the weights as they would ship; a call that was stopped goes on."""
    run, figures = options.out / name, options.out / name / "figures.json"
    if figures.exists():
        return
    small = packing.bytes_in_float16(checkpoint.load(run).model) <= packing.MOST_BYTES
    known = ["--data", PRESETS[name].run["data_name"], "--data-dir", str(options.data)]
    pack = ["pack", str(run), str(run / "packed"), "--name", name]
    if small:
        print(_said([*pack, *known]), end="", flush=True)
    words = ["evaluate", str(run / "packed" if small else run), *known, "--samples", str(options.samples)]
    words += ["--device", options.device, "--keep", str(run / "nll"), "--json"]
    said = _said(words + (["--limit", str(options.limit)] if options.limit else []))
    figures.write_text(said, encoding="utf-8")
    if small:
        _said([*pack, "--figures", str(figures)])
    nll = evaluation.ImportanceBound(**json.loads(said)["nll"])
    print(f"{name}: {nll}", flush=True)


def _said(words: list[str]) -> str:
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        app(words, standalone_mode=False)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
