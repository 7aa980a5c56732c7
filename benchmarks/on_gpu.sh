#!/usr/bin/env bash
# All that needs a GPU, for one that is there for minutes: benchmarks/on_gpu.sh [--dry-run] DIR STEP...
# Steps: small, test, sanitizer, timing, tune, suite; and models, in calls of its own. See on_gpu.py.
# A relative DIR is one of the checkout.
cd "$(dirname "${BASH_SOURCE[0]}")/.." && exec "${PYTHON:-python3}" -m benchmarks.on_gpu "$@"
