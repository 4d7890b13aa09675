"""A study fixes what is compared, and refuses what cannot be."""

import functools
import pathlib

import pytest

from skd_jax import (
  comparison,
  comparison_runs,
  config_checks,
  grids,
  methods,
  study,
)
from skd_jax import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
STUDIES = sorted(
  path
  for path in (ROOT / "configs" / "studies").glob("*.py")
  if "STUDY" in path.read_text("utf-8")
)


def make_study(**changes):
  fields = {
    "name": "small",
    "question": "Which?",
    "regimes": {
      "few": {"distill.max_examples": 10},
      "many": {"distill.max_examples": 90},
    },
    "arms": {
      "skd": study.Arm("skd"),
      "blind": study.Arm("random", control_of="skd"),
      "on_policy_kd": study.Arm("on_policy_kd"),
    },
    "baselines": ("on_policy_kd",),
    "seeds": 2,
    "metric": "bleu",
    "stopping": "2 seeds",
  }
  return study.Study(**{**fields, **changes})


def test_every_regime_has_every_arm_and_a_start_of_its_own():
  found = make_study().variants()
  assert [variant.name for variant in found] == [
    "few, skd",
    "few, on_policy_kd",
    "many, skd",
    "many, on_policy_kd",
    "few, blind",
    "many, blind",
  ]
  for variant in found:
    group = variant.name.split(", ")[0]
    assert variant.start == grids.Start(group, make_study().regimes[group])
  assert [v.needs for v in found[4:]] == [["few, skd"], ["many, skd"]]


def test_seeds_begin_where_the_study_says(tmp_path):
  open_study = functools.partial(
    comparison.open_comparison, config_lib.default_config(), tmp_path
  )
  fresh = make_study(first_seed=10, seeds=3)
  assert list(open_study(study=fresh).seeds) == [10, 11, 12]
  assert list(open_study(study=fresh, seeds=1).seeds) == [10]
  assert list(open_study(study=make_study()).seeds) == [0, 1]
  with pytest.raises(ValueError, match="first_seed = -1: must be 0 or above"):
    make_study(first_seed=-1)


def test_one_regime_can_be_asked_for():
  found = make_study().only(["many"]).variants()
  assert {variant.start.name for variant in found} == {"many"}
  with pytest.raises(ValueError, match="--regimes has 'some': must be of few"):
    make_study().only(["some"])


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"seeds": 0}, "seeds = 0: must be 1 or above"),
    ({"alpha": 1.0}, r"alpha = 1.0: must be in \(0, 1\)"),
    ({"arms": {}}, "arms = {}: must have one"),
    ({"baselines": ("sft",)}, "baselines has 'sft': must be of skd, blind"),
    (
      {"arms": {"a": study.Arm("random", control_of="b")}, "baselines": "a"},
      "arms.a.control_of = 'b': must be of a",
    ),
    ({"regimes": {"a, b": {}}}, "'a, b': must have no comma"),
  ],
)
def test_bad_study_is_one_clear_line(changes, said):
  with pytest.raises(ValueError, match=said):
    make_study(**changes)


def test_control_of_changed_tokens_needs_the_blind_one():
  arms = {
    "skd": study.Arm("skd"),
    "as many": study.Arm("random", control_of="skd", same="changed"),
  }
  with pytest.raises(ValueError, match="'as many' needs 'random' beside it"):
    make_study(arms=arms, baselines=["skd"], regimes={"": {}}).variants()
  variant = grids.Variant("b", "random", control_of="skd", same="changed")
  skd = {"replacement_rate": 0.2, "changed_rate": 0.1}
  blind = {"replacement_rate": 0.4, "changed_rate": 0.16}
  # Of the blind replacements, 0.4 change the token.
  assert comparison_runs.rate_of(variant, skd, blind) == pytest.approx(0.25)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_committed_study_is_of_valid_settings(path):
  found = study.load(path)
  namespace = {}
  exec(path.read_text("utf-8"), namespace)
  config = namespace["get_config"]()
  assert config.data.metrics[0] == found.metric
  seen = {}
  for variant in found.variants():
    changed = methods.change(config, variant.start.changes)
    rate = 0.1 if variant.needs else None
    changed = methods.apply_method(changed, variant.method, rate)
    changed = methods.change(changed, variant.changes)
    config_checks.check_config(changed)
    key = str(config_lib.to_plain(changed)) + str(variant.needs)
    assert seen.setdefault(key, variant.name) == variant.name
  assert len(seen) == len(found.regimes) * len(found.arms)


def test_file_without_a_study_is_named(tmp_path):
  path = tmp_path / "no_study.py"
  with pytest.raises(FileNotFoundError, match=r"no_study.py: no such file"):
    study.load(path)
  path.write_text("STUDY = 3")
  with pytest.raises(ValueError, match=r"no_study.py: must have a STUDY"):
    study.load(path)
