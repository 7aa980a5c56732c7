#!/usr/bin/env bash
# Runs all that needs a GPU, for one that is there for minutes: benchmarks/on_gpu.sh DIR STEP...
# Steps: test, sanitizer, suite, tune. Each has a time limit and leaves its output in DIR; fails where one of them does.
set -uo pipefail
out="$(mkdir -p "${1:?usage: $0 DIR STEP...}" && cd "$1" && pwd)" || exit
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python="${PYTHON:-python3}"
export PYTHONUNBUFFERED=1

"$python" -c "import vlae_fast.kernels" 2>"$out/install.err" ||
    "$python" -m pip install -q --no-build-isolation --no-deps -e . || exit
pytest=("$python" -m pytest -q -m gpu -p no:cacheprovider)
sanitizer=tests/test_gpu.py::test_sanitizer
parallel=()
"$python" -c "import xdist" 2>"$out/install.err" && parallel=(-n 8)

status=0
for step in "$@"; do
    case "$step" in
        test) words=(timeout 570 "${pytest[@]}" -rf --tb=short "${parallel[@]}" --deselect "$sanitizer") ;;
        sanitizer) words=(timeout 570 "${pytest[@]}" "$sanitizer") ;;
        suite) words=(timeout 500 "$python" -m benchmarks.run --suite gpu --out "$out") ;;
        tune) words=(timeout 570 "$python" -m benchmarks.tune) ;;
        *) echo "$0: a step must be test, sanitizer, suite or tune, got $step" >&2 && exit 2 ;;
    esac
    start=$SECONDS
    if ! "${words[@]}" 2>"$out/$step.err" | tee "$out/$step.log"; then
        status=1
        tail -n 20 "$out/$step.err"
    fi
    echo "== $step: $((SECONDS - start)) s"
done
cp kernels/configs.json "$out"
exit "$status"
