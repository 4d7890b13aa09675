"""The JSON lines of a comparison, and what is read from them."""

import json
import math

import pytest

from skd_jax import records


def logged(*seconds, **validations):
  """Lines of a log: two parts per step, and validations by step."""
  lines = []
  for step, value in enumerate(seconds, start=1):
    parts = {"generate_seconds": value / 4, "train_seconds": value * 3 / 4}
    # A rate is no time.
    rates = {"loss": 1.0, "tokens_per_s": 500.0}
    lines.append({"step": step, **rates, **parts})
    if f"s{step}" in validations:
      score = validations[f"s{step}"]
      lines.append({"step": step, "validation_bleu": score})
  return lines


def test_seconds_of_a_step_are_those_of_its_parts_but_for_compiling():
  lines = logged(9, 2, 3)
  lines[0]["compile_seconds"] = 7.0
  lines[1]["wait_seconds"] = 4.0
  assert records.step_seconds(lines) == [9, 6, 3]
  assert records.step_seconds([]) == []


def test_validation_curve_is_over_the_seconds_of_training():
  lines = logged(1, 2, 1, 2, s2=20.0, s4=30.0)
  curve = records.validation_curve(lines, "validation_bleu")
  assert curve == [(3.0, 2, 20.0), (6.0, 4, 30.0)]


def test_skipped_step_takes_its_seconds_and_shifts_no_validation():
  lines = logged(1, 2, 1, 2, s2=20.0, s4=30.0)
  (skipped,) = [x for x in lines if x["step"] == 3]
  del skipped["loss"]
  skipped["skipped_steps"] = 1
  curve = records.validation_curve(lines, "validation_bleu")
  assert curve == [(3.0, 2, 20.0), (6.0, 4, 30.0)]


def line(method, seed, bleu, seconds=10.0, rate=0.1):
  return {
    "method": method,
    "seed": seed,
    "metrics": {"bleu": bleu, "kl": 0.5},
    "signature": {"bleu": "nrefs:1"},
    "seconds": seconds,
    "replacement_rate": rate,
  }


LINES = [
  line("teacher", None, 50.0, seconds=None, rate=None),
  line("on_policy_kd", 0, 20.0, rate=None),
  line("skd", 0, 24.0, seconds=8.0),
  line("skd", 1, 25.0, seconds=10.0, rate=0.2),
]


def test_lines_are_kept_and_read_back(tmp_path):
  path = tmp_path / "new" / "runs.jsonl"
  assert records.read(path) == []
  records.write(path, LINES)
  assert records.read(path) == LINES
  assert records.find(LINES, "skd", 1) == LINES[-1]
  assert records.find(LINES, "skd", 2) is None
  assert records.find(LINES, "teacher", None) == LINES[0]


def test_lines_are_json_whatever_the_numbers(tmp_path):
  path = tmp_path / "runs.jsonl"
  records.write(path, [line("skd", 0, math.nan)])
  (found,) = records.read(path)
  assert found["metrics"]["bleu"] is None
  json.dumps(found, allow_nan=False)


def test_arms_are_in_order_without_the_models_before():
  assert records.arms(LINES) == {"on_policy_kd": LINES[1:2], "skd": LINES[2:]}


def test_arm_starts_from_the_student_of_its_group():
  small, start = (
    line(name, None, 5.0) for name in ("student_init, small", "student_init")
  )
  lines = [*LINES, small, start]
  assert records.before(lines, "small, skd") == small
  assert records.before(lines, "100 prompts, skd") == start
  assert records.before(lines, "skd") == start
  assert records.before(LINES, "skd") is None


def test_answers_are_one_a_line_whatever_they_hold(tmp_path):
  assert records.answers(tmp_path, LINES[-1]) is None
  path = records.answers_path(tmp_path, "skd", 1)
  path.parent.mkdir(parents=True)
  path.write_text("a\x0bb\u2028c\n\nd\n", "utf-8")
  assert records.answers(tmp_path, LINES[-1]) == ["a\x0bb\u2028c", "", "d"]


@pytest.mark.parametrize(
  ("name", "folder"),
  [
    ("skd", "skd"),
    ("100 prompts, skd", "100-prompts-skd"),
    ("K=25.0", "K=25.0"),
    ("../skd", "..-skd"),
  ],
)
def test_each_run_has_a_folder_of_its_name(tmp_path, name, folder):
  run = tmp_path / "runs" / folder / "seed_3"
  assert records.run_folder(tmp_path, name, 3) == run
  answers = run / "answers" / "distill_seed_3.txt"
  assert records.answers_path(tmp_path, name, 3) == answers
