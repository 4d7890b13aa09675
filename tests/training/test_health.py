"""Signs of trouble in the log."""

import contextlib
import math

import pytest

from skd_jax.training import health, progress


def _line(rate):
  return {"replacement_rate": rate, "accepted_per_round": 3.0}


def _show(rates, capsys):
  """What the progress bar of a stage warns of, line after line."""
  bar = progress.Progress("distill", 0, len(rates))
  with contextlib.closing(bar):
    for rate in rates:
      bar.show(_line(rate), health.signs(_line(rate)))
  shown = capsys.readouterr()
  lines = (shown.out + shown.err).splitlines()
  return [line for line in lines if line.startswith("Warning: ")]


@pytest.mark.parametrize(
  ("rate", "said"), [(0.51, "gap"), (1.0, "gap"), (0.0009, "inert")]
)
def test_strange_replacement_rate_is_said_once(rate, said, capsys):
  (warning,) = _show([rate, rate], capsys)
  assert warning.startswith("Warning: distill: ")
  assert said in warning


def test_each_warning_is_given_by_itself(capsys):
  first, second = _show([0.9, 0.0, 0.9], capsys)
  assert "gap" in first
  assert "inert" in second


@pytest.mark.parametrize("rate", [0.5, 0.2, 0.001])
def test_usual_replacement_rate_is_no_warning(rate):
  assert not health.signs(_line(rate))


def test_without_a_gate_there_is_nothing_to_warn_of():
  assert not health.signs({"loss": 1.0})
  # Where the teacher generates alone, every token is its own, and no round
  # is counted.
  assert not health.signs({"replacement_rate": 1.0})


def test_collapsed_student_is_seen_without_a_gate():
  assert list(health.signs({"truncated": 0.95, "repeated": 0.4})) == ["endless"]
  assert list(health.signs({"repeated": 0.6})) == ["repetitive"]
  assert not health.signs({"truncated": 0.9, "repeated": 0.5})


def test_student_that_is_far_surer_than_its_teacher_is_peaked():
  def signs(teacher, student):
    return list(
      health.signs(
        {
          "validation_teacher_entropy": teacher,
          "validation_student_entropy": student,
        }
      )
    )

  assert signs(1.0, 0.09) == ["peaked"]
  assert signs(1.0, 0.11) == []
  # Of a teacher that is as sure itself, nothing follows.
  assert signs(0.05, 0.001) == []
  # A student whose weights are not finite has other troubles.
  assert signs(1.0, math.nan) == []


def test_entropy_that_is_not_a_number_is_no_sign_in_a_log_that_is_read():
  line = {
    "stage": "distill",
    "seed": 0,
    "step": 4,
    "validation_teacher_entropy": 1.0,
    "validation_student_entropy": 0.01,
    "warning_peaked": 1,
  }
  broken = line | {"validation_student_entropy": None}  # As JSON has it.
  (text,) = health.over_the_run([line, broken])
  assert text.endswith("(1 x in the log)")


def test_signs_are_named():
  assert list(health.signs(_line(0.9))) == ["gap"]
  assert list(health.signs(_line(0.0))) == ["inert"]
  assert health.signs(_line(0.2)) == {}


def test_warning_that_is_meant_is_not_given():
  assert health.signs(_line(0.0), meant=("inert",)) == {}
  assert list(health.signs(_line(0.9), meant=("inert",))) == ["gap"]
  line = {"stage": "distill", "seed": 0, "step": 1, **_line(0.0)}
  assert health.over_the_run([line]) == []
  assert len(health.over_the_run([line | {"warning_inert": 1}])) == 1


def test_report_says_where_a_warning_was_first_given_and_how_often():
  rates = [0.9, 0.7, 0.2, 0.0]
  lines = [
    {
      "stage": "distill",
      "seed": seed,
      "step": 10 * step,
      **_line(rate),
      **{f"warning_{name}": 1 for name in health.signs(_line(rate))},
    }
    for seed in (0, 1)
    for step, rate in enumerate(rates)
    if seed == 0 or rate < 0.5
  ]
  lines.append({"stage": "teacher", "seed": 0, "step": 10, "loss": 1.0})
  first, second, third = health.over_the_run(lines)
  assert first.startswith("distill, seed 0, step 0: the teacher replaces 90%")
  assert first.endswith("(2 x in the log)")
  assert second.startswith("distill, seed 0, step 30: the teacher replaces 0.0")
  assert third.startswith("distill, seed 1, step 30: ")
  assert health.over_the_run(lines[-1:]) == []


_GOOD = {"loss": 1.0, "grad_norm": 1.0, "min_token_loss": 0.0}


@pytest.mark.parametrize(
  "line", [_GOOD, _GOOD | {"min_token_loss": -1e-5}, _GOOD | {"loss": 0.0}]
)
def test_finite_loss_goes_on(line):
  health.check_finite(line, "distill", 3, None)


@pytest.mark.parametrize(
  ("change", "named"),
  [
    ({"loss": math.nan}, "loss is nan"),
    ({"grad_norm": math.inf}, "grad_norm is inf"),
    ({"min_token_loss": -1e-3}, r"-1\.00e-03"),
  ],
)
def test_meaningless_loss_names_the_stage_and_the_kept_checkpoint(
  change, named
):
  with pytest.raises(FloatingPointError, match=f"distill, step 3: .*{named}"):
    health.check_finite(_GOOD | change, "distill", 3, None)
  with pytest.raises(FloatingPointError, match="checkpoint of step 2 is kept"):
    health.check_finite(_GOOD | change, "distill", 3, 2)
  with pytest.raises(FloatingPointError, match="no checkpoint was written"):
    health.check_finite(_GOOD | change, "distill", 3, None)
