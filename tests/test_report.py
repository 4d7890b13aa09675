"""The page of several runs, from the command line."""

import pytest
from absl import app, flags
from absl.testing import flagsaver

from tests import command_lines, finished_run
from tests.finished_run import Page

report = command_lines.load("skd_jax.report")


def run(page, *runs):
  """Runs main."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(page=str(page)):
    report.main(["report", *map(str, runs)])


def error_of(capsys, page, *runs):
  """The line on stderr of a command line that fails; no page is written."""
  with pytest.raises(SystemExit) as stopped:
    run(page, *runs)
  assert stopped.value.code == 1
  assert not page.exists()
  error = capsys.readouterr().err
  assert error.startswith("Error: ")
  assert error.count("\n") == 1
  return error


def test_runs_have_the_names_of_their_folders(tmp_path, capsys):
  folders = [finished_run.write(tmp_path / name) for name in ("one", "two")]
  run(tmp_path / "page.html", *folders)
  assert capsys.readouterr().out == f"{tmp_path / 'page.html'}: 2 runs\n"
  page = Page(tmp_path / "page.html")
  assert "one: student, distilled" in page.text
  assert "two: student, distilled" in page.text


def test_runs_of_one_name_have_their_paths(tmp_path):
  folders = [finished_run.write(tmp_path / x / "run") for x in ("a", "b")]
  run(tmp_path / "page.html", *folders)
  page = Page(tmp_path / "page.html")
  for folder in folders:
    assert f"{folder}: student, distilled" in page.text


def test_one_run_needs_no_name(tmp_path, capsys):
  run(tmp_path / "page.html", finished_run.write(tmp_path / "one"))
  assert capsys.readouterr().out.endswith(": 1 run\n")
  assert "one: " not in Page(tmp_path / "page.html").text


def test_run_that_cannot_be_shown_is_one_line(tmp_path, capsys):
  page, folder = tmp_path / "page.html", finished_run.write(tmp_path / "one")
  missing = str(tmp_path / "none" / "report.json is missing")
  assert missing in error_of(capsys, page, folder, tmp_path / "none")
  again = f"{tmp_path}/../{tmp_path.name}/one"
  assert "must be distinct" in error_of(capsys, page, folder, again)
  with pytest.raises(app.UsageError, match="RUN is missing"):
    run(page)
