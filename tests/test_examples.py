"""The examples run as they are, and stay short."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import tiny_run

_ROOT = pathlib.Path(__file__).parents[1]
_EXAMPLES = sorted((_ROOT / "examples").glob("*.py"))


def _run(name, *arguments, lines=""):
  result = subprocess.run(
    [sys.executable, str(_ROOT / "examples" / name), *arguments],
    input=lines,
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": str(_ROOT), "JAX_PLATFORMS": "cpu"},
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.name)
def test_an_example_has_at_most_40_lines(path):
  lines = path.read_text("utf-8").splitlines()
  assert len([line for line in lines if line.strip()]) <= 40


def test_a_model_of_ones_own_is_distilled():
  assert "LossSums" in _run("own_model.py")


def test_a_rule_and_a_loss_of_ones_own_replace_and_learn():
  replaced = int(_run("own_rule_and_loss.py").split()[0])
  assert 0 < replaced < 36


def test_text_is_generated_line_by_line_with_a_drafting_student(
  tmp_path_factory,
):
  workdir = tiny_run.finish(tmp_path_factory)
  folders = [str(workdir / "teacher"), str(workdir / "export")]
  lines = "Der Hund sieht den Ball.\n\nDer Mann malt den Baum.\n"
  first, second, third, _ = _run(
    "generate_text.py", *folders, lines=lines
  ).split("\n")
  assert first
  assert not second  # The answer to the empty line.
  assert third
