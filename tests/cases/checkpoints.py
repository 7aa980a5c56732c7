"""Small models that were trained a little, and their checkpoints."""

import json
from pathlib import Path
from typing import Any

import torch

from vlae_fast import VLAE, checkpoint, loss_function

SIZES = {"input_dim": 1, "latent_dim": 2, "hidden_dim": 4, "n_layers": 1, "image_size": (6, 6), "flow_hidden": 8}


def trained(steps: int = 2) -> tuple[VLAE, torch.optim.Adam]:
    torch.manual_seed(0)
    model = VLAE(**SIZES)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        update(model, optimizer)
    return model, optimizer


def update(model: VLAE, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(1)
    x = (torch.rand(3, 1, 6, 6) < 0.5).float()
    out = model(x)
    optimizer.zero_grad()
    loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz).backward()
    optimizer.step()


def save(folder: Path, epoch: int = 1, model: VLAE | None = None) -> VLAE:
    trained_model, optimizer = trained()
    if model is not None:
        optimizer = torch.optim.Adam(model.parameters())
    history = [{"epoch": float(i + 1)} for i in range(epoch)]
    checkpoint.save(folder, model or trained_model, optimizer, epoch=epoch, training={"seed": 3}, history=history)
    return trained_model


def edit(folder: Path, change: dict[str, Any], *, model: bool = False) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config["model"] if model else config).update(change)
    path.write_text(json.dumps(config))
