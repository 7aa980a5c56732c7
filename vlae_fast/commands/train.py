"""`train`: a model on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import data, training
from ..models.decoders.make import KINDS
from ..models.likelihood import LIKELIHOODS
from ..models.vlae import VLAE
from ..sampling import receptive_field as receptive_field_of
from .app import Binarization, Data, DataDir, Device, Seed, app, device_of, user_errors


@app.command()
@user_errors
def train(
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    epochs: Annotated[int, typer.Option(min=1, help="Train up to this epoch")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per update")] = 64,
    lr: Annotated[float, typer.Option(help="Step size, > 0")] = 1e-3,
    lr_decay: Annotated[float, typer.Option(help="Factor on the step size after each epoch")] = 1.0,
    lr_schedule: Annotated[
        str, typer.Option(help="constant, or cosine: the step size falls to 0 over all steps of --epochs")
    ] = "constant",
    optimizer: Annotated[str, typer.Option(help="adam or adamax")] = "adam",
    polyak: Annotated[
        float, typer.Option(help="Decay of the average of the weights that is evaluated and saved, 0 for none: 0.999")
    ] = 0.0,
    decoder: Annotated[str, typer.Option(help=", ".join(KINDS))] = "gated",
    likelihood: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(LIKELIHOODS)}  [default: bernoulli for binary data, else categorical]"),
    ] = None,
    components: Annotated[int, typer.Option(min=1, help="Logistics of a logistic_mixture")] = 10,
    latent_dim: Annotated[int, typer.Option(min=1, help="Dimensions of z")] = 32,
    hidden_dim: Annotated[int, typer.Option(min=1, help="Channels of the decoder")] = 64,
    n_layers: Annotated[int, typer.Option(min=1, help="Masked layers of the decoder")] = 3,
    z_channels: Annotated[
        int | None,
        typer.Option(min=0, help="Channels of the map that spreads z; 0: z as it is  [default: 16, resnet: 4]"),
    ] = None,
    kernel_size: Annotated[int, typer.Option(min=1, help="Side of the gated layers' kernels, odd")] = 3,
    initial_kernel: Annotated[int, typer.Option(min=1, help="Side of the first kernel, odd")] = 7,
    receptive_field: Annotated[
        int | None, typer.Option(min=3, help="Side of the window that the decoder sees, in place of --initial-kernel")
    ] = None,
    residual: Annotated[bool, typer.Option("--residual", help="Add a gated layer's input to its output")] = False,
    tied: Annotated[bool, typer.Option("--tied", help="resnet: one set of weights for all blocks")] = False,
    n_pointwise: Annotated[int, typer.Option(min=0, help="resnet: 1x1 blocks after the masked ones")] = 4,
    encoder: Annotated[str, typer.Option(help="conv, strided, mlp or resnet")] = "conv",
    encoder_hidden: Annotated[
        int | None, typer.Option(min=2, help="Channels of the encoder, if not those of the decoder")
    ] = None,
    weight_norm: Annotated[bool, typer.Option("--weight-norm", help="Encoder resnet: normalise the weights")] = False,
    posterior: Annotated[str, typer.Option(help="gaussian, or iaf: an inverse autoregressive flow of it")] = "gaussian",
    flow: Annotated[bool, typer.Option("--flow/--no-flow", help="Autoregressive flow prior, or N(0, I)")] = True,
    flow_transform: Annotated[str, typer.Option(help="Steps of the prior: affine or mean-only")] = "affine",
    flow_hidden: Annotated[int, typer.Option(min=1, help="Hidden units of each MADE of the prior")] = 256,
    flow_layers: Annotated[int, typer.Option(min=1, help="Hidden layers of each MADE of the prior")] = 2,
    flow_steps: Annotated[int, typer.Option(min=1, help="MADE transforms of the prior")] = 2,
    latent_map: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width of z as a map, with a convolutional flow prior")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Class-conditional: tell the model the labels")] = False,
    objective: Annotated[str, typer.Option(help="elbo, or iwae: the importance-weighted bound of --samples")] = "elbo",
    samples: Annotated[int, typer.Option(min=1, help="Draws of z per image and update")] = 1,
    beta: Annotated[float, typer.Option(min=0, help="Weight of the KL; 1 is the ELBO")] = 1.0,
    warmup_epochs: Annotated[
        float, typer.Option(min=0, help="Epochs over which the weight of the KL rises from 0, or a fraction of one")
    ] = 0.0,
    free_bits: Annotated[float, typer.Option(min=0, help="KL that costs nothing, in bits per image")] = 0.0,
    soft_free_bits: Annotated[
        float, typer.Option(min=0, help="KL, in bits per image, that its weight is steered to keep")
    ] = 0.0,
    denoise: Annotated[
        float,
        typer.Option(min=0, help="Noise on what the encoder sees: probability that a binary pixel flips, or sigma"),
    ] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Run folder: the checkpoint is OUT/checkpoint")] = Path("out/train"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT/checkpoint, if there is one")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start afresh and replace OUT/checkpoint")] = False,
) -> None:
    """Train a model; nats per image, bits per dimension."""
    images = data.load(data_name, data_dir, binarization)
    typer.echo(f"{images.name}: {images.split}; binarization: {images.binarization}")
    if labels and not images.n_classes:
        raise ValueError(f"--labels: {images.name} has no labels")
    likelihood = likelihood or ("bernoulli" if images.levels == 2 else "categorical")
    if z_channels is None:
        z_channels = 16 if decoder in ("gated", "two-stack", "pixelcnn++") else 0  # 0: left to the decoder
    torch.manual_seed(seed)
    model = VLAE(
        images.channels, latent_dim, hidden_dim, n_layers, flow, image_size=images.image_size, decoder=decoder,
        kernel_size=kernel_size, initial_kernel=initial_kernel, receptive_field=receptive_field, z_channels=z_channels,
        residual=residual, tied=tied, n_pointwise=n_pointwise, likelihood=likelihood, components=components,
        levels=256 if likelihood == "bernoulli" else images.levels, encoder=encoder, encoder_hidden=encoder_hidden,
        weight_norm=weight_norm, posterior=posterior, flow_transform=flow_transform, flow_hidden=flow_hidden,
        flow_layers=flow_layers, flow_steps=flow_steps, latent_map=latent_map,
        n_classes=images.n_classes if labels else 0,
    )  # fmt: skip
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    typer.echo(
        f"{n_parameters:,} parameters; {likelihood} likelihood; each pixel sees {receptive_field_of(model.decoder)}"
    )
    history = training.train(
        model, images, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, out_dir=out, resume=resume,
        overwrite=overwrite, device=device_of(device), objective=objective, samples=samples, beta=beta,
        warmup_epochs=warmup_epochs, free_bits=free_bits, soft_free_bits=soft_free_bits, denoise=denoise,
        lr_decay=lr_decay, lr_schedule=lr_schedule, optimizer=optimizer, polyak=polyak,
    )  # fmt: skip
    last = history[-1]
    figures = f"validation loss {last['valid_loss']:.2f} nats/image, {last['valid_bits_per_dim']:.4f} bits/dim"
    typer.echo(f"epoch {len(history)}: {figures}; checkpoint: {out / 'checkpoint'}")
