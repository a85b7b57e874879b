#!/usr/bin/env bash
# Measures everything that needs an accelerator, most telling first, within --minutes=N; needs no
# network. The results are in --output=DIR (benchmarks/results/gpu), with DIR/summary.md first.
# --smoke shows on any machine that it works. PYTHON chooses the interpreter. See benchmarks/gpu.py.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -n "${PYTHON:-}" ]; then pythons=("$PYTHON"); else pythons=("$root/.venv/bin/python" python3 python); fi
for python in "${pythons[@]}"; do
  if "$python" -c "import jax" 2>/dev/null; then
    PYTHONPATH=$root exec "$python" -m benchmarks.gpu "$@"
  fi
done
case " $* " in *" --help "*) sed -n '2,/^set/{s/^# //p}' "$0"; exit ;; esac
echo "error: none of ${pythons[*]} is a Python with JAX; name its interpreter with PYTHON=PATH." >&2
exit 2
