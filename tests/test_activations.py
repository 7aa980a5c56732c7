"""The table of activations: every backend has exactly what it says."""

import pytest
import torch
from cases.rows import backends_of, require

from vlae_fast import activations, backends, plan
from vlae_fast.masks import live_taps
from vlae_fast.ops import pixelcnn_pack, pixelcnn_sample
from vlae_fast.plan import Plan
from vlae_fast.reference.arguments import ConvOptions, Layers, Mask, Transform
from vlae_fast.sampling.program import Program
from vlae_fast.sampling.schedule import derive
from vlae_fast.testing import Case, check_op, conv_case, linear_case, made_case, made_layers_case

MAKE = {
    "masked_conv": lambda name: conv_case("B", (2, 3, 4, 5), 6, 3, activation=name, cond="vector"),
    "masked_linear": lambda name: linear_case(5, 9, 13, activation=name),
    "made": lambda name: made_layers_case(3, 4, (6, 5), activation=name, cond=True),
    "made_inverse": lambda name: made_case(3, 4, (6,), activation=name),
}


def able(row: str, request: pytest.FixtureRequest) -> str:
    """The row, which has to run here; CUDA's as compiled for the host."""
    if row == "cuda":
        request.getfixturevalue("cuda")
        return row
    return require(row)


def calls() -> list[tuple[str, Case]]:
    made = [(op, case(name)) for op, case in MAKE.items() for name in activations.names(op)]
    return [(row, case) for op, case in made for row in backends_of(op)]


@pytest.mark.parametrize(("row", "case"), calls(), ids=str)
def test_every_row_knows_the_activations_of_an_op(row: str, case: Case, request: pytest.FixtureRequest) -> None:
    check_op(case, able(row, request))


@pytest.mark.parametrize("name", activations.names("pixelcnn_sample"))
@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
def test_every_row_knows_the_codes_of_a_plan(row: str, name: str, request: pytest.FixtureRequest) -> None:
    able(row, request)
    width = 3 * activations.columns(name)
    program = Program(1)
    hidden = program.add([(0, torch.randn(width, 1, 3, 3), live_taps("A", (3, 3)))], torch.randn(width), name)
    program.add([(hidden, torch.randn(1, 3, 1, 1), ((0, 0),))])
    schedule = derive(tuple(program.stages), (3, 4))
    told, noise = Plan(1, schedule.slope, tuple(program.stages), schedule.leads), torch.rand(2, 1, 3, 4)
    (image, logits), (want, want_logits) = (
        pixelcnn_sample(noise, pixelcnn_pack(program.weights, told, backend=b), told, backend=b)
        for b in (row, "reference")
    )
    assert image.equal(want)
    torch.testing.assert_close(logits, want_logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("op", "row"), [(op, row) for op in MAKE for row in backends_of(op) if row in ("cpu", "cuda")])
def test_the_libraries_name_the_same(op: str, row: str, request: pytest.FixtureRequest) -> None:
    able(row, request)
    names = activations.names(op)
    case = MAKE[op](names[0])
    with pytest.raises(RuntimeError, match=f"{op}: activation must be one of {', '.join(names)}, got swish"):
        call_with(op, case, row, "swish")


def call_with(op: str, case: Case, row: str, activation: str) -> None:
    """The row's own function, without the contract's checks."""
    t = case.tensors
    function = getattr(next(r.namespace for r in backends.TABLE if r.name == row), op)
    if op == "masked_conv":
        function(t["x"], t["weight"], t["bias"], t["cond"], ConvOptions("B", activation=activation))
    elif op == "masked_linear":
        function(t["x"], t["weight"], t["bias"], Mask(t["in_degrees"], t["out_degrees"]), activation)
    elif op == "made":
        function(t["x"], Layers(t["weights"], t["biases"], t["degrees"]), activation)
    else:
        function(t["eps"], Layers(t["weights"], t["biases"], t["degrees"]), Transform(activation))


def test_codes_count_from_0() -> None:
    assert [row.code for row in map(activations.BY_NAME.get, plan.ACTIVATIONS)] == list(range(len(plan.ACTIVATIONS)))


def test_triton_has_the_codes_of_a_plan() -> None:
    require("triton")
    from vlae_fast.kernels import pixelcnn_packing

    assert pixelcnn_packing.ACTIVATIONS == plan.ACTIVATIONS


def test_a_library_refuses_a_code_that_has_no_row() -> None:
    require("cpu")
    words = Plan(1, 1, (plan.Stage(1, "none", -1, 0, (plan.Source(0, ((0, -1),)),)),), (0,)).words
    at = words.index(1, 7) + 1  # the activation follows the stage's out_channels, behind a head of 7 words
    words[at] = len(plan.ACTIVATIONS)
    weights = [torch.zeros(1, 1, 1), torch.zeros(1)]
    with pytest.raises(RuntimeError, match=rf"\(activation\) must be in 0\.\.{words[at] - 1}, got {words[at]}"):
        torch.ops.vlae_fast_cpu.pixelcnn_pack(weights, words, "")


def test_a_linear_layer_keeps_its_output_alone() -> None:
    """Its backward is given the output and nothing that only a pre-activation would tell."""
    assert all(activations.BY_NAME[name].slope_of_output for name in activations.names("masked_linear"))
