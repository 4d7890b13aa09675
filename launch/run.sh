#!/usr/bin/env bash
# Runs a module of this project on one host; sets the environment up first.
#
#   launch/run.sh skd_jax.main --config=configs/wmt.py
#
# EXTRA chooses what is installed: empty for a CPU, cuda, or tpu.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
"$here/setup.sh" "${EXTRA:-}"
cd "$here/.."
exec "${VENV:-.venv}/bin/python" -m "$@"
