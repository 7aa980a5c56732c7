"""made_inverse on a device: what its memory of the degrees, its rounding and its packed weights could get wrong."""

from collections.abc import Callable

import pytest
import torch

from cases.made_inverse import any_degrees, forward
from vlae_fast import backends
from vlae_fast.ops import made_inverse
from vlae_fast.reference.arguments import Layers, Transform
from vlae_fast.testing import made_case, uninitialised_is_nan

CASE = any_degrees(made_case(11, 9, (14, 11), cond=True))


def low_precision_undoes_its_own_x(backend: str) -> None:
    """Each x is rounded before others see it, so that errors do not grow along the dimensions."""
    case = made_case(4, 40, (50,), activation="tanh").to(torch.bfloat16)
    x, _ = made_inverse(**case.tensors, **case.options, backend=backend)
    eps, _ = forward(case.to(torch.float64), x.double())
    error = (eps - case.tensors["eps"].double()).abs()
    assert error.max() < 4 * torch.finfo(torch.bfloat16).eps * case.tensors["eps"].abs().max()


def dead_weights_may_be_anything(backend: str) -> None:
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


def bits_do_not_depend_on_the_batch(backend: str) -> None:
    t = {**CASE.tensors}
    whole, _ = made_inverse(**t, backend=backend)
    part, _ = made_inverse(**{**t, "eps": t["eps"][3:5], "cond": t["cond"][3:5]}, backend=backend)
    assert part.equal(whole[3:5])


def degrees_are_looked_at_once_until_they_change(backend: str) -> None:
    case = made_case(2, 4, (6,))
    t = {**case.tensors, "degrees": [d.clone() for d in case.tensors["degrees"]]}
    first, _ = made_inverse(**t, backend=backend)
    looks: list[torch.Tensor] = []
    tolist = torch.Tensor.tolist
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", lambda self: (looks.append(self), tolist(self))[1])
        assert made_inverse(**t, backend=backend)[0].equal(first) and not looks
        t["degrees"][1].fill_(2)
        changed, _ = made_inverse(**t, backend=backend)
    assert len(looks) == 1 and not changed.equal(first)
    torch.testing.assert_close(changed, made_inverse(**t, backend="reference")[0])


def degrees_are_checked_where_they_are_first_seen(backend: str) -> None:
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


def inference_tensors(backend: str) -> None:
    """They have no version: their values are looked at in every call."""
    with torch.inference_mode():
        t = made_case(2, 3, (6,)).tensors
        x, _ = made_inverse(**t, backend=backend)
        t["degrees"][1].fill_(1)
        changed, _ = made_inverse(**t, backend=backend)
        torch.testing.assert_close(changed, made_inverse(**t, backend="reference")[0])
        assert not changed.equal(x)


CHECKS: dict[str, Callable[[str], None]] = {
    "low precision undoes its own x": low_precision_undoes_its_own_x,
    "dead weights may be anything": dead_weights_may_be_anything,
    "bits do not depend on the batch": bits_do_not_depend_on_the_batch,
    "degrees are looked at once until they change": degrees_are_looked_at_once_until_they_change,
    "degrees are checked where they are first seen": degrees_are_checked_where_they_are_first_seen,
    "inference tensors": inference_tensors,
}
