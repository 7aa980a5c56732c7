"""`compress` and `decompress`: pictures to a file of few bytes, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import checkpoint, codec
from ..codec.files import labels_by_folder, paths_of, read_labels, read_pictures, write_pictures
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
        str | None,
        typer.Option(
            help="mean: images one by one; bits-back: fewer bytes, a chunk of images is one; default: mean",
            show_default=False,
        ),
    ] = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Keeps the code z alone: the pixels are made anew")] = False,
    bits: Annotated[
        float | None,
        typer.Option(help="With --lossy, bits of z an image, on average; default: as finely as the posterior knows z"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Of a class-conditional model: text file with a picture's class on each line, in the order of the "
            "pictures' names; default: the names of their folders",
            show_default=False,
        ),
    ] = None,
    per_chunk: Annotated[
        int | None, typer.Option(min=1, help="Images that are decoded together; default: 256, of bits-back 4096")
    ] = None,
    binarization: Annotated[
        str | None, typer.Option(help="threshold: makes grey pictures black and white, at one half")
    ] = None,
    isa: Annotated[
        str | None, typer.Option(help="Instruction set that the file is decoded by; default: this machine's best")
    ] = None,
    portable: Annotated[bool, typer.Option("--portable", help="Decodes on any machine; takes longer")] = False,
    json: Json = False,
) -> None:
    """Pictures to one file, the model's few bytes: lossless, or by --lossy."""
    if lossy and mode is not None:
        raise ValueError(f"--lossy: must not stand beside --mode, which is of lossless files, got --mode {mode}")
    if bits is not None and not lossy:
        raise ValueError(f"--bits: must stand beside --lossy, got {bits} without it")
    if binarization not in (None, "threshold"):
        raise ValueError(f"--binarization: must be threshold, got {binarization!r}")
    check_target(out, (".vlae",))
    model = checkpoint.load(folder).model
    paths, n_classes = paths_of(images), model.n_classes
    if labels is not None and not n_classes:
        raise ValueError(f"--labels: must not be given, for the model was trained without labels, got {labels}")
    y = None
    if n_classes:
        y = labels_by_folder(paths, n_classes) if labels is None else read_labels(labels, len(paths), n_classes)
    x = read_pictures(paths, model, threshold=binarization is not None)
    start = time.perf_counter()
    way = "lossy" if lossy else (mode or "mean").replace("-", "_")
    how: Any = {"per_chunk": per_chunk, "isa": isa, "portable": portable, "bits": bits}
    data = codec.encode(model, x, y, mode=way, **how)
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
    pixels: Annotated[
        str | None,
        typer.Option(help="Of a lossy file: draw, mean (of 16 draws, grey) or likeliest; default: draw"),
    ] = None,
    json: Json = False,
) -> None:
    """The pictures of a file that compress wrote, as PNG; in a folder for each class where the file has classes."""
    model, data = checkpoint.load(folder).model, file.read_bytes()
    start = time.perf_counter()
    chunks = None if chunk is None else [chunk]
    how: Any = {"chunks": chunks, "where": str(file), "pixels": pixels, "return_labels": model.n_classes > 0}
    found = codec.decode(model, data, **how)
    images, labels = found if model.n_classes else (found, None)
    seconds = time.perf_counter() - start
    write_pictures(images, out, labels, model.n_classes)
    if json:
        as_json({"images": len(images), "seconds": seconds, "out": out})
        return
    typer.echo(f"{len(images):,} images, {len(images) / seconds:,.0f} images/s; {out}")
