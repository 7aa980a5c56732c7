"""made_inverse in CUDA without a GPU: its sources compiled for the host, see cuda_host."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.made_inverse import CASES, any_degrees, check_rows_are_independent, rows_of
from cases.made_inverse_walks import CHECKS
from cases.mutated import mutated

from vlae_fast.backends import cuda
from vlae_fast.testing import Case, check_op, made_case, run

pytestmark = pytest.mark.usefixtures("cuda")

FORWARD_CASES = [
    made_case(11, 63, (129, 200), activation="elu", cond=True),
    made_case(9, 63, (77,), affine=False, activation="tanh"),
    any_degrees(made_case(10, 63, (129, 200, 65))),
    made_case(9, 5, (300, 300)),  # blocks that end amid a degree
    made_case(2, 130, ()),
    made_case(3, 3, (5,) * 40),  # layers that share a lane's rows with none
    any_degrees(made_case(11, 63, (129, 90), steps=3, activation="elu", cond=True)),
]


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_agrees_with_reference(case: Case) -> None:
    check_op(case, "cuda")


@pytest.mark.parametrize("case", FORWARD_CASES, ids=str)
@pytest.mark.parametrize("processors", [1, pytest.param(3, marks=pytest.mark.slow), 132])
def test_tiles_of_any_size(case: Case, processors: int, gpu: Callable[..., None]) -> None:
    gpu(processors)
    check_op(case, "cuda", grad=False)


def test_more_layers_than_a_call_takes() -> None:
    case = any_degrees(made_case(3, 4, (5,), steps=259, cond=True))
    small = {name: [0.03 * t for t in case.tensors[name]] for name in ("weights", "biases")}
    check_op(Case("small", case.op, case.tensors | small, case.options), "cuda", grad=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        any_degrees(made_case(5, 12, (21, 30), activation="elu", cond=True)),
        made_case(9, 20, (40, 70)),
        made_case(2, 3, ()),
        made_case(9, 20, (40, 70), steps=2),
    ],
    ids=str,
)
def test_half_precision(case: Case, dtype: torch.dtype) -> None:
    check_op(case.to(dtype), "cuda", grad=False)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_same_bits(dtype: torch.dtype, gpu: Callable[..., None]) -> None:
    """Whatever the batch, the tile and the order of the threads."""
    case = any_degrees(made_case(19, 30, (90, 70), activation="tanh", cond=True, steps=2)).to(dtype)
    outs, _ = run(case, "cuda")
    for settings in ({"processors": 1}, {"processors": 7, "order": "backward"}, {"processors": 10}):
        gpu(**settings)
        for rows in (slice(0, 19), slice(4, 5)):
            part = Case(case.name, case.op, {**case.tensors, **rows_of(case, rows)}, case.options)
            assert all(a.equal(b[rows]) for a, b in zip(run(part, "cuda")[0], outs, strict=True)), settings


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_walk(check: Callable[[str], None]) -> None:
    check("cuda")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_spoils_no_other(value: float) -> None:
    check_rows_are_independent("cuda", 2, "exp", value)


CASE = made_case(3, 4, (6,), cond=True)


def arguments(**changed: Any) -> dict[str, Any]:
    """Arguments of the library's op, which is called without the contract's checks too."""
    t = {
        k: [v.contiguous() for v in value] if isinstance(value, list) else value.contiguous()
        for k, value in CASE.tensors.items()
    }
    tables, header = cuda._OPS.made_plan(t.pop("degrees"))
    return {**t, "tables": tables, "header": header, "activation": "relu", "scale": "exp"} | changed


def forged(**words: int) -> torch.Tensor:
    """A header like CASE's, but for some of its words."""
    names = ("magic", "blocks", "quads", "events", "values", "fours", "event_fours", "layers", "first_size")
    honest = (0x564C414D, 1, 3, 8, 10, 60, 40, 2, 4)
    values = [words.get(name, value) for name, value in zip(names, honest, strict=True)]
    return torch.tensor([*values, 6, 8])


EPS, WEIGHTS = torch.randn(3, 4), CASE.tensors["weights"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": EPS.double()}, "eps must be float32, bfloat16 or float16, got"),
        ({"eps": EPS.bfloat16()}, r"weights\[0\] must be bfloat16, got"),
        ({"cond": torch.zeros(3, 6).half()}, "cond must be float32, got"),
        ({"eps": EPS[0]}, r"eps must be \[B, 4\], got \(4,\)"),
        ({"eps": EPS.T.contiguous().T}, r"eps must be contiguous, got strides \(1, 3\)"),
        ({"weights": []}, "weights, biases must have S L entries, L = 2 as planned, S >= 1, S L <= 512, got 0, 2"),
        ({"weights": WEIGHTS[:1], "biases": [torch.zeros(6)]}, "weights, biases must have S L entries, .* got 1, 1"),
        ({"weights": WEIGHTS * 257, "biases": CASE.tensors["biases"] * 257}, "weights, biases must .* got 514, 514"),
        ({"weights": [torch.zeros(6, 5), torch.zeros(8, 6)]}, r"weights\[0\] must be \(6, 4\), got \(6, 5\)"),
        ({"biases": [torch.zeros(5), torch.zeros(8)]}, r"biases\[0\] must be \(6,\), got \(5,\)"),
        ({"cond": torch.zeros(2, 6)}, r"cond must be \(3, 6\), got \(2, 6\)"),
        ({"activation": "gate"}, "activation must be one of relu, .*, got gate"),
        ({"scale": "none"}, "scale must be one of exp, clipped_exp, softplus, sigmoid, exp_slope, bernoulli, got none"),
        ({"header": torch.zeros(11, dtype=torch.int64)}, "header must come from made_plan"),
        ({"header": torch.zeros(0, dtype=torch.int64)}, "header must come from made_plan"),
        ({"header": forged(layers=0)[:9]}, "header must come from made_plan"),
        ({"header": forged(quads=2**62)}, "header must come from made_plan"),
        ({"header": forged(fours=-1)}, "header must come from made_plan"),
        ({"header": forged(first_size=-4)}, "header must come from made_plan"),
        ({"tables": torch.zeros(7, dtype=torch.int32)}, r"tables must be \(\d+,\), got \(7,\)"),
    ],
)
def test_arguments_that_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"made_inverse: {message}"):
        cuda._OPS.made_inverse(**arguments(**changed))


@pytest.mark.parametrize(
    ("degrees", "message"),
    [
        ([torch.tensor([1])] * 1, r"degrees must have 2..513 entries, got 1"),
        ([torch.tensor([1]), *[torch.tensor([0])] * 513], r"degrees must have 2..513 entries, got 514"),
        ([torch.tensor([1.0]), torch.tensor([0])], r"degrees\[0\] must be int64"),
        ([torch.tensor([[1]]), torch.tensor([0])], r"degrees\[0\] must be \[n\]"),
        ([torch.zeros(0, dtype=torch.int64)] * 2, r"degrees\[0\] must be \[D\] with D >= 1"),
        ([torch.tensor([1, 1]), torch.tensor([0, 0])], r"degrees\[0\] must be a permutation of 1..2, got 1 at index 1"),
        ([torch.tensor([1, 2]), torch.tensor([0])], r"weights\[-1\] must have D = 2"),
        ([torch.tensor([1, 2]), torch.tensor([0, 2])], r"degrees\[-1\] must be degrees\[0\] - 1"),
    ],
)
def test_degrees_that_are_refused(degrees: list[torch.Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"made_plan: {message}"):
        cuda._OPS.made_plan(degrees)


def test_hostile_arguments_run_or_are_refused() -> None:
    """One or two arguments changed at random, but not what `made_plan` gave: a result or a RuntimeError."""
    rng, refused = random.Random(0), 0
    given = arguments()
    for _ in range(300):
        changed = dict(given)
        for name in rng.choices(("eps", "weights", "biases", "cond", "activation"), k=rng.randint(1, 2)):
            try:
                changed[name] = mutated(changed[name], rng)
            except (RuntimeError, IndexError):  # there is no such tensor
                continue
        try:
            cuda._OPS.made_inverse(**changed)
        except RuntimeError:
            refused += 1
    assert refused > 100
