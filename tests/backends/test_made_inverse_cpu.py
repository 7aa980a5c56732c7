"""made_inverse in the CPU library: the same bits in any batch, wide networks, its own checks."""

import pytest
import torch
from cases.made_inverse import any_degrees, forward, rows_of
from cases.rows import require

from vlae_fast.backends import cpu
from vlae_fast.reference.arguments import Layers, Transform
from vlae_fast.testing import Case, budget, made_case, run

T = made_case(2, 3, (6,)).tensors
DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    "case",
    [made_case(65, 784, (1024, 1024)), any_degrees(made_case(3, 784, (1000, 999), activation="elu", cond=True))],
    ids=str,
)
def test_wide_inverse_is_undone(case: Case) -> None:
    """Where the reference's D passes would take minutes, one pass of the transform tells as much."""
    require("cpu")
    x, log_det = natively(case)
    double = case.to(torch.float64)
    eps, forward_log_det = forward(double, x.double())
    torch.testing.assert_close(eps, double.tensors["eps"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det.double(), forward_log_det, rtol=1e-5, atol=1e-4)


def natively(case: Case, isa: str = "", rows: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    t = {**case.tensors, **rows_of(case, rows)}
    eps, *layers = t.values()
    log_dets = []
    for step in Layers(*layers).steps():
        (x,), log_det = cpu.made_inverse(eps, step, Transform(**case.options), isa)
        eps, log_dets = x.flip(1), [*log_dets, log_det]
    return x, sum(log_dets)


@pytest.mark.parametrize(
    ("dtype", "isa"), [(dtype, isa) for dtype in DTYPES for isa in cpu.isas(dtype)] or [(torch.float32, "absent")]
)
@pytest.mark.parametrize(
    "case",
    [
        made_case(100, 20, (50, 33), activation="tanh", cond=True),
        any_degrees(made_case(75, 13, (40, 40, 40), activation="elu")),
        made_case(19, 6, (64,), affine=False),
        made_case(19, 6, (64,), scale="softplus"),
        made_case(19, 6, (64,), steps=2),
    ],
    ids=str,
)
def test_same_bits(case: Case, dtype: torch.dtype, isa: str) -> None:
    """A sample's result depends neither on its batch nor on the threads, on every instruction set."""
    require("cpu")
    case = case.to(dtype)
    (truth, _), (same_dtype, _) = run(case.to(torch.float64), "reference"), run(case, "reference")
    whole = natively(case, isa)
    for got, want, same in zip(whole, truth, same_dtype, strict=True):
        assert (got.double() - want).abs().max() <= budget(want, same)
    threads, size = torch.get_num_threads(), case.tensors["eps"].shape[0]
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            for rows in (slice(0, size), slice(4, 5), slice(1, size), slice(2, 19)):
                for got, want in zip(natively(case, isa, rows), whole, strict=True):
                    assert got.equal(want[rows])
    finally:
        torch.set_num_threads(threads)


def test_native_checks_what_it_is_given() -> None:
    """The library is called without the contract's checks too."""
    require("cpu")
    eps, weights, biases, degrees = (T[k] for k in ("eps", "weights", "biases", "degrees"))

    given = {"eps": eps.contiguous(), "weights": [w.contiguous() for w in weights], "biases": biases}
    given |= {"degrees": degrees, "cond": None, "activation": "relu", "scale": "exp", "isa": ""}
    repeated = [torch.tensor([1, 1, 3]), *degrees[1:]]
    for wrong, match in (
        ({"eps": eps[0]}, r"eps must be \[B, D\], got \(3,\)"),
        ({"eps": eps.double().contiguous()}, "eps must be float32, got"),
        ({"eps": eps.contiguous()[:, ::2]}, r"eps must be contiguous, got strides \(3, 2\)"),
        ({"weights": []}, "weights, biases, degrees must have L, L and L \\+ 1 entries with L >= 1, got 0, 2, 3"),
        ({"weights": [torch.zeros(6, 4), weights[1]]}, r"weights\[0\] must be \[O, 3\], got \(6, 4\)"),
        ({"weights": [weights[0].contiguous(), torch.zeros(5, 6)], "biases": [biases[0], torch.zeros(5)],
          "degrees": [*degrees[:2], torch.zeros(5).long()]}, r"weights\[-1\] must have D = 3 .* outputs, got 5"),
        ({"biases": [torch.zeros(5), biases[1]]}, r"biases\[0\] must be \(6,\), got \(5,\)"),
        ({"degrees": [degrees[0], degrees[1].int(), degrees[2]]}, r"degrees\[1\] must be int64, got"),
        ({"degrees": repeated}, r"degrees\[0\] must be a permutation of 1..3, got 1 at index 1"),
        ({"degrees": [*degrees[:2], degrees[2].sort().values]}, r"degrees\[-1\] must be degrees\[0\] - 1"),
        ({"cond": torch.zeros(2, 5)}, r"cond must be \(2, 6\), got \(2, 5\)"),
        ({"activation": "none"}, "activation must be one of relu, .*, got none"),
        ({"scale": "none"}, "scale must be one of exp, clipped_exp, softplus, sigmoid, exp_slope, bernoulli, got none"),
        ({"isa": "mmx"}, "isa must be empty or one of .*, got mmx"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"made_inverse: {match}"):
            torch.ops.vlae_fast_cpu.made_inverse(**given | wrong)
