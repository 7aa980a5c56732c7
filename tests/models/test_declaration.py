"""The options of a VLAE are declared once: a new one reaches constructor, checkpoint and command line by itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

import vlae_fast as vf
from vlae_fast.checkpoint import build
from vlae_fast.checkpoint.config import broken_rule
from vlae_fast.models import options, rules, vlae
from vlae_fast.models.decoders import MLPDecoder
from vlae_fast.models.decoders.kinds import KINDS

SMALL = {"latent_dim": 4, "hidden_dim": 8, "n_layers": 1, "image_size": (6, 5), "flow_hidden": 12}


class ShiftedDecoder(MLPDecoder):
    """A decoder of a new kind with an option of its own."""

    def __init__(self, *sizes: int, shift: int = 0, **others: Any) -> None:
        super().__init__(*sizes, **others)
        self.shift = shift

    def parameters_of(self, x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        return super().parameters_of(x, context) + self.shift


@pytest.fixture
def with_shift(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The two changes that docs/extending.md names: a row and a field; then the decoder."""
    if importlib.util.find_spec("typer"):
        importlib.import_module("vlae_fast.commands")  # reads the declaration: the one that other tests know
    shift = rules.option(0, rules.Whole(0, 9), "Added to the logits", part="decoder")
    declaration = dataclasses.make_dataclass(
        "Options", [("shift", int, shift)], bases=(options.Options,), frozen=True, kw_only=True
    )
    monkeypatch.setattr(options, "Options", declaration)
    monkeypatch.setitem(KINDS, "shifted", ShiftedDecoder)
    yield


def read_again(module: ModuleType) -> ModuleType:
    """A second copy of a module, as an import makes it where the declaration is the one of the moment."""
    assert module.__file__
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_again", module.__file__)
    assert spec and spec.loader
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


@pytest.mark.parametrize(
    "given",
    [{}, {"z_channels": 0}, {"decoder": "resnet"}, {"decoder": "mlp", "use_flow": False}, {"encoder_norm": "weight"},
     {"latent_dim": 18, "latent_map": [3, 3]}, {"likelihood": "gaussian", "likelihood_sigma": 0.5}],
)  # fmt: skip
def test_a_config_is_made_again_of_the_options_that_it_must_be_given(given: dict[str, Any]) -> None:
    config = options.chosen(**given).config()
    assert options.to_give(config) == given and options.chosen(**options.to_give(config)).config() == config


@pytest.mark.usefixtures("with_shift")
def test_a_new_option_is_one_of_the_constructor() -> None:
    plain, model = (vf.VLAE(**SMALL, decoder="shifted", shift=shift) for shift in (0, 3))
    model.load_state_dict(plain.state_dict())
    x, z = torch.zeros(2, 1, 6, 5), torch.randn(2, 4)
    assert model.decoder(x, z).equal(plain.decoder(x, z) + 3)
    assert inspect.signature(read_again(vlae).VLAE).parameters["shift"].default == 0
    with pytest.raises(ValueError, match="VLAE: shift must be at least 0, got -1"):
        vf.VLAE(**SMALL, decoder="shifted", shift=-1)
    with pytest.raises(ValueError, match="a 'gated' decoder has no option shift, got 1"):
        vf.VLAE(**SMALL, shift=1)


@pytest.mark.usefixtures("with_shift")
def test_a_new_option_is_bounded_in_a_checkpoint() -> None:
    model = vf.VLAE(**SMALL, decoder="shifted", shift=3)
    assert model.config["shift"] == 3 and build(model.config, "meta").decoder.shift == 3
    assert broken_rule("shift", 9) is None
    assert broken_rule("shift", 10) == broken_rule("shift", "1") == "an integer from 0 to 9"


@pytest.mark.usefixtures("with_shift")
def test_a_new_option_is_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from vlae_fast.commands import app, train

    monkeypatch.setattr(app, "registered_commands", [])
    given: list[dict[str, Any]] = []
    command = read_again(train)
    monkeypatch.setattr(command, "_model", lambda images, options, **others: given.append(options))
    monkeypatch.setattr(command, "_say_size", lambda model: None)
    monkeypatch.setattr(command.training, "train", lambda *_, **others: [{"valid_loss": 0, "valid_bits_per_dim": 0}])
    done = CliRunner().invoke(app, ["train", "--decoder", "shifted", "--shift", "3"])
    assert done.exit_code == 0, done.output
    assert (given[0]["decoder"], given[0]["shift"]) == ("shifted", 3)
    shown = " ".join(CliRunner().invoke(app, ["train", "--help"]).output.split())
    assert "--shift <int> Added to the logits (default: 0; at least 0)" in shown and "deconv, shifted" in shown


def test_the_constructor_shows_the_options() -> None:
    """In the order of the tutorial's call, the others by keyword only."""
    signature = inspect.signature(vf.VLAE)
    by_position = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_position == ["input_dim", "latent_dim", "hidden_dim", "n_layers", "use_flow"]
    assert list(signature.parameters) == list(options.known())
    assert vf.VLAE.__doc__ and "        n_pointwise: resnet: 1x1 blocks after the masked ones.\n" in vf.VLAE.__doc__
    model = vf.VLAE(1, 4, 8, 1, False, image_size=[6, 5])
    assert model.config == options.Options(1, 4, 8, 1, False, image_size=(6, 5)).config()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vf.VLAE(dropout=0.5), "VLAE: got an unexpected keyword argument 'dropout'"),
        (lambda: vf.VLAE(1, input_dim=1), "VLAE: multiple values for argument 'input_dim'"),
        (lambda: vf.VLAE(1, 32, 64, 3, True, (28, 28)), "VLAE: too many positional arguments"),
    ],
)
def test_wrong_calls(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("rule", "inside", "outside", "words"),
    [
        (rules.Real(above=0), [1e-9, 1e9], [0, -1, float("inf"), float("nan")], "finite and > 0"),
        (rules.Real(low=0), [0, 1e9], [-1e-9, float("inf"), float("nan")], "finite and >= 0"),
        (rules.Real(above=0, high=1), [1e-9, 1], [0, 1.1, float("nan")], "> 0 and <= 1"),
        (rules.Real(low=0, below=1), [0, 0.999], [1, -0.1, float("nan")], ">= 0 and < 1"),
        (rules.Whole(2), [2, 1 << 40], [1, -3], "at least 2"),
        (rules.Whole(2), [2], [2.0, float("inf"), float("nan"), "3", None], "an integer from 2"),
        (rules.OneOf(("a", "b")), ["a", "b"], ["c", None], "one of a, b"),
    ],
)
def test_rules(rule: rules.Rule, inside: list, outside: list, words: str) -> None:
    assert [rule.broken(value) for value in inside] == [None] * len(inside)
    assert [rule.broken(value) for value in outside] == [words] * len(outside)


@pytest.mark.parametrize(
    ("rule", "inside", "outside", "words"),
    [
        (rules.Real(above=0), [1, 0.5], [0, True, "1", None, [1]], "finite and > 0"),
        (rules.Whole(0, 1000), [0, 1000], [-1, 1001, 10**400, 1.0, True, "1", None], "an integer from 0 to 1,000"),
        (rules.Whole(1), [1, 10**400], [0, 1.0], "an integer from 1"),
        (
            rules.Pair(rules.Whole(1, 9), "H, W"),
            [[1, 9], (1, 1)],
            [[1], [0, 1], [1, 10], 3],
            "two integers from 1 to 9",
        ),
        (rules.Flag(), [True, False], [0, 1, "true", None], "true or false"),
        (rules.OneOf(("a", "b")), ["a", "c"], [1, None, ["a"]], "a string"),
    ],
)
def test_rules_of_files(rule: rules.Rule, inside: list, outside: list, words: str) -> None:
    assert [rule.broken_in_json(value) for value in inside] == [None] * len(inside)
    assert [rule.broken_in_json(value) for value in outside] == [words] * len(outside)
