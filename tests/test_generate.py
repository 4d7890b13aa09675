"""Text in, text out, from the command line."""

import io
import json
import re
import shutil
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from skd_jax.reporting import manifest
from tests import command_lines, tiny_run

generate = command_lines.load("skd_jax.generate")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny_run.finish(tmp_path_factory)


@pytest.fixture
def answer(workdir):
  """Answers lines with the exported student; flags by name."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

  def run(lines, **changes):
    settings = {
      "model": str(workdir / "export"),
      "max_new_tokens": 16,
      "batch_size": 8,
    }
    with flagsaver.flagsaver(**settings | changes):
      return list(generate.make_generator().answers(lines))

  return run


def _test_sources(workdir):
  path = workdir.parent / "data" / "test.de"
  return path.read_text("utf-8").splitlines()


def test_greedy_answers_are_those_of_the_run(workdir, answer):
  expected = (workdir / "answers" / "distill_seed_0.txt").read_text("utf-8")
  assert answer(_test_sources(workdir)) == expected.splitlines()
  assert len(set(expected.splitlines())) > 3


def test_one_line_each_in_order_and_empty_lines_stay_empty(workdir, answer):
  a, b, c = _test_sources(workdir)[:3]
  alone = {line: answer([line], temperature=1.0)[0] for line in (a,)}
  lines = [a, "", b, "  \n", c, a]
  answers = answer(lines)
  assert len(answers) == 6
  assert answers[1] == answers[3] == ""
  plain = answer([a, b, c])
  assert [answers[0], answers[2], answers[4]] == plain
  assert answers[5] == answers[0]
  # The draws of a line depend on its number alone.
  drawn = answer(lines, temperature=1.0)
  assert drawn[0] == alone[a]
  assert drawn == answer(lines, temperature=1.0, batch_size=2)


@pytest.mark.slow
def test_sampling_repeats_with_its_seed(workdir, answer):
  lines = _test_sources(workdir)
  first = answer(lines, temperature=1.0, seed=5)
  assert answer(lines, temperature=1.0, seed=5) == first
  assert answer(lines, temperature=1.0, seed=6) != first


@pytest.mark.slow
def test_greedy_answers_stay_the_same_with_a_draft(workdir, answer, capsys):
  lines = _test_sources(workdir)
  teacher = str(workdir / "teacher")
  plain = answer(lines, model=teacher)
  settings = {
    "model": teacher,
    "draft": str(workdir / "export"),
    "num_draft_tokens": 2,
    "max_new_tokens": 16,
    "batch_size": 8,
    "input": str(workdir.parent / "data" / "test.de"),
  }
  with flagsaver.flagsaver(**settings):
    generate.main(["generate"])
  output = capsys.readouterr()
  assert output.out.splitlines() == plain
  found = re.search(
    r"by position (\d+)%, (\d+)%\), ([\d.]+) tokens per teacher", output.err
  )
  assert found, output.err
  first, second = int(found[1]) / 100, int(found[2]) / 100
  assert 0 < first <= 1
  # One token of a pass is the teacher's, the others are accepted.
  expected = 1 + first + first * second
  assert float(found[3]) == pytest.approx(expected, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["layers:0", "prompt_lookup"])
def test_model_can_draft_for_itself(workdir, answer, draft):
  lines = _test_sources(workdir)
  assert answer(lines, draft=draft) == answer(lines)


@pytest.mark.parametrize(
  ("draft", "message"),
  [
    (
      "layers:0,x",
      "--draft=layers:0,x: must be layer numbers joined by commas",
    ),
    ("layers:1", r"--draft=layers = (1,): must be increasing layer numbers in"),
    ("layers:", "--draft=layers:: must be layer numbers joined by commas"),
    ("nowhere", "nowhere"),
  ],
)
def test_bad_draft_is_one_clear_line(workdir, capsys, draft, message):
  error = _main(capsys, model=str(workdir / "export"), draft=draft)
  assert error.startswith("Error: ")
  assert message in error
  assert error.count("\n") == 1


def test_draft_with_another_tokenizer_is_one_clear_line(
  workdir, tmp_path, capsys
):
  other = tmp_path / "other"
  shutil.copytree(workdir / "export", other)
  path = other / "tokenizer.json"
  content = json.loads(path.read_text("utf-8"))
  vocabulary = content["model"]["vocab"]
  first, second = list(vocabulary)[100:102]
  vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
  path.write_text(json.dumps(content), encoding="utf-8")
  (other / manifest.NAME).unlink()  # As of a folder that was made this way.
  error = _main(capsys, model=str(workdir / "export"), draft=str(other))
  assert error.startswith("Error: vocabularies differ: token ")
  assert error.count("\n") == 1


def test_stop_text_ends_an_answer(workdir, answer):
  lines = _test_sources(workdir)
  whole = answer(lines)
  stop = next(text for text in whole if len(text) > 2)[1]
  assert answer(lines, stop=[stop]) == [
    " ".join(text.split(stop)[0].split()) for text in whole
  ]


def test_too_long_a_prompt_names_its_line(workdir, answer):
  lines = [_test_sources(workdir)[0], "", "Hund " * 50]
  with pytest.raises(ValueError, match=r"^line 3: the prompt has \d+ tokens"):
    answer(lines)
  with pytest.raises(ValueError, match=r"max_new_tokens = 48: .* 48 tokens"):
    answer(lines[:1], max_new_tokens=48)


def _main(capsys, **settings):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as stopped:
    generate.main(["generate"])
  assert stopped.value.code == 1
  output = capsys.readouterr()
  assert output.out == ""
  return output.err


def test_folder_without_a_model_is_one_clear_line(tmp_path, capsys):
  error = _main(capsys, model=str(tmp_path))
  assert error.startswith("Error: ")
  assert str(tmp_path) in error
  assert error.count("\n") == 1
  error = _main(capsys, model=str(tmp_path / "none"))
  assert str(tmp_path / "none") in error
  assert error.count("\n") == 1


def test_missing_input_file_is_one_clear_line(workdir, tmp_path, capsys):
  error = _main(
    capsys, model=str(workdir / "export"), input=str(tmp_path / "none.txt")
  )
  assert error.startswith("Error: ")
  assert "none.txt" in error
  assert error.count("\n") == 1


def test_input_that_is_no_text_names_its_flag(workdir, tmp_path, capsys):
  path = tmp_path / "latin.txt"
  path.write_bytes(b"ein Haus\n\xff\n")
  error = _main(capsys, model=str(workdir / "export"), input=str(path))
  assert error.startswith(f"Error: --input={path}: is not UTF-8: ")
  assert error.count("\n") == 1


def test_lines_come_from_a_file_or_standard_input(
  workdir, tmp_path, capsys, monkeypatch, answer
):
  lines = _test_sources(workdir)[:2]
  expected = answer(lines)
  path = tmp_path / "lines.txt"
  path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
  settings = {"model": str(workdir / "export"), "max_new_tokens": 16}
  monkeypatch.setattr(sys, "stdin", io.StringIO(path.read_text("utf-8")))
  for source in ("-", str(path)):
    with flagsaver.flagsaver(**settings, input=source, batch_size=8):
      generate.main(["generate"])
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.slow
def test_nothing_but_answers_is_shown(workdir):
  # An empty line needs no compilation.
  done = command_lines.run(
    "-m", "skd_jax.generate", f"--model={workdir / 'export'}", given="\n"
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == "\n"
  # Such as "PyTorch was not found", which transformers advises.
  assert done.stderr == ""
