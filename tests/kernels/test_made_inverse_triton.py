"""made_inverse in Triton: what its blocks, its memory of the degrees and its packed weights could get wrong.

What is asked of another row too takes its name; see test_made_inverse_cuda.py.
"""

import pytest
import torch
from conftest import require
from test_made_inverse import any_degrees, forward

from vlae_fast import backends
from vlae_fast.ops import made_inverse
from vlae_fast.reference.arguments import Layers, Transform
from vlae_fast.testing import Case, check_op, made_case, uninitialised_is_nan

CASE = any_degrees(made_case(11, 9, (14, 11), cond=True))


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


@pytest.mark.parametrize(
    "blocks",
    [
        {"BM": 8, "BN": 16, "BK": 16, "S": 16},
        {"BM": 16, "BN": 32, "BK": 16, "S": 32},
        {"BM": 4, "BN": 16, "BK": 32, "S": 64},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "case",
    [CASE, made_case(5, 2, (21, 5), affine=False, activation="elu"), made_case(3, 7, (9,) * 5, activation="tanh")],
    ids=str,
)
def test_any_blocks(case: Case, blocks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.kernels import launch

    monkeypatch.setattr(launch, "config", lambda *_: {**blocks, "num_warps": 4, "num_stages": 2})
    check_op(case, "triton", grad=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_several_blocks_of_the_shipped_size(dtype: torch.dtype) -> None:
    check_op(made_case(9, 20, (40, 70)).to(dtype), "triton", grad=False)


def test_low_precision_undoes_its_own_x(backend: str = "triton") -> None:
    """Each x is rounded before others see it, so that errors do not grow along the dimensions."""
    case = made_case(4, 40, (50,), activation="tanh").to(torch.bfloat16)
    x, _ = made_inverse(**case.tensors, **case.options, backend=backend)
    eps, _ = forward(case.to(torch.float64), x.double())
    error = (eps - case.tensors["eps"].double()).abs()
    assert error.max() < 4 * torch.finfo(torch.bfloat16).eps * case.tensors["eps"].abs().max()


def test_dead_weights_may_be_anything(backend: str = "triton") -> None:
    t = dict(CASE.tensors)
    poisoned = [
        torch.where(out[:, None] >= into[None, :], w, torch.nan)
        for w, into, out in zip(t["weights"], t["degrees"][:-1], t["degrees"][1:], strict=True)
    ]
    with uninitialised_is_nan():
        want = made_inverse(**t, backend=backend)
        got = made_inverse(**{**t, "weights": poisoned}, backend=backend)
    for a, b in zip(got, want, strict=True):
        assert a.equal(b) and a.isfinite().all()


def test_bits_do_not_depend_on_the_batch(backend: str = "triton") -> None:
    t = {**CASE.tensors}
    whole, _ = made_inverse(**t, backend=backend)
    part, _ = made_inverse(**{**t, "eps": t["eps"][3:5], "cond": t["cond"][3:5]}, backend=backend)
    assert part.equal(whole[3:5])


def test_degrees_are_looked_at_once_until_they_change(monkeypatch: pytest.MonkeyPatch, backend: str = "triton") -> None:
    case = made_case(2, 4, (6,))
    t = {**case.tensors, "degrees": [d.clone() for d in case.tensors["degrees"]]}
    first, _ = made_inverse(**t, backend=backend)
    looks = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (looks.append(self), tolist(self))[1])
    assert made_inverse(**t, backend=backend)[0].equal(first) and not looks
    t["degrees"][1].fill_(2)
    changed, _ = made_inverse(**t, backend=backend)
    assert len(looks) == 1 and not changed.equal(first)
    torch.testing.assert_close(changed, made_inverse(**t, backend="reference")[0])


def test_degrees_are_checked_where_they_are_first_seen(backend: str = "triton") -> None:
    """On a GPU the op's own checks do not look at the values."""
    namespace = next(row for row in backends.TABLE if row.name == backend).namespace
    t = made_case(2, 3, (6,)).tensors
    inputs, hidden, outputs = t["degrees"]
    for degrees, match in (
        ([inputs - 1, hidden, outputs], r"degrees\[0\] must be a permutation of 1..3, got \[0, 1, 2\]"),
        ([inputs, hidden, outputs.flip(0)], r"degrees\[-1\] must be degrees\[0\] - 1, once per parameter, got"),
    ):
        with pytest.raises(ValueError, match=f"made_inverse: {match}"):
            namespace.made_inverse(t["eps"], Layers(t["weights"], t["biases"], degrees), Transform())


def test_inference_tensors(backend: str = "triton") -> None:
    """They have no version: their values are looked at in every call."""
    with torch.inference_mode():
        t = made_case(2, 3, (6,)).tensors
        x, _ = made_inverse(**t, backend=backend)
        t["degrees"][1].fill_(1)
        changed, _ = made_inverse(**t, backend=backend)
        torch.testing.assert_close(changed, made_inverse(**t, backend="reference")[0])
        assert not changed.equal(x)
