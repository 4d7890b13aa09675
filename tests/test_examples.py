"""The examples run as they are, and stay short."""

import io
import pathlib
import runpy
import sys

import pytest

from tests import tiny_run

_ROOT = pathlib.Path(__file__).parents[1]
_EXAMPLES = sorted((_ROOT / "examples").glob("*.py"))


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs an example as `python examples/NAME` does; returns what it prints."""

  def run_example(name, *arguments, lines=""):
    path = str(_ROOT / "examples" / name)
    monkeypatch.syspath_prepend(str(_ROOT / "examples"))
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    capsys.readouterr()  # What the fixtures have printed.
    runpy.run_path(path, run_name="__main__")
    return capsys.readouterr().out

  return run_example


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.name)
def test_an_example_has_at_most_40_lines(path):
  lines = path.read_text("utf-8").splitlines()
  assert len([line for line in lines if line.strip()]) <= 40


def test_a_model_of_ones_own_is_distilled(run):
  assert "LossSums" in run("own_model.py")


def test_a_rule_and_a_loss_of_ones_own_replace_and_learn(run):
  replaced = int(run("own_rule_and_loss.py").split()[0])
  assert 0 < replaced < 36


def test_text_is_generated_line_by_line_with_a_drafting_student(
  tmp_path_factory, run
):
  workdir = tiny_run.finish(tmp_path_factory)
  folders = [str(workdir / "teacher"), str(workdir / "export")]
  lines = "Der Hund sieht den Ball.\n\nDer Mann malt den Baum.\n"
  first, second, third, _ = run(
    "generate_text.py", *folders, lines=lines
  ).split("\n")
  assert first
  assert not second  # The answer to the empty line.
  assert third
