#!/usr/bin/env bash
# Makes the virtual environment .venv (once) and installs the project into it.
#
#   launch/setup.sh [EXTRA]      EXTRA: test, cuda, tpu; none for a CPU
#
# PYTHON chooses the interpreter (python3), VENV the folder (.venv).
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
venv="${VENV:-.venv}"
extra="${1:-}"
"$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
  sys.exit("skd_jax needs Python 3.11 or newer; this is %d.%d. Choose another "
           "with PYTHON=..." % sys.version_info[:2])
PY
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# Once, and again when the requirements have changed.
stamp="$venv/installed${extra:+-$extra}"
if [ ! "$stamp" -nt setup.py ]; then
  if ! "$venv/bin/python" -m pip install --quiet --editable \
      ".${extra:+[$extra]}"; then
    echo "pip failed. If an install into $venv was cut off before, remove that" \
      "folder and try again." >&2
    exit 1
  fi
  touch "$stamp"
fi
