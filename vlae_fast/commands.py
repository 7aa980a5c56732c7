"""The commands: train, sample, evaluate, info, demo. Each is a page of glue over the library."""

from __future__ import annotations

import functools
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer

import vlae_fast as vf

from . import backends, checkpoint, data, demo, training
from .evaluation import evaluate as evaluate_model
from .models.vlae import VLAE
from .visualization import save_grid

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Fast Variational Lossy Autoencoders. Likelihoods are in nats per image and in bits per dimension. "
    "VLAE_FAST_TRACEBACK=1 shows where an error comes from.",
)

Data = Annotated[
    str | None,
    typer.Option("--data", help='"digits" (embedded; the default without --data-dir), or a name for the IDX files'),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder with MNIST-style IDX files, gzipped or not")]
Binarization = Annotated[
    str | None,
    typer.Option(
        help="dynamic (redrawn each time; default of IDX files) or threshold (at one half; default of digits)"
    ),
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of every random number")]
Folder = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder, e.g. out/checkpoint")]

Command = TypeVar("Command", bound=Callable[..., None])


def user_errors(command: Command) -> Command:
    """An error becomes one line and exit code 2; VLAE_FAST_TRACEBACK=1 in the environment keeps the traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except training.Interrupted as interrupt:
            typer.echo(str(interrupt), err=True)
            raise typer.Exit(130) from None
        except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
            if os.environ.get("VLAE_FAST_TRACEBACK") == "1":
                raise
            typer.echo("error: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(2) from None

    return wrapped  # type: ignore[return-value]


@app.command()
@user_errors
def train(
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    epochs: Annotated[int, typer.Option(min=1, help="Train up to this epoch")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per update")] = 64,
    lr: Annotated[float, typer.Option(help="Adam's step size, > 0")] = 1e-3,
    lr_decay: Annotated[float, typer.Option(help="Factor on the step size after each epoch")] = 1.0,
    latent_dim: Annotated[int, typer.Option(min=1, help="Dimensions of z")] = 32,
    hidden_dim: Annotated[int, typer.Option(min=1, help="Channels of the decoder")] = 64,
    n_layers: Annotated[int, typer.Option(min=1, help="Masked layers of the decoder")] = 3,
    z_channels: Annotated[int, typer.Option(min=0, help="Channels of the map that spreads z; 0: z as it is")] = 16,
    kernel_size: Annotated[int, typer.Option(min=1, help="Side of the gated layers' kernels, odd")] = 3,
    initial_kernel: Annotated[int, typer.Option(min=1, help="Side of the first kernel, odd")] = 7,
    residual: Annotated[bool, typer.Option("--residual", help="Add a gated layer's input to its output")] = False,
    flow: Annotated[bool, typer.Option("--flow/--no-flow", help="Autoregressive flow prior, or N(0, I)")] = True,
    flow_hidden: Annotated[int, typer.Option(min=1, help="Hidden units of each MADE of the prior")] = 256,
    flow_steps: Annotated[int, typer.Option(min=1, help="MADE transforms of the prior")] = 2,
    warmup_epochs: Annotated[int, typer.Option(min=0, help="Epochs over which the weight of the KL rises to 1")] = 0,
    free_bits: Annotated[float, typer.Option(min=0, help="KL that costs nothing, in bits per image")] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Run folder: the checkpoint is OUT/checkpoint")] = Path("out/train"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT/checkpoint, if there is one")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start afresh and replace OUT/checkpoint")] = False,
) -> None:
    """Train a model; nats per image, bits per dimension."""
    images = data.load(data_name, data_dir, binarization)
    typer.echo(f"{images.name}: {images.split}; binarization: {images.binarization}")
    torch.manual_seed(seed)
    model = VLAE(
        1, latent_dim, hidden_dim, n_layers, flow, image_size=images.image_size, kernel_size=kernel_size,
        initial_kernel=initial_kernel, z_channels=z_channels, residual=residual, flow_hidden=flow_hidden,
        flow_steps=flow_steps,
    )  # fmt: skip
    history = training.train(
        model, images, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, out_dir=out, resume=resume,
        overwrite=overwrite, device=_device(device), warmup_epochs=warmup_epochs, free_bits=free_bits,
        lr_decay=lr_decay,
    )  # fmt: skip
    last = history[-1]
    figures = f"validation loss {last['valid_loss']:.2f} nats/image, {last['valid_bits_per_dim']:.4f} bits/dim"
    typer.echo(f"epoch {len(history)}: {figures}; checkpoint: {out / 'checkpoint'}")


@app.command()
@user_errors
def sample(
    folder: Folder,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images")] = 100,
    temperature: Annotated[
        float, typer.Option(help="Divides the logits, > 0; 1 is the model's own distribution")
    ] = 1.0,
    backend: Annotated[
        str, typer.Option(help="auto or a name in the table of `info`; a named backend runs or raises")
    ] = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="PNG file to write")] = Path("out/samples.png"),
) -> None:
    """Draw images into a PNG grid; shows images/s."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature: must be finite and > 0, got {temperature}")
    where = _device(device)
    model = checkpoint.load(folder, where).model
    generator = torch.Generator(where).manual_seed(seed)
    sampler = vf.PixelCNNSampler(model.decoder, backend=backend)
    start = time.perf_counter()
    z = model.sample_prior(n, generator=generator)
    between = time.perf_counter()
    images = sampler.sample(z, generator=generator, temperature=temperature).cpu()
    seconds = time.perf_counter() - between
    save_grid(images, out, columns=math.ceil(math.sqrt(n)))
    typer.echo(
        f"{n} images: prior {between - start:.3f} s, pixels {seconds:.3f} s ({n / seconds:,.1f} images/s), "
        f"backend {sampler.backend}, {sampler.steps} steps; {out}"
    )


@app.command()
@user_errors
def evaluate(
    folder: Folder,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: Annotated[str, typer.Option(help="train, valid or test")] = "test",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass")] = 256,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """ELBO, reconstruction, KL: nats/image, bits/dim."""
    found = checkpoint.load(folder, _device(device))
    images = data.load(data_name, data_dir, binarization)
    size = tuple(found.model.config["image_size"])
    if images.image_size != size:
        raise ValueError(f"data: images must be of the model's size {size}, got {images.image_size}")
    result = evaluate_model(found.model, images, split, batch_size=batch_size, seed=seed)  # type: ignore[arg-type]
    typer.echo(f"{images.name} {split}, epoch {found.epoch}: {result}")


@app.command()
@user_errors
def info() -> None:
    """Versions, threads, backends and reasons."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    python = f"Python {platform.python_version()}, {platform.machine()}"
    typer.echo(f"vlae_fast {vf.__version__}, torch {torch.__version__}, {python}")
    typer.echo(
        f"threads {torch.get_num_threads()}, torch's CPU code {torch.backends.cpu.get_cpu_capability()}, GPU {gpu}"
    )
    typer.echo(backends.report())


@app.command("demo")
@user_errors
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for samples.png, reconstructions.png, checkpoint/")] = Path("out"),
    seconds: Annotated[float, typer.Option(min=1, help="Limit of the training time, in seconds")] = demo.SECONDS,
) -> None:
    """The main job on embedded digits, 2-3 minutes."""
    try:
        found = demo.run(out, seconds=seconds, say=typer.echo)
    except training.Interrupted as interrupt:  # whose advice is for `train`
        raise training.Interrupted("interrupted: the same command starts the demo again") from interrupt
    if found.wrong_images:
        raise RuntimeError(
            f"the samplers disagree: {found.wrong_images} of {found.images} images first differ where the logit is not "
            f"within {demo.GAP:g} of its threshold"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda"):
            torch.empty(0, device=device)
            return device
        reason = "of another type"
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        reason = str(error)
    raise ValueError(f"--device: must be auto, cpu or a cuda device that is there, got {name!r}: {reason}")
