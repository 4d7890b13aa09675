"""Which arms are tested against which, on what, and what is kept of it."""

import json

import pytest

from skd_jax import comparison_tests, grids, records
from skd_jax.evaluation import seed_tests
from skd_jax.reporting import files
from tests.comparison_lines import LINES, line, write_answers

REFERENCES = [f"so it is #### {number}" for number in range(20)]


def answers_of(run):
  """A better seed or method is wrong less often."""
  right = int(run["metrics"]["bleu"]) - 15
  return [*REFERENCES[:right], *["#### x"] * (20 - right)]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  """The answers of LINES, whose score is the accuracy."""
  monkeypatch.setattr(records, "references", lambda workdir, run: REFERENCES)
  for run in SCORED:
    if run["seed"] is not None:
      write_answers(tmp_path, run, answers_of(run))
  return tmp_path


SCORED = [
  run
  if run["seed"] is None
  else run
  | {
    "score": "accuracy",
    "metrics": {"accuracy": 5 * (bleu - 15), "bleu": bleu},
  }
  for run in LINES
  for bleu in [run["metrics"]["bleu"]]
]


def test_main_score_and_last_validation_are_tested_over_the_seeds():
  tests = comparison_tests.run_tests(LINES, ["on_policy_kd", "skd"])
  assert {b: list(arms) for b, arms in tests.items()} == {
    "on_policy_kd": ["skd"],
    "skd": ["on_policy_kd"],
  }
  tested = tests["on_policy_kd"]["skd"]
  expected = seed_tests.paired({0: 24.0, 1: 25.0}, {0: 20.0, 1: 22.0})
  assert (tested["rival"], tested["score"]) == ("on_policy_kd", "bleu")
  assert tested["test"]["seeds"] == [0, 1]
  for field in ("difference", "low", "high", "deviation", "t", "p_value"):
    assert tested["test"][field] == getattr(expected, field)
  # One more than the score, see the lines.
  assert tested["validation"]["difference"] == 3.5
  assert tested["bootstrap"] is None


def test_each_arm_is_tested_against_its_own_group():
  lines = [
    line("a, on_policy_kd", 0, 20.0),
    line("a, skd", 0, 21.5),
    line("b, on_policy_kd", 0, 40.0),
    line("b, skd", 0, 39.0),
    line("c, skd", 0, 39.0),  # Without a baseline.
  ]
  (tests,) = comparison_tests.run_tests(lines, ["on_policy_kd"]).values()
  assert {
    name: (tested["rival"], tested["test"]["difference"])
    for name, tested in tests.items()
  } == {"a, skd": ("a, on_policy_kd", 1.5), "b, skd": ("b, on_policy_kd", -1.0)}


def test_only_common_seeds_are_tested():
  lines = [*LINES, line("skd", 2, 99.0), line("sft", 3, 1.0)]
  (tests,) = comparison_tests.run_tests(lines, ["on_policy_kd"]).values()
  assert list(tests) == ["skd"]
  assert tests["skd"]["test"]["seeds"] == [0, 1]


def test_runs_without_a_score_or_a_validation_are_left_out():
  unknown = line("skd", 1, 25.0, curve=[]) | {"metrics": {"bleu": None}}
  (tests,) = comparison_tests.run_tests(
    [*LINES[:-1], unknown], ["on_policy_kd"]
  ).values()
  assert tests["skd"]["test"]["seeds"] == [0]
  assert tests["skd"]["validation"]["seeds"] == [0]
  bare = [run | {"curve": []} for run in LINES if run["seed"] is not None]
  (tests,) = comparison_tests.run_tests(bare, ["on_policy_kd"]).values()
  assert tests["skd"]["validation"] is None


def test_answers_give_the_bootstrap_of_the_same_difference(workdir):
  tests = comparison_tests.run_tests(SCORED, ["on_policy_kd"], workdir=workdir)
  tested = tests["on_policy_kd"]["skd"]
  found = tested["bootstrap"]
  assert found["difference"] == pytest.approx(tested["test"]["difference"])
  assert found["difference"] == pytest.approx(17.5)
  assert 0 <= found["low"] < 17.5 < found["high"]
  assert 0 < found["p_value"] < 0.2


def test_bootstrap_needs_the_answers_of_every_seed_of_both(workdir):
  gone = records.answers_path(workdir, "on_policy_kd", 1)
  gone.unlink()
  tests = comparison_tests.run_tests(SCORED, ["on_policy_kd"], workdir=workdir)
  assert tests["on_policy_kd"]["skd"]["bootstrap"] is None


def test_score_without_counts_has_no_bootstrap(workdir):
  lines = [
    run if run["seed"] is None else run | {"score": "chrf"} for run in LINES
  ]
  tests = comparison_tests.run_tests(lines, ["on_policy_kd"], workdir=workdir)
  assert tests["on_policy_kd"]["skd"]["test"]["difference"] == 7.0
  assert tests["on_policy_kd"]["skd"]["bootstrap"] is None


def test_kept_bootstrap_serves_where_the_answers_are_not(workdir, tmp_path):
  with_answers = comparison_tests.run_tests(
    SCORED, ["on_policy_kd"], workdir=workdir
  )
  path = tmp_path / "runs.jsonl"
  assert comparison_tests.read(path) == {}
  files.write_json(comparison_tests.tests_path(path), with_answers)
  kept = comparison_tests.read(path)
  assert kept == json.loads((tmp_path / "tests.json").read_text("utf-8"))
  again = comparison_tests.run_tests(SCORED, ["on_policy_kd"], kept=kept)
  assert again == with_answers


def test_kept_bootstrap_of_other_runs_is_dropped(workdir):
  kept = comparison_tests.run_tests(SCORED, ["on_policy_kd"], workdir=workdir)
  another = SCORED[-1] | {"metrics": {"accuracy": 55.0}}
  for lines in (
    [*SCORED[:-1], another],
    [*SCORED, *(run | {"seed": 2} for run in SCORED[3:6:2])],
  ):
    tests = comparison_tests.run_tests(lines, ["on_policy_kd"], kept=kept)
    assert tests["on_policy_kd"]["skd"]["bootstrap"] is None


def test_usual_baselines_are_those_that_are_compared():
  def chosen(asked, *names, grid=None):
    found = [variant.name for variant in grids.choose(grid, names)]
    return comparison_tests.choose_baselines(asked, found)

  assert chosen([], "skd", "on_policy_kd") == ["on_policy_kd"]
  assert chosen([], "skd", "sft") == ["skd"]
  assert chosen(["sft"], "skd", "sft", "on_policy_kd") == ["sft"]
  assert chosen([], grid="data_size") == list(grids.BASELINES)
  with pytest.raises(ValueError, match="--baselines=gkd: must be of skd, sft"):
    chosen(["gkd"], "skd", "sft")
