"""The files that pip installs: the right ones under the right names, with the native libraries or why there is none.

`make wheel-test` does more: the whole suite on the wheel, in a fresh environment, with any torch.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from cases.once import locked, shared_folder

import vlae_fast
from vlae_fast.backends import cpu, library

ROOT = Path(__file__).resolve().parent.parent
FILES = ("setup.py", "vlae_fast_start.py", "pyproject.toml", "MANIFEST.in", "Makefile", "README.md", "LICENSE")
FOLDERS = ("vlae_fast", "kernels", "csrc", "tests")
BUILT = ("*.so", "_build_report.json", "__pycache__")
INFO = f"vlae_fast-{vlae_fast.__version__}.dist-info"
MODELS = "vlae_fast/pretrained/"
CODE_LIMIT, MODEL_LIMIT = 5_000_000, 2_000_000  # bytes in a wheel: all but the models, with both libraries; one model

slow = pytest.mark.slow


LIBRARIES = ("cpu", "cuda")


def run(*args: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Python on `args`, in our environment but for `env`."""
    ours = ("CXX", "VLAE_FAST_CUDA", "VLAE_FAST_REQUIRE_CPU")
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=inherited | env, text=True, capture_output=True)


def checkout(tmp: Path) -> Path:
    """A copy of the sources without anything that was built."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp / "src" / folder, ignore=shutil.ignore_patterns(*BUILT))
    for file in FILES:
        shutil.copy(ROOT / file, tmp / "src" / file)
    return tmp / "src"


def build(tmp: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    options = ("-v", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(tmp / "dist"))
    return run("-m", "pip", "wheel", *options, ".", cwd=checkout(tmp), **env)


def install(tmp: Path, wheel: Path) -> Path:
    target = tmp / "site"
    done = run("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel), cwd=tmp)
    assert done.returncode == 0, done.stderr
    return target


def ask(target: Path, code: str, **env: str) -> str:
    """The output of `code` where only the installed package can be found."""
    imports = "import vlae_fast; from vlae_fast.backends import cpu, library"
    done = run("-c", f"{imports}; {code}", cwd=target.parent, **env, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def self_check(target: Path) -> list[str]:
    """The lines of `vlae-fast check` of the installed package, which must find nothing wrong."""
    done = run("-m", "vlae_fast", "check", cwd=target.parent, PYTHONPATH=str(target), TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `make wheel` leaves in dist/, made in this environment."""
    if shutil.which("make") is None or cpu.why_not() is not None:
        pytest.skip(f"make wheel needs make and a C++ compiler: {cpu.why_not()}")
    folder = shared_folder(tmp_path_factory, "dist")
    with locked(folder):
        if (folder / "src" / "dist").exists():
            return folder / "src" / "dist"
        source = checkout(folder)
        make = ["make", "-o", f"{sys.prefix}/.packages", "wheel", f"VENV={sys.prefix}"]  # -o: installed is installed
        done = subprocess.run(make, cwd=source, text=True, capture_output=True)
        if done.returncode != 0:
            shutil.rmtree(source)
        assert done.returncode == 0, done.stdout + done.stderr
        return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@slow
def test_wheel_holds_the_package_and_nothing_else(dist: Path, wheel: Path) -> None:
    """Nor does the sdist lack a file, of which the wheel was built."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.compress_size for entry in archive.infolist() if not entry.is_dir()}
        report = json.loads(archive.read("vlae_fast/_build_report.json"))
    assert set(report) == set(LIBRARIES)
    expected = {f"vlae_fast/_native_{library}.so" for library in LIBRARIES if report[library]["built"]}
    expected |= {"vlae_fast/_build_report.json", "vlae_fast_start.py"}
    for folder, package in (("vlae_fast", "vlae_fast"), ("kernels", "vlae_fast/kernels")):
        source = dist.parent / folder
        expected |= {f"{package}/{p.relative_to(source).as_posix()}" for p in source.rglob("*") if p.is_file()}
    assert {name for name in sizes if not name.startswith(INFO)} == expected
    of_models = Counter[str]()
    for name, size in sizes.items():
        if name.startswith(MODELS):
            of_models[name.removeprefix(MODELS).split("/")[0]] += size
    assert len(of_models) >= 5 and max(of_models.values()) < MODEL_LIMIT
    assert wheel.stat().st_size - of_models.total() < CODE_LIMIT


@slow
def test_wheel_says_what_it_runs_on(wheel: Path) -> None:
    """Any Python 3; of Linux, one whose C and C++ libraries have the symbols that ours ask for."""
    with zipfile.ZipFile(wheel) as archive:
        tags = archive.read(f"{INFO}/WHEEL").decode()
        metadata = archive.read(f"{INFO}/METADATA").decode()
        entry_points = archive.read(f"{INFO}/entry_points.txt").decode()
    platform = "manylinux_" if sys.platform == "linux" else ""
    assert "Root-Is-Purelib: false" in tags and f"Tag: py3-none-{platform}" in tags and "Tag: py3-none-any" not in tags
    assert f"\nVersion: {vlae_fast.__version__}\n" in metadata
    assert {"Requires-Dist: torch>=2.10", "Requires-Python: >=3.10"} <= set(metadata.splitlines())
    assert "vlae-fast = vlae_fast_start:main" in entry_points


@slow
def test_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = install(tmp_path, wheel)
    where = ask(target, "import vlae_fast.kernels as k; print(vlae_fast.__file__, k.__file__, sep='\\n')")
    assert [Path(line).parent for line in where.splitlines()] == [target / "vlae_fast", target / "vlae_fast/kernels"]
    assert ask(target, "print(library.build_report()['cpu']['built'], cpu.why_not())") == "True None"
    assert sum(" on cpu " in line and " ok " in line for line in self_check(target)) == len(vlae_fast.backends.OPS)


@slow
def test_the_tests_of_the_sdist_pass_on_the_wheel(dist: Path, wheel: Path, tmp_path: Path) -> None:
    """A few that are quick and meet the library, the shipped model and the commands; `make wheel-test` runs all."""
    target = install(tmp_path, wheel)
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("vlae_fast-*")
    for package in ("vlae_fast", "kernels"):
        shutil.rmtree(source / package)
    files = [
        f"tests/{name}.py"
        for name in ("backends/test_cpu", "backends/test_table", "models/test_pretrained", "ops/test_masked_linear")
    ]
    options = ("-q", "-p", "no:cacheprovider", "-k", "not triton")  # an interpreter takes minutes
    done = run("-m", "pytest", *options, *files, cwd=source, PYTHONPATH=str(target), VLAE_FAST_REQUIRE_CPU="1")
    assert done.returncode == 0, done.stdout + done.stderr


@slow
def test_a_library_that_cannot_be_loaded_is_a_reason(wheel: Path, tmp_path: Path) -> None:
    target = install(tmp_path, wheel)
    (target / "vlae_fast" / "_native_cpu.so").write_bytes(b"not a library")
    assert ask(target, "print(cpu.why_not(), cpu.isas())").startswith("failed to load because")


@slow
@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"PATH": "nowhere"}, "no C++ compiler was found"),
        ({"CXX": "broken-c++"}, "compilation failed: broken-c++: error:"),
    ],
    ids=["absent", "broken"],
)
def test_without_a_working_compiler_the_reason_is_kept(tmp_path: Path, env: dict[str, str], reason: str) -> None:
    broken = tmp_path / "bin" / "broken-c++"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'broken-c++: error: no such luck'\nexit 1\n")
    broken.chmod(0o755)
    path = env.get("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    env = env | {"VLAE_FAST_CUDA": "0"}

    done = build(tmp_path, **env | {"PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"no cpu library: {reason}" in done.stdout + done.stderr
    (path_of_wheel,) = (tmp_path / "dist").iterdir()
    target = install(tmp_path, path_of_wheel)
    assert not (target / "vlae_fast" / "_native_cpu.so").exists()
    assert ask(target, "print(cpu.why_not())").startswith(f"not built because {reason}")
    assert self_check(target)[0].startswith(f"{'cpu':<28} absent  not built because {reason}")
    for row in ("reference", *(["triton"] if find_spec("triton") else [])):
        layer = f"vlae_fast.MaskedConv2d('A', 1, 4, 3, padding=1, backend='{row}')"
        shape = f"import torch; print(*{layer}(torch.rand(2, 1, 5, 5)).shape)"
        assert ask(target, shape, PATH=path, TRITON_INTERPRET="1") == "2 4 5 5"

    shutil.rmtree(tmp_path / "src")
    required = build(tmp_path, **env | {"PATH": path, "VLAE_FAST_REQUIRE_CPU": "1"})
    assert required.returncode != 0
    assert reason in required.stdout + required.stderr


def fake_nvcc(tmp: Path, release: str, says: str) -> Path:
    """A CUDA_HOME whose nvcc is of this release and fails."""
    nvcc = tmp / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(
        '#!/bin/sh\n[ "$1" != --version ] || '
        f"{{ echo 'tools, release {release}, V{release}'; echo 'Build'; exit; }}\necho '{says}'\nexit 1\n"
    )
    nvcc.chmod(0o755)
    return tmp / "cuda"


@slow
@pytest.mark.parametrize(
    ("release", "wanted", "reason"),
    [
        (None, "1", "nvcc was not found"),
        ("11.8", "1", "nvcc 11.8 is too old"),
        ("13.0", "1", "compilation failed: nvcc error: no such luck"),
        ("13.0", "0", "VLAE_FAST_CUDA=0"),
    ],
    ids=["absent", "old", "broken", "unwanted"],
)
def test_without_a_working_nvcc_the_reason_is_kept(
    tmp_path: Path, release: str | None, wanted: str, reason: str
) -> None:
    """Where nobody asks for it, it is left out; VLAE_FAST_CUDA=1 asks, with or without a GPU."""
    home = fake_nvcc(tmp_path, release, "nvcc error: no such luck") if release else tmp_path
    env = {"CUDA_HOME": str(home), "CXX": "g++" if shutil.which("g++") else "c++", "VLAE_FAST_CUDA": wanted}
    source = checkout(tmp_path)
    plan = json.loads((source / "csrc/build.json").read_text())
    not_again = {"common": [], "isa_kernels": [], "isa_kernels_of": {}}  # the cpu's
    (source / "csrc/build.json").write_text(json.dumps(plan | not_again))
    options = ("-v", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(tmp_path / "dist"), ".")
    done = run("-m", "pip", "wheel", *options, cwd=source, **env)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == (wanted == "0"), said
    assert (f"no cuda library: {reason}" if wanted == "0" else f"was not built: {reason}") in said


def test_a_checkout_that_hides_the_installed_package_says_so(tmp_path: Path) -> None:
    """`python` finds the folder that it is started in first: a plain install has no kernels there, and no libraries."""
    shutil.copytree(ROOT / "vlae_fast", tmp_path / "vlae_fast", ignore=shutil.ignore_patterns(*BUILT))
    finders = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in repr(f)]"
    done = run("-c", f"{finders}; sys.path.insert(0, {str(tmp_path)!r}); import vlae_fast", cwd=tmp_path)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith(
        f"ImportError: vlae_fast: {tmp_path / 'vlae_fast'} is a checkout's folder and hides the installed"
    )
    assert "go to another folder" in message and "`pip install -e .`" in message


def test_the_build_in_use_agrees_with_its_report() -> None:
    report = library.build_report().get("cpu", {"built": False})
    assert (cpu.why_not() is None) == report["built"]
    assert set(cpu.isas()) <= set(report.get("isas", []))
