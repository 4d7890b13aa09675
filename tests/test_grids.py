"""What is compared: valid, distinct, and each with its own baseline."""

import pytest

from skd_jax import config as config_lib
from skd_jax import config_checks, grids, methods


@pytest.mark.parametrize("name", grids.GRIDS)
def test_grid_is_of_valid_and_distinct_settings(name):
  config = config_lib.default_config()
  variants = grids.choose(name, [])
  assert len({variant.name for variant in variants}) == len(variants)
  seen = []
  for variant in variants:
    rate = 0.1 if variant.method in methods.CONTROLS else None
    changed = methods.apply_method(config, variant.method, rate)
    changed = methods.change(changed, variant.start.changes)
    changed = methods.change(changed, variant.changes)
    config_checks.check_config(changed)
    seen.append(str(config_lib.to_plain(changed)))
  assert len(set(seen)) == len(seen)


def test_groups_of_a_grid_have_their_own_baselines():
  for name in ("start", "data_size", "model_size", "learning_rate"):
    found = {variant.name: variant for variant in grids.choose(name, [])}
    for variant in found.values():
      for baseline in grids.BASELINES:
        rival = found[grids.rival(variant.name, baseline)]
        assert rival.method == baseline
        assert rival.start == variant.start
        assert rival.changes == variant.changes
  assert grids.rival("skd", "on_policy_kd") == "on_policy_kd"
  assert grids.in_group("100 prompts, skd") == "skd"


def test_starts_of_one_name_are_one_start():
  for variants in grids.GRIDS.values():
    starts = {(v.start.name, str(dict(v.start.changes))) for v in variants}
    assert len({name for name, _ in starts}) == len(starts)


def test_controls_run_last():
  chosen = grids.choose(None, ["random", "sft", "skd"])
  assert [variant.name for variant in chosen] == ["sft", "skd", "random"]


@pytest.mark.parametrize(
  ("grid", "names", "said"),
  [
    (None, ["random"], "needs 'skd' beside it"),
    (None, ["skdd"], "'skdd': must be of sft"),
    (None, ["skd", "skd"], "must be distinct"),
    (None, [], "one of them must be given"),
    ("methods", ["skd"], "one of them must be given"),
    ("nope", [], "must be one of learning_rate, methods"),
  ],
)
def test_bad_choice_is_named(grid, names, said):
  with pytest.raises(ValueError, match=said) as caught:
    grids.choose(grid, names)
  assert "\n" not in str(caught.value)
