"""Parts that only the Triton kernels of `masked_linear` have: lists of live tiles, sums in parts."""

import gc
import weakref

import pytest
import torch
from cases.masked_linear import any_degrees, tiled_degrees
from cases.rows import require

from vlae_fast.masks import linear_mask
from vlae_fast.ops import masked_linear
from vlae_fast.testing import Case, check_op, linear_case, run

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
require("triton", DEVICE, allow_module_level=True)

from vlae_fast.kernels import launch, live_tiles  # noqa: E402
from vlae_fast.kernels.live_tiles import Mask  # noqa: E402
from vlae_fast.kernels.parts import add_parts  # noqa: E402


def with_degrees(in_degrees: torch.Tensor, out_degrees: torch.Tensor) -> Case:
    case = linear_case(5, len(in_degrees), len(out_degrees), activation="relu")
    return Case(
        "degrees", case.op, {**case.tensors, "in_degrees": in_degrees, "out_degrees": out_degrees}, case.options
    )


SORTED = linear_case(1, 100, 130)
MASKS = {
    "sorted": SORTED,
    "reversed": with_degrees(torch.arange(96).flip(0), torch.arange(64).flip(0)),
    "tiled": tiled_degrees(SORTED),
    "any": any_degrees(SORTED),
    "all_dead": with_degrees(torch.arange(40) + 9, torch.zeros(33, dtype=torch.int64)),
    "one": linear_case(1, 1, 1),
    "adjacency": linear_case(1, 50, 70, adjacency=True),
}


def mask_of(case: Case) -> tuple[Mask, torch.Tensor]:
    """The mask as the kernels have it, and as a tensor."""
    t = case.to(device=DEVICE).tensors
    if "adjacency" in t:
        return Mask(t["adjacency"]), t["adjacency"].cpu()
    return Mask(t["out_degrees"], t["in_degrees"]), linear_mask(t["in_degrees"], t["out_degrees"]).cpu()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_walks_meet_every_live_tile_once(name: str, transposed: bool) -> None:
    mask, live = mask_of(MASKS[name])
    live = live.T if transposed else live
    block_n, block_k = 32, 16
    walks = mask.walks(block_n, block_k, transposed=transposed).tolist()
    n_k = -(-live.shape[1] // block_k)
    assert sorted(walk[0] for walk in walks) == list(range(-(-live.shape[0] // block_n)))
    lengths = []
    for tile, full_runs, runs, *bounds in walks:
        rows = live[tile * block_n : (tile + 1) * block_n]
        spans = [range(*bounds[2 * i : 2 * i + 2]) for i in range(runs)]
        full, partial = ([k for span in part for k in span] for part in (spans[:full_runs], spans[full_runs:]))
        for k in range(n_k):
            there = rows[:, k * block_k : (k + 1) * block_k]
            assert (k in full) == (there.all().item() and there.shape[1] == block_k)
            assert (k in full or k in partial) == there.any().item()
        assert len({*full, *partial}) == len(full) + len(partial)
        lengths.append(len(full) + len(partial))
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("name", MASKS)
def test_tiles_are_all_there_the_live_ones_first(name: str) -> None:
    mask, live = mask_of(MASKS[name])
    tiles = mask.tiles(16, 32).tolist()
    width = -(-live.shape[1] // 32)
    assert sorted(t if t >= 0 else -1 - t for t in tiles) == list(range(-(-live.shape[0] // 16) * width))
    assert [t >= 0 for t in tiles] == sorted((t >= 0 for t in tiles), reverse=True)
    for t in tiles:
        row, column = divmod(t if t >= 0 else -1 - t, width)
        assert live[row * 16 : (row + 1) * 16, column * 32 : (column + 1) * 32].any().item() == (t >= 0)


def test_sorted_degrees_are_one_run_of_full_tiles() -> None:
    mask, _ = mask_of(with_degrees(torch.arange(256), torch.arange(256)))
    walks = mask.walks(32, 16)
    assert walks[:, 1].tolist() == [1] * 7 + [0]  # the first tile of outputs has none
    assert (walks[:, 2] - walks[:, 1] == 1).all()


def test_what_was_found_is_kept_until_the_degrees_change() -> None:
    degrees = [torch.arange(40, device=DEVICE), torch.arange(50, device=DEVICE)]
    first = Mask(*degrees).walks(16, 16)
    assert Mask(*degrees).walks(16, 16) is first
    before = first.clone()
    degrees[0].zero_()
    again = Mask(*degrees).walks(16, 16)
    assert again is first and not again.equal(before)  # in the same memory, for the sake of captured graphs
    assert again.equal(Mask(*(d.clone() for d in degrees)).walks(16, 16))


def test_nothing_is_kept_longer_than_the_degrees() -> None:
    degrees = [torch.arange(40, device=DEVICE), torch.arange(50, device=DEVICE)]
    mask = Mask(*degrees)
    mask.walks(16, 16)
    kept, before = weakref.ref(mask.data()), len(live_tiles._FOUND)
    del degrees, mask
    gc.collect()
    assert kept() is None and len(live_tiles._FOUND) == before - 1


def test_changed_degrees_give_the_changed_layer() -> None:
    case = linear_case(3, 20, 30).to(device=DEVICE)
    require("triton")
    run(case, "triton")
    case.tensors["out_degrees"].sub_(4)
    check_op(case, "triton")


def test_tensors_of_inference_mode() -> None:
    with torch.inference_mode():
        degrees = {"in_degrees": torch.arange(20, device=DEVICE), "out_degrees": torch.arange(30, device=DEVICE)}
        x, weight = torch.randn(4, 20, device=DEVICE), torch.randn(30, 20, device=DEVICE)
        for _ in range(2):
            y = masked_linear(x, weight, **degrees, backend=require("triton"))
            torch.testing.assert_close(y, masked_linear(x, weight, **degrees, backend="reference"))
            degrees["out_degrees"] -= 3  # no version counts this


@pytest.mark.parametrize(
    "case",
    [
        with_degrees(torch.arange(40) << 40, torch.arange(33) << 40),  # more than 32 bits
        with_degrees(torch.arange(40, dtype=torch.int32), torch.arange(33, dtype=torch.uint8)),
        *(MASKS[name] for name in ("reversed", "all_dead")),
        linear_case(1100, 20, 24, activation="tanh"),  # the gradient of the weight in two parts, rows in three groups
    ],
    ids=["wide", "narrow", "reversed", "all_dead", "parts"],
)
def test_agrees_with_reference(case: Case) -> None:
    check_op(case.to(device=DEVICE), require("triton"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1000, 7), (3, 5, 300), (2, 0, 4), (1, 2, 0)])
def test_parts(shape: tuple[int, ...]) -> None:
    require("triton")
    parts = torch.randn(shape, device=DEVICE)
    torch.testing.assert_close(add_parts(parts, torch.float32), parts.double().sum(1).float(), rtol=1e-5, atol=1e-5)
    assert add_parts(parts, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(("warps", "expected"), [(16, (8, 128)), (8, (8, 128)), (4, (4, 255)), (6, (6, 170))])
def test_as_many_programs_fit_with_fewer_warps(warps: int, expected: tuple[int, int]) -> None:
    """Threads times registers are as many; the compiler takes up to 255."""
    config = {"num_warps": 8, "maxnreg": 128}
    launch.limit_warps(config, warps)
    assert (config["num_warps"], config["maxnreg"]) == expected
    free = {"num_warps": 8}
    launch.limit_warps(free, warps)
    assert free == {"num_warps": expected[0]}
