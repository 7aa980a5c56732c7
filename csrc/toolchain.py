"""What the build asks of the machine: compilers, torch, ninja, and the flags of a platform. Used by setup.py alone."""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

OLDEST_TORCH = (2, 10)
OLDEST_NVCC = (12, 1)  # a kernel's parameters of more than 4 KB
EARLIER_NAMES = {"VLAE_FAST_WITHOUT_CUDA": "0", "VLAE_FAST_REQUIRE_CUDA": "1"}  # of VLAE_FAST_CUDA
OLDEST_MACOS = "11.0"  # the first that runs on aarch64


class NotBuilt(Exception):  # noqa: N818 - no error where the library is optional
    """Why there is no library."""


class Target(NamedTuple):
    """What a compiler compiles for: "x86_64", "aarch64" or another machine; "linux", "darwin" or another system."""

    machine: str
    system: str


def find_torch() -> Path:
    """A torch that is new enough: importable, or in the environment that an isolated build installs into."""
    spec = importlib.util.find_spec("torch")  # finds without importing, which takes seconds
    folders = [Path(spec.origin).parent] if spec and spec.origin else []
    folders += [Path(sysconfig.get_path(name), "torch") for name in ("purelib", "platlib")]
    folders += [Path(folder, "torch") for folder in site.getsitepackages()]
    seen = []
    for folder in folders:
        if (folder / "version.py").is_file():
            found = re.search(r"__version__ = ['\"]((\d+)\.(\d+)[^'\"]*)", (folder / "version.py").read_text())
            if found and (int(found[2]), int(found[3])) >= OLDEST_TORCH:
                if (folder / "include/torch/csrc/stable/library.h").is_file():
                    return folder
                seen.append(f"torch {found[1]} comes without its headers")
            elif found:
                seen.append(f"torch {found[1]} is too old")
    raise NotBuilt(seen[0] if seen else "torch was not found")


def find_compiler() -> list[str]:
    wanted = os.environ.get("CXX")
    for command in [wanted] if wanted else ["c++", "g++", "clang++"]:
        words = shlex.split(command)
        if shutil.which(words[0]):
            return words
    raise NotBuilt(f"no C++ compiler was found (tried {f'CXX={wanted}' if wanted else 'c++, g++, clang++'})")


def find_ninja() -> str:
    try:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    except ImportError:
        found = shutil.which("ninja")
    if found is None:
        raise NotBuilt("ninja was not found")
    return found


def lines_of(command: list[str]) -> list[str]:
    """What a command prints; nothing where it cannot be run or fails."""
    try:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def version_of(compiler: list[str], line: int = 0) -> str:
    lines = lines_of([*compiler, "--version"])
    return lines[line] if -len(lines) <= line < len(lines) else shlex.join(compiler)


def cuda_wanted() -> str:
    """VLAE_FAST_CUDA: "auto", "0" or "1". Raises: SystemExit for another value."""
    wanted = os.environ.get("VLAE_FAST_CUDA") or "auto"
    for earlier, means in EARLIER_NAMES.items():
        if os.environ.get(earlier) == "1" and wanted == "auto":
            print(f"vlae_fast: WARNING: {earlier}=1 is now VLAE_FAST_CUDA={means}", file=sys.stderr)
            wanted = means
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"vlae_fast: VLAE_FAST_CUDA must be auto, 0 or 1, got {wanted!r}")
    return wanted


def cuda_of(torch: Path) -> str | None:
    """The CUDA that this torch was built with, if any."""
    found = re.search(r"^cuda\b.*= ['\"](\d[\d.]*)['\"]", (torch / "version.py").read_text(), re.MULTILINE)
    return found[1] if found else None


def why_no_cuda(wanted: str, torch: Path) -> str | None:
    """Why nobody here would run a CUDA library, or None. nvcc takes minutes: having it is no reason to use it."""
    if wanted == "0":
        return "VLAE_FAST_CUDA=0"
    if wanted == "1" or cuda_of(torch) or lines_of(["nvidia-smi", "-L"]):
        return None
    return "neither a GPU nor a CUDA build of torch was found (VLAE_FAST_CUDA=1 builds it all the same)"


def find_nvcc() -> list[str]:
    places = (
        [f"{os.environ['CUDA_HOME']}/bin/nvcc"] if os.environ.get("CUDA_HOME") else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    )
    found = next((path for path in map(shutil.which, places) if path), None)
    if found is None or sys.platform != "linux":
        raise NotBuilt("nvcc was not found")
    version = re.search(r"release (\d+)\.(\d+)", version_of([found], line=-2))
    if version is None or (int(version[1]), int(version[2])) < OLDEST_NVCC:
        raise NotBuilt(f"nvcc {version[1]}.{version[2]} is too old" if version else "nvcc does not say its version")
    return [found]


def target_of(compiler: list[str]) -> Target:
    """What the compiler says that it compiles for, which a cross compiler's machine is not."""
    triple = (lines_of([*compiler, "-dumpmachine"]) or [""])[0]
    machine = (triple.partition("-")[0] or platform.machine()).lower()
    systems = {"linux": "linux", "darwin": "darwin", "apple": "darwin"}
    system = next((name for part, name in systems.items() if part in triple), sys.platform)
    return Target({"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine), system)


def isas_of(plan: dict[str, Any], target: Target) -> dict[str, list[str]]:
    """The instruction sets that kernels are compiled for, and the flags of each."""
    isas: dict[str, list[str]] = plan["isas"].get(target.machine, plan["isas"]["other"])
    return isas


def compile_flags(target: Target) -> list[str]:
    return [f"-mmacosx-version-min={OLDEST_MACOS}"] if target.system == "darwin" else []


def file_flags(plan: dict[str, Any], target: Target, source: str) -> list[str]:
    """Flags that one file needs on one machine, after all others."""
    flags: list[str] = plan["file_flags"].get(target.machine, {}).get(source, [])
    return flags


def link_flags(plan: dict[str, Any], target: Target, torch: Path) -> list[str]:
    """torch's libraries by name: a symbol that torch lacks fails here, and not on a user's machine.

    On Linux no rpath is needed: torch has its libraries in the process before ours is loaded. macOS looks a library up
    where it is said to lie, beside this package, then among those in the process.
    """
    libraries = [f"-L{torch / 'lib'}", *(f"-l{name}" for name in plan["libraries"])]
    if target.system == "darwin":
        return [*libraries, "-Wl,-rpath,@loader_path/../torch/lib", *compile_flags(target)]
    return [*libraries, "-Wl,-z,defs", "-pthread"]


def wheel_platform(target: Target, otherwise: str) -> str:
    """The platform in a wheel's name. On macOS it is the library's: Python itself may be for two machines at once."""
    if target.system != "darwin":
        return otherwise
    machine = {"aarch64": "arm64"}.get(target.machine, target.machine)
    return f"macosx_{OLDEST_MACOS.replace('.', '_')}_{machine}"
