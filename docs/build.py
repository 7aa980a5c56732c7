"""Builds the documentation site: the pages of this folder, the README, the examples, and a reference from the
docstrings.

    python docs/build.py [FOLDER]

What is wrong in it is an error: a warning of pdoc, a link or a `reference` that leads nowhere.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import get_type_hints
from urllib.parse import urldefrag

import pdoc.extract
from torch import nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGES = {  # of Markdown: title at the side, path from the root of the checkout
    "index": ("Start", "docs/index.md"),
    "readme": ("README", "README.md"),
    "tutorials": ("If you come from a tutorial", "docs/tutorials.md"),
    "faq": ("Questions", "docs/faq.md"),
    "images": ("Your own images", "docs/images.md"),
    "explore": ("A page to touch", "docs/explore.md"),
    "exercises": ("Exercises", "docs/exercises.md"),
    "exercises-cure": ("Exercises: flows, the cure", "docs/exercises-cure.md"),
    "accelerate": ("Your own PixelCNN", "docs/accelerate.md"),
    "watching": ("When a layer changes", "docs/watching.md"),
    "decoders": ("What fast_sampler understands", "docs/decoders.md"),
    "lookups": ("Codes and one-hot inputs", "docs/lookups.md"),
    "tried": ("Public code that was tried", "docs/tried.md"),
    "flows": ("Your own flow", "docs/flows.md"),
    "steps": ("Steps and scores", "docs/steps.md"),
    "speed": ("The time of a training step", "docs/speed.md"),
    "gpu": ("On a GPU", "docs/gpu.md"),
    "precision": ("Lower precision where asked", "docs/precision.md"),
    "mades": ("Sampling a MADE", "docs/mades.md"),
    "ising": ("Spins", "docs/ising.md"),
    "benchmarks": ("Benchmarks", "benchmarks/README.md"),
    "backends": ("Backends", "docs/backends.md"),
    "wavefront": ("The wavefront", "docs/wavefront.md"),
    "scale": ("More than one process", "docs/scale.md"),
    "models": ("Models and recipes", "docs/models.md"),
    "growing": ("From one model to the next", "docs/growing.md"),
    "codec": ("Images as files", "docs/codec.md"),
    "codec_labels": ("Labels in files", "docs/codec_labels.md"),
    "lossy": ("Lossy files", "docs/lossy.md"),
    "codec_portable": ("Portable files", "docs/codec_portable.md"),
    "extending": ("Extending", "docs/extending.md"),
    "glossary": ("Glossary", "docs/glossary.md"),
    "contributing": ("Contributing", "CONTRIBUTING.md"),
    "security": ("Security", "docs/security.md"),
    "mnist": ("The MNIST model", "vlae_fast/pretrained/mnist/README.md"),
}
MODULES = tuple(
    f"vlae_fast{name}"
    for name in (
        "", ".ops", ".layers", ".models", ".models.decoders", ".models.encoder", ".models.flow",
        ".models.likelihood", ".models.objectives", ".sampling", ".sampling.program", ".foreign", ".masks",
        ".backends", ".data", ".training", ".evaluation", ".checkpoint", ".generation", ".generation.inpainting",
        ".generation.latent_space", ".experiments.collapse", ".explore", ".codec", ".visualization", ".plan",
        ".reference", ".reference.pixelcnn_draw", ".testing", ".processes",
    )
)  # fmt: skip
CODE = re.compile(r"```.*?```|``.+?``", re.DOTALL)
REFERENCE = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")
FILE = re.compile(r"\]\(([\w./-]+\.(?:png|ipynb))\)")
OTHERS = ("nn.", "torch.", "plt.")  # described elsewhere
BLOCK = re.compile(r"^(.*)::\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)
TABLE = re.compile(r"(?<=\S\n\n)(?: {4}.*\n)+", re.MULTILINE)
SESSION = re.compile(r"^>>> (?:.+\n)+", re.MULTILINE)


def reference() -> tuple[dict[str, pdoc.doc.Module], list[pdoc.doc.Doc]]:
    """The modules of the reference, and all that it describes, in Markdown."""
    modules = {name: pdoc.doc.Module(pdoc.extract.load_module(name)) for name in MODULES}  # new: they are written to
    docs = [pair for module in modules.values() for pair in ((module, module), *members(module))]
    to_markdown(docs)
    return modules, [doc for doc, _ in docs]


def build(out: Path) -> None:
    """Writes the site; raises ValueError with everything that is wrong in it."""
    configure()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modules = {name: guide(name, start() if name == "index" else read(path)) for name, (_, path) in PAGES.items()}
        modules["examples"] = guide("examples", examples())
        described_modules, docs = reference()
        modules |= described_modules
        out.mkdir(parents=True, exist_ok=True)
        # before there are links: they hold from their own page only, a result of a search is shown on any
        (out / "search.js").write_text(pdoc.render.search_index(modules), encoding="utf-8")
        wrong = list(link(docs))
        for name, module in modules.items():
            file = out / f"{name.replace('.', '/')}.html"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(pdoc.render.html_module(module, modules), encoding="utf-8")
    for file, name in pictures():
        shutil.copy(file, out / name)
    if wrong := [*wrong, *dead_links(out)]:
        raise ValueError("the site has errors:\n" + "\n".join(wrong))


def configure() -> None:
    """Tells pdoc how the docstrings are written, and its templates what the pages are."""
    pdoc.render.configure(
        docformat="google", include_undocumented=False, template_directory=HERE / "templates", footer_text="vlae_fast"
    )
    titles = {name: title for name, (title, _) in PAGES.items()} | {"examples": "Examples"}
    pdoc.render.env.globals.update(titles=titles, modules=MODULES)


def guide(name: str, text: str) -> pdoc.doc.Module:
    """A page of Markdown, as the module that pdoc takes it for."""
    text = text.replace("```python\n>>>", "```pycon\n>>>")
    by_length = sorted(PAGES, key=lambda page: -len(PAGES[page][1]))  # one README's path ends in the other's
    for page in by_length:  # links to files become links to pages
        path = re.escape(PAGES[page][1].removeprefix("docs/"))
        text = re.sub(rf"\]\([\w./]*\b{path}(?=[)#])", f"]({page}.html", text)
    text = FILE.sub(lambda m: f"]({flat(m[1])})", text)
    text = outside_code(text, lambda part: re.sub(r"(`vf\.(\w+)(?:\([^`]*\))?`)", r"[\1](vlae_fast.html#\2)", part))
    module = ModuleType(name, re.sub(r"\]\([./]*examples/(\w+)\.py\)", r"](examples.html#\1)", text))
    vars(module)["__docformat__"] = "markdown"
    return pdoc.doc.Module(module)


def read(path: str) -> str:
    """The text of a file, by its path from the root of the checkout."""
    return (ROOT / path).read_text(encoding="utf-8")


def start() -> str:
    """The first page: the README's first screen (for whom, install, speed, hardware), then what docs/index.md has."""
    before, mark, _ = read("README.md").replace("](#", "](readme.html#").partition("\n## What it does\n")
    if not mark:
        raise ValueError("README.md: must have a section 'What it does' behind its first screen")
    parts = {"```sh": "## Install\n\n```sh", "<!-- benchmarks": "## How fast\n\n<!-- benchmarks"}
    parts["| | supported |"] = f"{charts()}\n\n## Hardware\n\n| | supported |"
    for first, headed in parts.items():
        before = before.replace(f"\n{first}", f"\n{headed}", 1)
    return before + "\n" + read("docs/index.md").replace("# Documentation of vlae_fast", "## These pages", 1)


def charts() -> str:
    """The pictures of how much longer others take, one of each processor."""
    return "\n\n".join(re.findall(r"!\[[^]]*\]\([^)]*/speedup\w*\.png\)", read("benchmarks/README.md")))


def pictures() -> Iterator[tuple[Path, str]]:
    """The images that the pages show, and the notebooks that they lead to; each with its name on the site."""
    for file in (ROOT / path for _, path in PAGES.values()):
        for link in FILE.findall(file.read_text(encoding="utf-8")):
            yield file.parent / link, flat(link)


def flat(link: str) -> str:
    """The name of a file beside the pages; results of a processor, which all have the same, get that of its folder."""
    *folders, name = link.split("/")
    return f"{folders[-1]}-{name}" if "results" in folders else name


def examples() -> str:
    """The scripts of examples/, one after another."""
    texts = ["# Examples", "Each runs as it is, from any folder; the tests run them."]
    for file in sorted((ROOT / "examples").glob("*.py")):
        texts += [
            f"## {file.stem}",
            f"`python examples/{file.name}`",
            f"```python\n{file.read_text(encoding='utf-8')}```",
        ]
    return "\n\n".join(texts)


def to_markdown(docs: list[tuple[pdoc.doc.Doc, pdoc.doc.Namespace]]) -> None:
    """Puts Markdown in the place of every docstring of the reference, which pdoc reads once."""
    for doc, owner in docs:
        if isinstance(doc, pdoc.doc.Class) and issubclass(doc.obj, tuple):  # a NamedTuple's constructor has strings
            doc.obj.__new__.__annotations__.update(get_type_hints(doc.obj))
        doc.docstring = markdown(described(doc, owner), parameters(doc)).strip()


def link(docs: list[pdoc.doc.Doc]) -> Iterator[str]:
    """Makes links of the `references`; yields those that lead nowhere."""
    places = {doc.fullname: address(doc) for doc in docs}
    for doc in docs:
        up, found = "../" * doc.modulename.count("."), {}
        for name in {match[1] for part in CODE.split(doc.docstring) for match in REFERENCE.finditer(part)}:
            if name in parameters(doc) or name.startswith(OTHERS):
                continue
            place = find(name, doc.fullname, places)
            if place is None:
                yield f"{doc.fullname}: `{name}` is on no page"
            elif not name.startswith("vlae_fast."):  # pdoc links a full name
                found[f"`{name}`"] = f"[`{name}`]({up}{place})"
        doc.docstring = outside_code(doc.docstring, lambda part: REFERENCE.sub(lambda m: found.get(m[0], m[0]), part))  # noqa: B023


def members(namespace: pdoc.doc.Namespace) -> Iterator[tuple[pdoc.doc.Doc, pdoc.doc.Namespace]]:
    """Everything below a module or a class, each with what it is a member of."""
    for doc in namespace.own_members:
        if doc.name.startswith("_") and doc.name != "__init__":
            continue
        yield doc, namespace
        if isinstance(doc, pdoc.doc.Class):
            yield from members(doc)


def address(doc: pdoc.doc.Doc) -> str:
    return f"{doc.modulename.replace('.', '/')}.html" + (f"#{doc.qualname}" if doc.qualname else "")


def find(name: str, here: str, places: dict[str, str]) -> str | None:
    """Where a name is described: looked up from the place that mentions it outwards, then anywhere."""
    while here:
        if f"{here}.{name}" in places:
            return places[f"{here}.{name}"]
        here = here.rpartition(".")[0]
    found = [full for full in places if f".{full}".endswith(f".{name}")]
    return places[min(found, key=len)] if found else None


def parameters(doc: pdoc.doc.Doc) -> list[str]:
    """The parameters of what is described, the fields of a tuple."""
    if hasattr(doc.obj, "_fields"):
        return list(doc.obj._fields)
    called = doc.obj.__init__ if isinstance(doc, pdoc.doc.Class) else doc.obj
    return list(inspect.signature(called).parameters) if inspect.isfunction(called) else []


def described(doc: pdoc.doc.Doc, owner: pdoc.doc.Namespace) -> str:
    """The docstring, or the comment beside a constant or a field; nothing where it is PyTorch's own."""
    if isinstance(doc, pdoc.doc.Variable):
        comment = re.search(rf"^ *{doc.name}\b[^#\n]*  # (.*)$", owner.source, re.MULTILINE)
        return comment[1] if comment else re.sub("^Alias for field number.*", "", doc.docstring)
    if isinstance(doc, pdoc.doc.Function) and doc.name == "__init__":
        return ""  # a class says what it is made of
    if doc.name == "extra_repr":
        return ""
    return "" if doc.docstring == inspect.getdoc(getattr(nn.Module, doc.name, None)) else doc.docstring


def markdown(text: str, names: list[str]) -> str:
    """The style of the docstrings, in Markdown: blocks after ``::``, sessions, arguments that share a line, papers."""
    text = BLOCK.sub(lambda m: f"{m[1]}:\n\n```python\n{textwrap.dedent(m[2]).strip()}\n```\n\n", text + "\n")
    text = TABLE.sub(lambda m: f"```\n{textwrap.dedent(m[0])}```\n", text)
    text = SESSION.sub(lambda m: f"```pycon\n{m[0]}```\n", text)
    some = "|".join(map(re.escape, names)) or "(?!)"
    text = re.sub(rf"\. (?=(?:{some})(?:, (?:{some}))*: )", ".\n    ", text)
    text = re.sub(r"\. (?=[A-Z]\w+Error: )", ".\n    ", text)
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with what is not code changed."""
    kept = CODE.findall(text)
    parts = [change(part) for part in CODE.split(text)]
    return "".join(a + b for a, b in zip(parts, [*kept, ""], strict=True))


def dead_links(out: Path) -> Iterator[str]:
    """Links to files or anchors that are not there."""
    script = re.compile("<script>.*?</script>", re.DOTALL)
    pages = {file: script.sub("", file.read_text(encoding="utf-8")) for file in out.rglob("*.html")}
    for file, text in pages.items():
        for link in set(re.findall(r'<(?:a|img)[^>]* (?:href|src)="(?!https?:|data:)([^"]*)"', text)):
            path, anchor = urldefrag(link)
            target = (file.parent / path).resolve() if path else file
            if not target.is_file() or (anchor and f'id="{anchor}"' not in pages.get(target, "")):
                yield f"{file.relative_to(out)}: {link} leads nowhere"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "docs"
    build(folder.resolve())
    print(f"open {folder / 'index.html'}")
