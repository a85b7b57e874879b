#!/usr/bin/env bash
# Measures everything that needs an accelerator, most telling first, within --minutes=N; needs no
# network. The results are in --output=DIR (benchmarks/results/gpu), with DIR/summary.md first.
# --smoke shows on any machine that it works. PYTHON chooses the interpreter. See benchmarks/gpu.py.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$root/.venv/bin/python
  [ -x "$PYTHON" ] || PYTHON=$(command -v python3 || command -v python)
fi
PYTHONPATH=$root exec "$PYTHON" -m benchmarks.gpu "$@"
