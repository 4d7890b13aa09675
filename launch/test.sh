#!/usr/bin/env bash
# Sets the environment up and runs check.sh; arguments go to pytest.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
"$here/setup.sh" test
venv="${VENV:-.venv}"
PATH="$(cd "$here/.." && cd "$venv/bin" && pwd):$PATH" "$here/../check.sh" "$@"
