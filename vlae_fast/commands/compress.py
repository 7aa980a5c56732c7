"""`compress` and `decompress`: pictures to a file of few bytes, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .. import checkpoint, codec
from ..codec.files import read_pictures, write_pictures
from ..visualization.figures import check_target, replace_file
from .app import Json, app, as_json, user_errors

Model = Annotated[
    Path,
    typer.Option(
        "--checkpoint",
        "--model",
        help="Checkpoint folder, or the name of a model that ships; default: mnist",
        show_default=False,
    ),
]


@app.command()
@user_errors
def compress(
    images: Annotated[list[Path], typer.Argument(help="Pictures of the model's size, or folders of them")],
    out: Annotated[Path, typer.Argument(help="File to write, e.g. out.vlae")],
    folder: Model = checkpoint.MNIST,
    mode: Annotated[
        str, typer.Option(help="mean: images one by one; bits-back: fewer bytes, a chunk of images is one")
    ] = "mean",
    per_chunk: Annotated[
        int | None, typer.Option(min=1, help="Images that are decoded together; default: 256, of bits-back 4096")
    ] = None,
    binarization: Annotated[
        str | None, typer.Option(help="threshold: makes grey pictures black and white, at one half")
    ] = None,
    isa: Annotated[
        str | None, typer.Option(help="Instruction set that the file is decoded by; default: this machine's best")
    ] = None,
    json: Json = False,
) -> None:
    """Pictures to one file, lossless: the model's few bytes."""
    if binarization not in (None, "threshold"):
        raise ValueError(f"--binarization: must be threshold, got {binarization!r}")
    check_target(out, (".vlae",))
    model = checkpoint.load(folder).model
    x = read_pictures(images, model, threshold=binarization is not None)
    start = time.perf_counter()
    data = codec.encode(model, x, mode=mode.replace("-", "_"), per_chunk=per_chunk, isa=isa)
    seconds = time.perf_counter() - start
    replace_file(out, lambda fresh: fresh.write_bytes(data))
    if json:
        as_json({"images": len(x), "bytes": len(data), "seconds": seconds, "out": out})
        return
    each = f"{len(data) / len(x):.2f} bytes/image, {len(x) / seconds:,.0f} images/s"
    typer.echo(f"{len(x):,} images, {len(data):,} bytes: {each}; {out}")


@app.command()
@user_errors
def decompress(
    file: Annotated[Path, typer.Argument(help="File that compress wrote")],
    out: Annotated[Path, typer.Argument(help="Folder for the pictures, new or empty")],
    folder: Model = checkpoint.MNIST,
    chunk: Annotated[int | None, typer.Option(min=0, help="Only the images of this chunk; default: all")] = None,
    json: Json = False,
) -> None:
    """The pictures of a file that compress wrote, as PNG."""
    model, data = checkpoint.load(folder).model, file.read_bytes()
    start = time.perf_counter()
    images = codec.decode(model, data, chunks=None if chunk is None else [chunk], where=str(file))
    seconds = time.perf_counter() - start
    write_pictures(images, out)
    if json:
        as_json({"images": len(images), "seconds": seconds, "out": out})
        return
    typer.echo(f"{len(images):,} images, {len(images) / seconds:,.0f} images/s; {out}")
