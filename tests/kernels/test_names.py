"""Names of Triton kernels, as a profiler and the report of `benchmarks.kernels` show them; and what they refuse."""

import ast
import csv
import re
from pathlib import Path

import pytest
import torch
from cases.rows import require

ROOT = Path(__file__).parents[2]
NAME = re.compile(
    r"(masked_conv|masked_linear|made|made_inverse|pixelcnn_sample|activation|parts)"
    r"_(forward|backward|slope|grad_x|grad_weight|pack|sums|walk|add)_kernel"
)


def kernels() -> list[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "kernels").glob("*.py"))]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if f.name.endswith("_kernel")]


def test_a_kernel_says_its_family_and_what_it_does() -> None:
    names = kernels()
    assert len(set(names)) == len(names) > 0
    assert [name for name in names if not NAME.fullmatch(name)] == []


def test_the_report_lists_every_kernel_by_its_name() -> None:
    with (ROOT / "benchmarks" / "results" / "triton_kernels.csv").open(newline="", encoding="utf-8") as file:
        assert {row["kernel"] for row in csv.DictReader(file)} == {*kernels()}


@pytest.mark.parametrize("activation", ["mish", "gate ", ""])
def test_an_activation_that_a_kernel_lacks_does_not_compile(activation: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    require("triton", device)
    from vlae_fast.kernels import masked_linear
    from vlae_fast.kernels.live_tiles import Mask
    from vlae_fast.kernels.slope import slope

    x = torch.ones(1, 16, device=device)
    with pytest.raises(Exception, match="activate: ACTIVATION must be"):
        masked_linear.forward(
            x, torch.ones(16, 16, device=device), None, Mask(torch.ones(16, 16, device=device).bool()), activation
        )
    with pytest.raises(Exception, match="times_slope: ACTIVATION must be"):
        slope(x.shape, x.dtype, x.device, activation)(x, x)
