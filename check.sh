#!/usr/bin/env bash
# The whole of CI: style, types, tests. Run it in an environment that has
# `pip install -e .[test]`; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
python -m ruff check .
python -m ruff format --check .
pyrefly check --python-interpreter-path "$(command -v python)"
python -m pytest "$@"
# What needs eight devices; one file has most of it. 5: none of it was asked for.
XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=8" \
  python -m pytest --dist=load tests/parallel/test_meshes.py \
  tests/parallel/test_mesh_programs.py tests/parallel/test_rollout_devices.py \
  tests/benchmarks/tpu/test_plan.py "$@" ||
  [ $? -eq 5 ]
