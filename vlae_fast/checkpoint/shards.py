"""A checkpoint of a model whose parameters were sharded between processes, as FSDP2 does.

    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    save(model.state_dict(), storage_writer=HuggingFaceStorageWriter(folder, save_distributed=True))  # in every process

writes safetensors files of shards; those of other writers have a pickle beside them, which is not read.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from .._extras import require
from .reading import Checkpoint, load
from .writing import write_model


def consolidate(shards: str | Path, like: str | Path, folder: str | Path) -> Checkpoint:
    """Puts the shards of a model together into a checkpoint, and returns that.

    Args:
        shards: folder of safetensors files that `torch.distributed.checkpoint` wrote of the model's ``state_dict()``.
        like: checkpoint of a model made of the same options, whose settings and history the new one has.
        folder: of the new checkpoint; without an optimizer's state.

    Raises:
        FileNotFoundError: no file of shards.
        ValueError: the shards are of another model, or some are missing.
    """
    parallel = require("torch.distributed.checkpoint")  # which takes a while to import
    shards, found = Path(shards), load(like)
    if not any(shards.glob("*.safetensors")):
        raise FileNotFoundError(f"shards: {shards} must be a folder with files of shards, *.safetensors, got none")
    state = found.model.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))  # which stays where no shard is
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as is meant
            parallel.load(state, storage_reader=parallel.HuggingFaceStorageReader(str(shards)), no_dist=True)
    except (parallel.CheckpointException, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"shards: {shards} must be of a model like {found.folder}: {said:.500}") from error
    found.model.load_state_dict(state)
    write_model(Path(folder), found.model, epoch=found.epoch, training=found.training, history=found.history)
    return load(folder)
