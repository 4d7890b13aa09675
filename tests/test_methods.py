"""Methods are settings: valid, distinct, and free of what was set before."""

import pytest

from skd_jax import builders, config_checks, methods
from skd_jax import config as config_lib


def applied(name, config=None):
  rate = 0.125 if name in methods.CONTROLS else None
  return methods.apply_method(config or config_lib.default_config(), name, rate)


@pytest.mark.parametrize("name", methods.METHODS)
def test_method_is_a_valid_config(name):
  config = applied(name)
  config_checks.check_config(config)
  assert config.is_locked


@pytest.mark.parametrize("before", ["prob_floor_annealed", "gkd", "sft"])
@pytest.mark.parametrize("name", methods.METHODS)
def test_method_does_not_depend_on_the_one_before(name, before):
  config = applied(name, applied(before))
  config_checks.check_config(config)
  ours, theirs = map(config_lib.to_plain, (config, applied(name)))
  # What a constant schedule does not look at may differ.
  for plain in (ours, theirs):
    rollout = plain["rollout"]
    for field in ("threshold", "reference_share"):
      if rollout[f"{field}_schedule"] == "constant":
        del rollout[f"{field}_end"]
  assert ours == theirs


def test_methods_differ_from_each_other():
  found = [str(config_lib.to_plain(applied(name))) for name in methods.METHODS]
  # The control of SKD differs by its rule alone; nothing is named twice.
  assert len(set(found)) == len(found)


def test_what_no_method_says_is_kept():
  config = config_lib.default_config()
  config.distill.num_steps = 7
  config.rollout.student_temperature = 0.9
  config.loss.beta = 0.3
  for name in methods.METHODS:
    changed = applied(name, config)
    assert changed.distill.num_steps == 7
    if name != "released_code":
      assert changed.rollout.student_temperature == 0.9
    assert changed.loss.beta == 0.3
  assert config.rollout.mode == "skd"  # The original is as it was.


def test_released_code_drafts_by_the_settings_of_the_teacher():
  config = config_lib.default_config()
  config.rollout.update(student_temperature=0.9, student_top_p=0.8)
  config.rollout.update(teacher_temperature=0.3, teacher_top_p=0.6)
  rollout = applied("released_code", config).rollout
  assert (rollout.student_temperature, rollout.student_top_p) == (0.3, 0.6)
  assert (rollout.accept, rollout.threshold) == ("released_top_k", 25)
  rollout = applied("skd", config).rollout
  assert (rollout.student_temperature, rollout.student_top_p) == (0.9, 0.8)


def with_steps(name, num_steps):
  return methods.change(applied(name), {"distill.num_steps": num_steps})


def test_two_stage_reads_references_for_half_of_the_run():
  share = builders.reference_share(with_steps("two_stage", 6))
  assert [share(step) for step in range(6)] == [1, 1, 1, 0, 0, 0]


def test_annealed_floor_falls_over_the_run():
  threshold = builders.schedule(
    with_steps("prob_floor_annealed", 3), "threshold"
  )
  assert [threshold(step) for step in range(3)] == [0.5, 0.375, 0.25]


def test_supervised_kd_is_references_alone():
  share = builders.reference_share(applied("supervised_kd"))
  assert share.extremes == (1.0,)


def test_control_takes_the_rate_that_was_measured():
  config = config_lib.default_config()
  random = methods.apply_method(config, "random", 0.04)
  assert (random.rollout.accept, random.rollout.threshold) == ("random", 0.04)
  with pytest.raises(ValueError, match=r"random \(that of skd\)"):
    methods.apply_method(config, "random")
  with pytest.raises(ValueError, match="no other method"):
    methods.apply_method(config, "skd", 0.04)


def test_unknown_method_is_named():
  with pytest.raises(ValueError, match="method = 'skdd': must be one of"):
    methods.apply_method(config_lib.default_config(), "skdd")


def test_misspelt_change_is_an_error():
  with pytest.raises(KeyError, match="treshold"):
    methods.change(config_lib.default_config(), {"rollout.treshold": 1.0})
