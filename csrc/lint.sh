#!/usr/bin/env bash
# The C++ and CUDA sources: formatted as .clang-format says, and the host's free of what .clang-tidy checks, those of the CUDA
# library where it was built. A tool that is not here is named and skipped; VLAE_FAST_REQUIRE_CLANG=1, which .ci/run sets, makes
# that an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=14 # another version formats in another way and has other checks
status=0

# Prints the command; nothing where there is none of that version.
find_tool() {
    for candidate in "$1-$version" "$1"; do
        if "$candidate" --version 2>/dev/null | grep -q "version $version\."; then
            echo "$candidate"
            return
        fi
    done
}

skip() {
    echo "lint: $1 is skipped: $2" >&2
    if [[ "${VLAE_FAST_REQUIRE_CLANG:-}" == 1 ]]; then
        status=1
    fi
}

if format="$(find_tool clang-format)" && [[ -n "$format" ]]; then
    find csrc \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' \) -print0 |
        xargs -0 "$format" --dry-run --Werror || status=1
else
    skip clang-format "version $version is not installed"
fi

ninja="$(command -v "${VENV:-.venv}/bin/ninja" ninja | head -n 1 || true)"
if ! tidy="$(find_tool clang-tidy)" || [[ -z "$tidy" ]]; then
    skip clang-tidy "version $version is not installed"
elif [[ ! -f build/cpu/build.ninja || -z "$ninja" ]]; then
    skip clang-tidy "the CPU library was not built here"
else
    for library in cpu cuda; do
        [[ -f "build/$library/build.ninja" ]] || continue
        "$ninja" -f "build/$library/build.ninja" -t compdb compile >"build/$library/compile_commands.json"
        sed -n 's/.*"file": "\(.*\)",\?$/\1/p' "build/$library/compile_commands.json" | sort -u |
            xargs -n 1 -P "$(getconf _NPROCESSORS_ONLN)" "$tidy" --quiet -p "build/$library" 2> >(grep -v "warnings generated" >&2) || status=1
    done
fi

exit "$status"
