"""The wheel alone, outside of a checkout: imports, examples, generation."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import tiny_run

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_alone_imports_runs_the_examples_and_generates(
  tmp_path, tmp_path_factory
):
  pip = [sys.executable, "-m", "pip", "--quiet"]
  subprocess.run(
    [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(_ROOT)],
    check=True,
  )
  (wheel,) = tmp_path.glob("skd_jax-*.whl")
  installed = tmp_path / "installed"
  subprocess.run(
    [*pip, "install", "--no-deps", "--target", str(installed), str(wheel)],
    check=True,
  )

  def run(*arguments, lines=""):
    result = subprocess.run(
      [sys.executable, *arguments],
      cwd=tmp_path,
      env={
        **os.environ,
        "PYTHONPATH": str(installed),
        "JAX_PLATFORMS": "cpu",
      },
      input=lines,
      capture_output=True,
      text=True,
      check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout

  where = run("-c", "import skd_jax; print(skd_jax.__file__)")
  assert pathlib.Path(where.strip()).is_relative_to(installed)
  assert (installed / "skd_jax" / "py.typed").exists()
  model = str(tiny_run.finish(tmp_path_factory) / "export")
  line = "Der Hund sieht den Ball.\n"
  examples = _ROOT / "examples"
  assert "LossSums" in run(str(examples / "own_model.py"))
  assert "replaced" in run(str(examples / "own_rule_and_loss.py"))
  answer = run(str(examples / "generate_text.py"), model, lines=line)
  arguments = [f"--model={model}", "--max_new_tokens=32"]
  assert run("-m", "skd_jax.generate", *arguments, lines=line) == answer
