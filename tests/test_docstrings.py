"""The reference: the site builds without a warning, and every public name says what it is, what it takes and, in code
that runs, what it is equivalent to."""

import importlib.util
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import vlae_fast as vf
from vlae_fast.data import binarize
from vlae_fast.reference import pixelcnn_draw
from vlae_fast.sampling.program import build_program
from vlae_fast.testing import conv_case, linear_case, made_layers_case

pdoc = pytest.importorskip("pdoc")

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
build = importlib.util.module_from_spec(spec)
sys.modules["docs_build"] = build
spec.loader.exec_module(build)

# The table of arguments that mean the same everywhere.
ROWS = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
EVERYWHERE = {name for row in ROWS for name in re.findall(r"\w+", row)}
# Their functions are the ops' own, with the backends' signatures: a line each is enough.
LINES = ("vlae_fast.reference", "vlae_fast.testing")


def test_no_reference_leads_nowhere() -> None:
    _, docs = build.reference()
    assert len(docs) > 500 and list(build.link(docs)) == []


@pytest.mark.slow  # it renders them; links of pages are in test_docs.py
def test_site(tmp_path: Path) -> None:
    """No warning, no link and no `reference` that leads nowhere; every page is there."""
    build.build(tmp_path)
    titles = {page: title for page, (title, _) in build.PAGES.items()} | {"examples": "Examples"}
    titles |= {name.replace(".", "/"): name for name in build.MODULES}
    for page, title in titles.items():
        assert f"<title>{title}</title>" in (tmp_path / f"{page}.html").read_text(encoding="utf-8")


def public(name: str) -> Iterator[tuple[pdoc.doc.Doc, pdoc.doc.Namespace]]:
    """Members that the page of a module describes, but for constants, attributes and what PyTorch asks of a module."""
    for doc, owner in build.members(pdoc.doc.Module.from_name(name)):
        field = isinstance(doc, pdoc.doc.Variable) and doc.name in getattr(owner.obj, "_fields", ())
        if field or (
            isinstance(doc, (pdoc.doc.Class, pdoc.doc.Function)) and doc.name not in ("__init__", "extra_repr")
        ):
            yield doc, owner


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every docstring of the reference by name: those of a class with its fields'."""
    found: dict[str, str] = {}
    for name in build.MODULES:
        for doc, owner in build.members(pdoc.doc.Module.from_name(name)):
            found[doc.fullname] = build.described(doc, owner)
    for name, text in list(found.items()):
        parent = name.rpartition(".")[0]
        if parent in found:
            found[parent] += f"\n{name.rpartition('.')[2]}: {text}" if text else ""
    return found


@pytest.mark.parametrize("name", build.MODULES)
def test_every_name_and_parameter_is_described(name: str, texts: dict[str, str]) -> None:
    """A parameter is described by the function, its class, what it refers to, or as one that is the same everywhere."""
    assert pdoc.doc.Module.from_name(name).docstring
    wrong = []
    for doc, owner in public(name):
        text = build.described(doc, owner)
        mine = doc.obj if isinstance(doc, pdoc.doc.Class) else owner.obj
        listed = (
            "\n".join(c.__doc__ or "" for c in mine.__mro__ if "vlae_fast" in c.__module__)
            if inspect.isclass(mine)
            else ""
        )
        if not text and not (doc.name in getattr(owner.obj, "_fields", ()) and re.search(rf"\b{doc.name}\b", listed)):
            wrong.append(f"{doc.qualname}: no docstring")
        refers = [texts[doc.fullname], listed]
        for name_of in re.findall(r"(?<!`)`([\w.]+)`(?!`)", text + listed):
            refers += [t for full, t in texts.items() if f".{full}".endswith(f".{name_of}")]
        if name not in LINES and not isinstance(doc, pdoc.doc.Variable):
            known = EVERYWHERE | set(re.findall(r"\w+", " ".join(refers))) | {"self", "args", "kwargs"}
            wrong += [f"{doc.qualname}: {p} is not described" for p in build.parameters(doc) if p not in known]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", build.MODULES)
def test_args_are_those_of_the_signature(name: str) -> None:
    for doc, owner in public(name):
        section = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", build.described(doc, owner), re.MULTILINE)
        names = re.findall(r"^ {4}(\w+(?:, \w+)*):", section[1], re.MULTILINE) if section else []
        options = {"options", "settings"} & set(build.parameters(doc))  # their names are looked up when it is called
        wrong = {n for line in names for n in line.split(", ")} - set(build.parameters(doc))
        assert options or not wrong, (doc.qualname, wrong)


def equivalent(function: Callable[..., object], **names: Any) -> dict[str, Any]:
    """The names after the "Equivalent to" of a docstring has run."""
    block = re.search(r"Equivalent to.*::\n\n((?: {4}.*\n|\n)+)", inspect.getdoc(function) + "\n")
    names |= {"torch": torch, "F": F, "vf": vf, "itertools": itertools, "pixelcnn_draw": pixelcnn_draw}
    exec(textwrap.dedent(block[1]), names)
    return names


def test_equivalent_to_masked_conv() -> None:
    case = conv_case("A", (2, 4, 6, 5), 8, 3, activation="gate", cond="vector", context=3, residual=True)
    names = equivalent(vf.ops.masked_conv, **case.tensors, mask_type="A", k=3, d=1)
    torch.testing.assert_close(vf.ops.masked_conv(**case.tensors, **case.options), names["y"])


def test_equivalent_to_masked_linear() -> None:
    case = linear_case(4, 6, 5, activation="relu")
    names = equivalent(vf.ops.masked_linear, **case.tensors)
    torch.testing.assert_close(vf.ops.masked_linear(**case.tensors, activation="relu"), names["y"])


def test_equivalent_to_made() -> None:
    case = made_layers_case(4, 5, (8, 7), cond=True)
    names = equivalent(vf.ops.made, **case.tensors, L=3)
    torch.testing.assert_close(vf.ops.made(**case.tensors), names["h"])


def test_equivalent_to_made_inverse() -> None:
    steps, eps = [vf.MADE(5, 8, 10), vf.MADE(5, 8, 10)], torch.randn(3, 5)
    layers = [layer for made in steps for layer in made.masked_layers()]
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    x, _ = vf.ops.made_inverse(eps, weights, biases, steps[0].degrees)
    torch.testing.assert_close(x, equivalent(vf.ops.made_inverse, eps=eps, D=5, steps=steps)["x"])


@torch.no_grad()
def test_equivalent_to_pixelcnn_sample() -> None:
    decoder = vf.PixelCNNDecoder(1, 4, 8, 1, initial_kernel=3, z_channels=0, image_size=(5, 4))
    plan = vf.PixelCNNSampler(decoder).plan
    z, noise = torch.randn(2, 4), torch.rand(2, 1, 5, 4)
    packed = vf.ops.pixelcnn_pack(build_program(decoder).weights, plan)
    image, params = vf.ops.pixelcnn_sample(noise, packed, plan, z, temperature=0.9)
    names = {"decoder": decoder, "z": z, "noise": noise, "plan": plan, "temperature": 0.9, "H": 5, "W": 4}
    names |= {"image": torch.zeros_like(image), "params": torch.zeros_like(params)}
    names = equivalent(vf.ops.pixelcnn_sample, **names)
    assert image.equal(names["image"])
    torch.testing.assert_close(params, names["params"])


def test_equivalent_to_loss_function() -> None:
    model, x = vf.VLAE(latent_dim=4, hidden_dim=8, n_layers=1), torch.rand(2, 1, 28, 28).round()
    logits, mu, logvar, z, log_pz = model(x)
    given = {"logits": logits, "x": x, "mu": mu, "logvar": logvar, "z": z, "log_pz": log_pz}
    torch.testing.assert_close(vf.loss_function(**given), equivalent(vf.loss_function, **given)["loss"])


@pytest.mark.parametrize("how", ["dynamic", "threshold", "fixed", "none"])
def test_equivalent_to_binarize(how: str) -> None:
    pixels = torch.arange(256, dtype=torch.uint8) if how != "fixed" else torch.tensor([0, 1], dtype=torch.uint8)
    given = {"pixels": pixels, "how": how}
    names = equivalent(binarize, **given, generator=torch.Generator().manual_seed(0))
    assert binarize(**given, generator=torch.Generator().manual_seed(0)).equal(names["x"])
