"""Numbers that change over a run."""

import pytest

from skd_jax.training.schedules import SHAPES, Schedule


def make_schedule(shape, num_steps=5, **options):
  return Schedule(25.0, 5.0, shape, num_steps=num_steps, **options)


def values(shape, **options):
  schedule = make_schedule(shape, **options)
  return [schedule(step) for step in range(schedule.num_steps)]


def test_constant_ignores_its_end():
  assert values("constant") == [25.0] * 5


def test_linear_falls_evenly_from_start_to_end():
  assert values("linear") == [25.0, 20.0, 15.0, 10.0, 5.0]


def test_cosine_is_slow_at_both_ends():
  found = values("cosine")
  assert found[0] == 25.0
  assert found[2] == pytest.approx(15.0)
  assert found[4] == pytest.approx(5.0)
  assert found[0] - found[1] < found[1] - found[2]
  assert found[3] - found[4] < found[2] - found[3]


def test_geometric_falls_by_the_same_factor():
  found = values("geometric")
  assert found[2] == pytest.approx((25.0 * 5.0) ** 0.5)
  assert found[0] / found[1] == pytest.approx(found[3] / found[4])


def test_geometric_to_zero_is_refused():
  with pytest.raises(ValueError, match=r"'geometric' from 1\.0 to 0"):
    Schedule(1.0, 0.0, "geometric")


@pytest.mark.parametrize(
  ("switch_at", "num_early"), [(0.0, 0), (0.4, 2), (0.5, 3), (1.0, 5)]
)
def test_step_switches_at_a_share_of_the_run(switch_at, num_early):
  found = values("step", switch_at=switch_at)
  assert found == [25.0] * num_early + [5.0] * (5 - num_early)


@pytest.mark.parametrize("shape", ["linear", "cosine", "geometric", "step"])
def test_the_end_is_kept_past_the_run(shape):
  assert make_schedule(shape)(9) == pytest.approx(5.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_of_one_step_has_the_start(shape):
  assert make_schedule(shape, num_steps=1)(0) == 25.0


def test_values_stay_between_the_extremes():
  for shape in SHAPES:
    schedule = make_schedule(shape)
    low, high = min(schedule.extremes), max(schedule.extremes)
    assert all(low <= value <= high for value in values(shape))


def test_unknown_shape_is_named():
  with pytest.raises(ValueError, match="schedule = 'steep'"):
    Schedule(1.0, shape="steep")
