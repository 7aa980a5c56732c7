"""A step of a model whose parameters are sharded between processes by FSDP2 is that of the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases.commands import call
from cases.processes import ended, results, start
from cases.runs import new_model, same
from torch import Tensor, nn

from vlae_fast import MADE, checkpoint, processes
from vlae_fast.checkpoint.shards import consolidate

KINDS = ("made", "gaussian", "iaf")


def whole_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return MADE(24, 512, 48) if kind == "made" else new_model(posterior=kind, decoder="two-stack")


def loss(model: nn.Module, kind: str, rows: slice) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind == "made":
        x = torch.randn(8, 24, generator=generator)
        return model(x[rows]).square().sum()
    x, noise = (torch.rand(8, 1, 8, 8, generator=generator) < 0.5).float(), torch.randn(8, 2, generator=generator)
    terms: Any = model.loss_terms(x[rows], noise=noise[rows])  # type: ignore[operator]
    return torch.stack(list(terms)).sum()


def sharded_step(rank: int, kind: str) -> tuple[float, float, float, int]:
    """Of one step: how far losses, and parameters after it, are apart; how far they moved; tensors that are sharded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    processes.join()
    mesh, model, sharded = init_device_mesh("cpu", (2,)), whole_model(kind), whole_model(kind)
    before = [p.detach().clone() for p in model.parameters()]
    for name in () if kind == "made" else ("encoder", "prior", "decoder"):
        fully_shard(sharded.get_submodule(name), mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    if kind == "iaf":
        register_fsdp_forward_method(sharded.get_submodule("encoder"), "with_context")
    expected, own = loss(model, kind, slice(None)), loss(sharded, kind, processes.share(8))
    expected.backward()
    (processes.count() * own).backward()  # FSDP takes means of the gradients
    for module in (model, sharded):
        torch.optim.Adam(module.parameters(), lr=1e-2).step()
    apart = moved = 0.0
    sharded_parameters: list[Any] = list(sharded.parameters())
    for p, theirs, first in zip(model.parameters(), sharded_parameters, before, strict=True):
        apart = max(apart, float((p - theirs.full_tensor()).abs().max()))
        moved = max(moved, float((p - first).abs().max()))
    total = processes.total(own.detach().clone())
    return abs(total.item() / expected.item() - 1), apart, moved, len(sharded_parameters)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_step_is_that_of_the_whole_model(kind: str) -> None:
    for loss_apart, apart, moved, tensors in results(sharded_step, 2, kind):
        assert loss_apart < 1e-5 and apart < 1e-4 and moved > 5e-3 and tensors > 5


def save_sharded(rank: int, folder: str) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    processes.join()
    model = new_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    if rank == 0:
        model.save_pretrained(f"{folder}/whole")
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    save(model.state_dict(), storage_writer=HuggingFaceStorageWriter(f"{folder}/shards", save_distributed=True))


@pytest.mark.slow
def test_shards_become_a_checkpoint(tmp_path: Path) -> None:
    found = ended(start(save_sharded, 2, str(tmp_path)))
    assert [one.code for one in found] == [0, 0], found
    new_model().save_pretrained(tmp_path / "like")
    result = call("consolidate", tmp_path / "shards", "--like", tmp_path / "like", "--out", tmp_path / "checkpoint")
    assert result.exit_code == 0, result.output
    whole, other = (checkpoint.load(tmp_path / name).model for name in ("whole", "checkpoint"))
    assert same(whole, other) and not same(whole, checkpoint.load(tmp_path / "like").model)
    new_model(hidden_dim=12).save_pretrained(tmp_path / "wider")
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) == 2
    for like, message in (("wider", "must be of a model like"), ("like", "must be")):
        with pytest.raises(ValueError, match=message):
            consolidate(tmp_path / "shards", tmp_path / like, tmp_path / "again")
        files[1].unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"shards: .* must be a folder with files of shards"):
        consolidate(tmp_path / "like" / "none", tmp_path / "like", tmp_path / "again")
    assert not (tmp_path / "again").exists()
