"""Where memory runs out inside of an op."""

from collections.abc import Callable

import pytest
import torch
from cases.rows import require

from vlae_fast import ops

MANY = 1 << 22


def linear(weight: torch.Tensor) -> torch.Tensor:
    inputs, outputs = (torch.zeros(n, dtype=torch.int64) for n in (1, MANY))
    return ops.masked_linear(torch.zeros(MANY, 1), weight, in_degrees=inputs, out_degrees=outputs, backend="cpu")


def conv(weight: torch.Tensor) -> torch.Tensor:
    return ops.masked_conv(torch.zeros(1, 1, 2048, 2048), weight[:, :, None, None], mask_type="B", backend="cpu")


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError, RuntimeError])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("op", "name"), [(linear, "masked_linear"), (conv, "masked_conv")])
def test_the_error_names_op_and_bytes(op: Callable, name: str, grad: bool, kind: type[Exception]) -> None:
    require("cpu")
    weight = torch.zeros(MANY, 1, requires_grad=grad)
    with pytest.raises(kind, match=f"^{name}: memory must hold {4 * MANY * MANY} bytes more, got none$"):
        op(weight)
