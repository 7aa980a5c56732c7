"""What pip installs: the right files under the right names, with the native libraries or why there is none."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vlae_fast import native

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "vlae_fast", "kernels", "csrc", "tests")

slow = pytest.mark.slow


LIBRARIES = ("cpu", "cuda")


def run(*args: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Python on `args`, in our environment but for `env`."""
    ours = ("CXX", *(f"VLAE_FAST_REQUIRE_{library.upper()}" for library in LIBRARIES))
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=inherited | env, text=True, capture_output=True)


def checkout(tmp: Path) -> Path:
    """A copy of the sources without anything that was built."""
    built = shutil.ignore_patterns("*.so", "_build_report.json", "__pycache__")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp / "src" / name, ignore=built)
        else:
            (tmp / "src").mkdir(exist_ok=True)
            shutil.copy(source, tmp / "src" / name)
    return tmp / "src"


def build(tmp: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    options = ("-v", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(tmp / "dist"))
    return run("-m", "pip", "wheel", *options, ".", cwd=checkout(tmp), **env)


def install(tmp: Path, wheel: Path) -> Path:
    target = tmp / "site"
    done = run("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel), cwd=tmp)
    assert done.returncode == 0, done.stderr
    return target


def ask(target: Path, code: str) -> str:
    """What `code` prints where only the installed package can be found."""
    imports = "import vlae_fast; from vlae_fast import native"
    done = run("-c", f"{imports}; {code}", cwd=target.parent, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp = tmp_path_factory.mktemp("wheel")
    done = build(tmp)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp / "dist").iterdir()
    return path


@slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        report = json.loads(archive.read("vlae_fast/_build_report.json"))
        tags = archive.read(next(name for name in names if name.endswith("/WHEEL"))).decode()
        entry_points = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    for folder, package in (("vlae_fast", "vlae_fast"), ("kernels", "vlae_fast/kernels")):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{package}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vlae_fast"}
    assert set(report) == set(LIBRARIES)
    for library in LIBRARIES:
        assert (f"vlae_fast/_native_{library}.so" in names) == report[library]["built"]
    assert "Root-Is-Purelib: false" in tags and "Tag: py3-none-" in tags and "Tag: py3-none-any" not in tags
    assert "vlae-fast = vlae_fast.cli:main" in entry_points


@slow
def test_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = install(tmp_path, wheel)
    where = ask(target, "import vlae_fast.kernels as k; print(vlae_fast.__file__, k.__file__, sep='\\n')")
    assert [Path(line).parent for line in where.splitlines()] == [target / "vlae_fast", target / "vlae_fast/kernels"]
    answer = ask(target, "print(native.build_report()['cpu']['built'], native.why_not(), len(native.isas()) > 0)")
    assert answer == "True None True" or answer.startswith("False not built because"), answer


@slow
def test_a_library_that_cannot_be_loaded_is_a_reason(wheel: Path, tmp_path: Path) -> None:
    target = install(tmp_path, wheel)
    (target / "vlae_fast" / "_native_cpu.so").write_bytes(b"not a library")
    assert ask(target, "print(native.why_not(), native.isas())").startswith("failed to load because")


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
    env = env | {"CUDA_HOME": "nowhere"}

    done = build(tmp_path, **env | {"PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"no cpu library: {reason}" in done.stdout + done.stderr
    (path_of_wheel,) = (tmp_path / "dist").iterdir()
    target = install(tmp_path, path_of_wheel)
    assert not (target / "vlae_fast" / "_native_cpu.so").exists()
    assert ask(target, "print(native.why_not())").startswith(f"not built because {reason}")

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
    ("release", "reason"),
    [
        (None, "nvcc was not found"),
        ("11.8", "nvcc 11.8 is too old"),
        ("13.0", "compilation failed: nvcc error: no such luck"),
    ],
    ids=["absent", "old", "broken"],
)
def test_without_a_working_nvcc_the_reason_is_kept(tmp_path: Path, release: str | None, reason: str) -> None:
    home = fake_nvcc(tmp_path, release, "nvcc error: no such luck") if release else tmp_path
    env = {"CUDA_HOME": str(home), "CXX": "g++" if shutil.which("g++") else "c++"}
    source = checkout(tmp_path)
    plan = json.loads((source / "csrc/build.json").read_text())
    (source / "csrc/build.json").write_text(json.dumps(plan | {"common": [], "isa_kernels": []}))  # not the cpu's again
    options = ("-v", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(tmp_path / "dist"), ".")
    done = run("-m", "pip", "wheel", *options, cwd=source, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"no cuda library: {reason}" in done.stdout + done.stderr
    required = run("-m", "pip", "wheel", *options, cwd=source, **env, VLAE_FAST_REQUIRE_CUDA="1")
    assert required.returncode != 0
    assert reason in required.stdout + required.stderr


def test_the_build_in_use_agrees_with_its_report() -> None:
    report = native.build_report().get("cpu", {"built": False})
    assert (native.why_not() is None) == report["built"]
    assert set(native.isas()) <= set(report.get("isas", []))
