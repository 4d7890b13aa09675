"""Comparisons of methods: their numbers, and that they continue."""

import json
import math
import pathlib
import random

import jax
import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from benchmarks import (
  compare_methods,
  comparison,
  comparison_plots,
  comparison_runs,
  grids,
  harness,
  significance,
  tables,
)
from benchmarks.speed import method_cost
from skd_jax import config as config_lib
from skd_jax import config_checks, methods, train, writers
from skd_jax.parallel import sharding
from tests import tiny_run

WORDS = ("the", "a", "dog", "cat", "man", "sees", "tree", "ball", "red", "blue")


def corrupted(references, share, seed):
  rng = random.Random(seed)
  return [
    " ".join(
      rng.choice(WORDS) if rng.random() < share else word
      for word in sentence.split()
    )
    for sentence in references
  ]


@pytest.fixture(scope="module")
def references():
  rng = random.Random(0)
  return [" ".join(rng.choices(WORDS, k=9)) for _ in range(120)]


def run_test(baseline, answers, references, metric="bleu"):
  """The test of one method against one baseline."""
  found = significance.compare(
    {"rival": baseline, "method": answers},
    {"baseline": {"method": "rival"}},
    references,
    [metric],
  )
  return found["baseline"]["method"][metric]


@pytest.mark.parametrize(("metric", "scorer"), [("bleu", BLEU), ("chrf", CHRF)])
def test_one_seed_is_tested_as_sacrebleu_does(references, metric, scorer):
  bad, good = (corrupted(references, share, 1) for share in (0.5, 0.3))
  test = run_test({0: bad}, {0: good}, references, metric)
  ours = scorer()
  signatures, scores = PairedTest(
    [("bad", bad), ("good", good)], {metric: ours}, [references], "ar", 5000
  )()
  ((name, _),) = signatures.items()
  first, second = scores[name]
  assert test["difference"] == pytest.approx(second.score - first.score)
  assert test["p_value"] == pytest.approx(second.p_value)
  assert test["p_value"] < 0.01
  assert "ar:5000" in test["signature"]


def test_interval_and_p_agree_and_are_two_sided(references):
  # Better by a little over one standard error: one side alone would give half.
  better, worse = (corrupted(references, share, 1) for share in (0.47, 0.5))
  found = run_test({0: worse}, {0: better}, references)
  deviation = (found["high"] - found["low"]) / (2 * 1.96)
  z = found["difference"] / deviation
  assert 0.5 < z < 2.5
  two_sided = math.erfc(z / math.sqrt(2))
  assert found["p_value"] == pytest.approx(two_sided, rel=0.3)
  # The other way around it is the same, with the other sign.
  turned = run_test({0: better}, {0: worse}, references)
  assert turned["difference"] == pytest.approx(-found["difference"])
  assert turned["p_value"] == pytest.approx(found["p_value"], rel=0.1)
  assert (turned["low"], turned["high"]) == pytest.approx(
    (-found["high"], -found["low"]), abs=1e-3
  )


def test_interval_of_the_difference_is_paired(references):
  # What both have wrong in common does not widen it.
  first = corrupted(references, 0.5, 1)
  second = [*first[:-1], references[-1]]
  paired = run_test({0: first}, {0: second}, references)
  apart = run_test({0: first}, {0: corrupted(references, 0.48, 7)}, references)
  width = [found["high"] - found["low"] for found in (paired, apart)]
  assert width[0] < width[1] / 2


def test_seeds_do_not_make_the_test_set_larger(references):
  bad, good = (corrupted(references, share, 1) for share in (0.5, 0.47))
  one = run_test({0: bad}, {0: good}, references)
  # The same answers three times over are no more evidence than once.
  three = run_test(
    dict.fromkeys(range(3), bad), dict.fromkeys(range(3), good), references
  )
  assert three["p_value"] == pytest.approx(one["p_value"])
  for end in ("low", "high"):
    assert three[end] == pytest.approx(one[end], abs=1e-4)


def test_what_is_tested_together_is_as_if_tested_alone(references, monkeypatch):
  monkeypatch.setattr(significance, "_NUM_TRIALS", 200)
  answers = {
    name: {0: corrupted(references, share, 1), 1: corrupted(references, 0.4, 2)}
    for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.4))
  }
  rivals = {name: {other: name for other in "abc"} for name in "ab"}
  together = significance.compare(answers, rivals, references, ["bleu", "chrf"])
  assert list(together) == ["a", "b"]
  for baseline, methods_tested in together.items():
    assert set(methods_tested) == {"a", "b", "c"}
    for name, of_metric in methods_tested.items():
      for metric, test in of_metric.items():
        alone = run_test(answers[baseline], answers[name], references, metric)
        assert test == alone


def test_equal_systems_do_not_differ(references):
  answers = {seed: corrupted(references, 0.3, seed) for seed in range(2)}
  test = run_test(answers, answers, references)
  assert (test["difference"], test["p_value"]) == (0, 1)


def test_only_common_seeds_are_compared(references):
  bad, good = (corrupted(references, share, 1) for share in (0.5, 0.3))
  one = run_test({0: bad}, {0: good}, references)
  assert run_test({0: bad, 1: good}, {0: good, 2: bad}, references) == one
  nothing = significance.compare(
    {"a": {0: bad}, "b": {1: good}}, {"x": {"b": "a"}}, references, ["bleu"]
  )
  assert nothing == {"x": {}}
  with pytest.raises(ValueError, match="seed 0 has 3 answers, must have 120"):
    run_test({0: bad}, {0: good[:3]}, references)


def logged(*seconds, **validations):
  """Lines of a log: two parts a step, and validations by step."""
  lines = []
  for step, value in enumerate(seconds, start=1):
    parts = {"seconds_generate": value / 4, "seconds_train": value * 3 / 4}
    lines.append({"step": step, "loss": 1.0, **parts})
    if f"s{step}" in validations:
      score = validations[f"s{step}"]
      lines.append({"step": step, "validation_bleu": score})
  return lines


def test_steps_that_compile_count_as_the_others():
  assert comparison.step_seconds(logged(9, 2, 2, 3)) == [2.5, 2, 2, 3]
  assert comparison.step_seconds([]) == []


def test_validation_curve_is_over_the_seconds_of_training():
  lines = logged(1, 2, 1, 2, s2=20.0, s4=30.0)
  curve = comparison.validation_curve(lines, "validation_bleu")
  assert curve == [(3.0, 2, 20.0), (6.0, 4, 30.0)]


def test_mean_curve_is_over_the_steps_of_all_seeds():
  curves = [[(3.0, 2, 20.0), (6.0, 4, 30.0)], [(5.0, 2, 22.0)]]
  assert comparison.mean_curve(curves) == [(4.0, 21.0)]
  assert comparison.mean_curve([]) == []


def test_time_to_a_score_is_that_of_the_first_validation_that_has_it():
  curve = [(3.0, 20.0), (6.0, 30.0), (9.0, 29.0)]
  assert comparison.seconds_to_reach(curve, 25.0) == 6.0
  assert comparison.seconds_to_reach(curve, 31.0) is None


def test_rate_by_position_leaves_empty_buckets_out():
  counts = {
    "emitted": 7,
    "emitted_from_0": 4,
    "replaced_from_0": 1,
    "emitted_from_1": 0,
    "replaced_from_1": 0,
  }
  assert comparison.rate_by_position(counts) == {"0": 0.25}


def record(method, seed, bleu, seconds=10.0, rate=0.1):
  return {
    "task": "tiny",
    "method": method,
    "seed": seed,
    "metrics": {"bleu": bleu, "kl": 0.5, "agreement": 0.75},
    "score": "bleu",
    "seconds": seconds,
    "generated_tokens": 1000 if seed is not None else None,
    "replacement_rate": rate,
    "curve": [[seconds / 2, 4, bleu - 1], [seconds, 8, bleu]],
    "replacement_curve": [] if rate is None else [[1, 0.3], [2, rate]],
    "replacement_by_position": [] if rate is None else [[0, 0.3], [1, rate]],
    "settings": "x",
    "device": "cpu-2",
    "versions": {"jax": "1"},
    "command": "python -m benchmarks.compare_methods",
  }


RECORDS = [
  record("teacher", None, 50.0, rate=None),
  record("on_policy_kd", 0, 20.0, rate=None),
  record("on_policy_kd", 1, 22.0, rate=None),
  record("skd", 0, 24.0, seconds=8.0),
  record("skd", 1, 25.0, seconds=10.0, rate=0.2),
]
TESTS = {
  baseline: {
    name: {
      "bleu": {
        "seeds": [0, 1],
        "difference": 3.5,
        "low": -0.5,
        "high": 7.5,
        "p_value": p,
      }
    }
    for name in ("on_policy_kd", "skd")
    if name != baseline
  }
  for baseline, p in (("on_policy_kd", 0.004), ("skd", 1e-4))
}


def test_table_has_mean_deviation_test_cost_and_rate():
  rows = comparison.rows(RECORDS, TESTS)
  teacher, baseline, skd = rows
  assert (teacher["method"], teacher["bleu"]) == ("teacher", 50.0)
  assert "seeds" not in teacher
  assert baseline["bleu"] == 21.0
  assert baseline["bleu over skd"]["p_value"] == 1e-4
  assert "bleu over on_policy_kd" not in baseline
  assert skd["bleu"] == 24.5
  assert skd["bleu_sd"] == pytest.approx(0.5**0.5)
  assert skd["bleu over on_policy_kd"]["p_value"] == 0.004
  assert skd["validation"] == 24.5
  assert skd["validation_sd"] == pytest.approx(0.5**0.5)
  assert (skd["seconds"], skd["seeds"]) == (9.0, 2)
  assert skd["replacement_rate"] == pytest.approx(0.15)
  assert baseline["replacement_rate"] is None
  # The baseline's best validation score is 21, SKD's first one is 23.5.
  assert (baseline["to_baseline"], skd["to_baseline"]) == (10.0, 4.5)


def test_table_reads_well():
  text = comparison.section(RECORDS, TESTS)
  assert "24.50 ± 0.71" in text
  assert "| +3.50 [-0.50, +7.50], p = 0.004 |" in text
  assert "p < 0.001" in text
  assert "| 15.00 % " in text
  assert "| bleu over on_policy_kd" in text
  # Without tests yet, as while a comparison runs.
  assert "over" not in comparison.section(RECORDS, {})


def test_changed_tokens_are_shown_where_they_are_fewer_than_replaced():
  same = RECORDS[-1] | {"changed_rate": 0.2}
  fewer = RECORDS[-1] | {"method": "random", "changed_rate": 0.125}
  text = comparison.section([same, fewer], {})
  assert "| 20.00 % " in text
  assert "| 20.00 %, 12.50 % changed |" in text


def test_means_over_sentences_are_tested_too():
  references = [f"so it is #### {number}" for number in range(100)]
  worse = [r if i % 2 else "#### x" for i, r in enumerate(references)]
  better = [r if i % 10 else "#### x" for i, r in enumerate(references)]
  seeds = {0: worse, 1: worse}, {0: better, 1: references}
  found = run_test(*seeds, references, "accuracy")
  assert found["difference"] == pytest.approx(45)
  assert found["low"] < 45 < found["high"]
  assert found["p_value"] < 0.001
  assert run_test(*seeds, references, "rougeL")["difference"] > 0


def test_stale_test_is_not_shown_beside_newer_means():
  newer = [*RECORDS, record("skd", 2, 30.0)]
  *_, skd = comparison.rows(newer, TESTS)
  assert skd["seeds"] == 3
  assert "bleu over on_policy_kd" not in skd


def test_all_commands_of_the_lines_are_named():
  other = RECORDS[-1] | {"seed": 2, "command": "python -m elsewhere"}
  text = comparison.section([*RECORDS, other], TESTS)
  assert "`python -m benchmarks.compare_methods`\n`python -m elsewhere`" in text


def test_lines_are_kept_and_read_back(tmp_path):
  path = tmp_path / "new" / "compare_methods.cpu-2.tiny.methods.jsonl"
  assert comparison.read(path) == []
  comparison.write(path, RECORDS)
  assert comparison.read(path) == RECORDS
  assert comparison.find(RECORDS, "skd", 1) == RECORDS[-1]
  assert comparison.find(RECORDS, "skd", 2) is None
  assert comparison.names(RECORDS) == ["on_policy_kd", "skd"]


def test_plots_are_drawn_of_what_was_measured(tmp_path):
  drawn = comparison_plots.draw_all(RECORDS, tmp_path)
  assert [path.name for path in drawn] == [
    "score_over_time.png",
    "replacement_over_steps.png",
    "replacement_by_position.png",
  ]
  assert all(path.stat().st_size > 0 for path in drawn)
  figure = comparison_plots.draw_score_over_time(RECORDS)
  (axes,) = figure.axes
  lines = {line.get_label(): line for line in axes.lines}
  np.testing.assert_allclose(lines["skd"].get_xdata(), [4.5, 9.0])
  np.testing.assert_allclose(lines["skd"].get_ydata(), [23.5, 24.5])
  replaced = comparison_plots.draw_replacement_over_steps(RECORDS)
  assert [line.get_label() for line in replaced.axes[0].lines] == ["skd"]
  assert comparison_plots.draw_replacement_by_position(RECORDS[:3]) is None


def test_readme_shows_a_comparison_from_its_lines(tmp_path):
  path = tmp_path / "compare_methods.cpu-2.tiny.methods.jsonl"
  comparison.write(path, RECORDS)
  harness.write_json(comparison.tests_path(path), TESTS)
  tables.draw(tmp_path)
  (found,) = tables.read_results(tmp_path)
  readme = "".join(
    f"<!-- table: {name} -->\nold\n<!-- end -->\n" for name in tables.NAMES
  )
  text = tables.rebuild(readme, [found])
  assert "**tiny: methods**" in text
  assert "24.50 ± 0.71" in text
  image = f"benchmarks/results/{path.stem}/score_over_time.png"
  assert f"(../../{image})" in text
  assert "old" not in text


@pytest.mark.parametrize("name", grids.GRIDS)
def test_grid_is_of_valid_and_distinct_settings(name):
  config = config_lib.default_config()
  variants = grids.choose(name, [])
  assert len({variant.name for variant in variants}) == len(variants)
  seen = []
  for variant in variants:
    rate = 0.1 if variant.method in methods.CONTROLS else None
    changed = methods.apply(config, variant.method, rate)
    changed = methods.change(changed, variant.start.changes)
    changed = methods.change(changed, variant.changes)
    config_checks.validate(changed)
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


def test_each_group_is_timed_to_its_own_baseline():
  records = [
    record("a, on_policy_kd", 0, 20.0),
    record("a, skd", 0, 21.5),
    record("b, on_policy_kd", 0, 40.0),
    record("b, skd", 0, 39.0),
  ]
  found = comparison.rows(records, {"on_policy_kd": {}})
  assert [row["to_baseline"] for row in found] == [10.0, 5.0, 10.0, None]


def test_starts_of_one_name_are_one_start():
  for variants in grids.GRIDS.values():
    starts = {(v.start.name, str(dict(v.start.changes))) for v in variants}
    assert len({name for name, _ in starts}) == len(starts)


def test_controls_run_last_and_not_alone():
  chosen = grids.choose(None, ["random", "sft", "skd"])
  assert [variant.name for variant in chosen] == ["sft", "skd", "random"]
  for grid, names, said in (
    (None, ["random"], "needs 'skd' beside it"),
    (None, ["skdd"], "'skdd': must be of sft"),
    (None, ["skd", "skd"], "must be distinct"),
    (None, [], "one of them must be given"),
    ("methods", ["skd"], "one of them must be given"),
    ("nope", [], "must be one of learning_rate, methods"),
  ):
    with pytest.raises(ValueError, match=said):
      grids.choose(grid, names)


def test_quick_config_is_valid():
  from configs import wmt

  for variant in ("demo", "multi30k_compare"):
    config_checks.validate(compare_methods.quick(wmt.get_config(variant)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run, whose teacher and start are compared from."""
  with tiny_run.quick_compilation(tmp_path_factory):
    yield tiny_run.finish(tmp_path_factory)


def asked(finished, workdir, names, seeds=2, grid=None, **changes):
  config = tiny_run.config(finished.parent / "data")
  config.teacher.path = str(finished / "teacher")
  config.student.path = str(finished / "student_init")
  variants = grids.choose(grid, names)
  return comparison_runs.Comparison(
    config=methods.change(config, changes),
    variants=variants,
    seeds=range(seeds),
    workdir=workdir,
    path=workdir / "compare_methods.cpu-2.tiny.methods.jsonl",
    name=grid or "methods",
    baselines=[grids.in_group(variant.name) for variant in variants[:2]],
    command="python -m benchmarks.compare_methods",
  )


METHODS = ["on_policy_kd", "skd", "random"]


def test_steps_of_methods_are_timed_in_turns(finished, tmp_path, monkeypatch):
  names = ["on_policy_kd", "skd", "skd_k1", "random"]
  what = asked(finished, tmp_path, names)
  config = comparison_runs.fair(what.config)
  turns = []
  make_step_fn = train.make_step_fn

  def watched(run, shared, seed):
    step_fn = make_step_fn(run, shared, seed)

    def step(state, batch, step):
      turns.append((run.config.rollout.accept, run.config.rollout.policy, step))
      return step_fn(state, batch, step)

    return step

  monkeypatch.setattr(train, "make_step_fn", watched)
  with jax.set_mesh(sharding.make_mesh(**config.mesh)):
    prepared = comparison_runs.prepare(what, config, grids.Start())
    rows = method_cost.make_rows(prepared, names, 2)
  on_policy, skd, first_only, control = rows
  assert on_policy["ratio_to_on_policy_kd"] == 1
  assert on_policy["replacement_rate"] is None
  # The rollout of SKD has verified what the others have to show the teacher.
  assert on_policy["verify"] > 0
  assert skd["verify"] == 0
  # The best 25 of this teacher are nearly all that its student proposes.
  assert (skd["replacement_rate"] or 0) < first_only["replacement_rate"]
  assert (control["replacement_rate"] or 0) < 0.1
  # Compiled one by one, then in turns, at the first and the last step.
  assert [step for *_, step in turns] == [0, 5] * 4 + [0] * 4 + [5] * 4
  assert turns[8:12] == turns[0:8:2]


class _Killed(BaseException):
  pass


@pytest.fixture(scope="module")
def compared(finished, tmp_path_factory):
  """A comparison that is killed in its third run, and then continued.

  Returns (what was asked, lines at the kill, (method, seed) distilled after it,
  the lines in the end).
  """
  what = asked(finished, tmp_path_factory.mktemp("compare"), METHODS)
  trim_and_count, distill = writers.trim_and_count, train.distill
  steps, distilled = [], []

  def killed(*arguments):
    steps.append(None)
    if len(steps) == 2 * 6 + 4:  # Two runs of 6 steps, and into the third.
      raise _Killed
    return trim_and_count(*arguments)

  def watched(run, shared, seed):
    distilled.append((run.workdir.parent.name, seed))
    return distill(run, shared, seed)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers, "trim_and_count", killed)
    with pytest.raises(_Killed):
      compare_methods.run_all(what)
  before = comparison.read(what.path)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "distill", watched)
    after = compare_methods.run_all(what)
  return what, before, distilled, after


@pytest.mark.slow
def test_killed_comparison_loses_at_most_the_run_it_was_in(compared):
  _, before, distilled, after = compared
  runs = [(r["method"], r["seed"]) for r in before]
  assert runs == [
    ("teacher", None),
    ("student_init", None),
    ("on_policy_kd", 0),
    ("skd", 0),
  ]
  assert distilled == [("random", 0), *[(name, 1) for name in METHODS]]
  assert [r for r in after if r in before] == before
  assert len(after) == 2 + 2 * 3


@pytest.mark.slow
def test_line_says_what_a_run_found_and_cost(compared):
  *_, lines = compared
  for line in lines:
    json.dumps(line, allow_nan=False)
    assert line["task"] == "tiny"
    assert {"bleu", "chrf", "kl", "rank_correlation"} <= line["metrics"].keys()
    assert line["versions"]["jax"]
    assert line["command"]
  for line in lines[2:]:
    assert line["seconds"] > 0, line["method"]
    assert line["generated_tokens"] > 0
    assert [step for _, step, _ in line["curve"]] == [3, 6]
    assert line["score"] == "bleu"
  for line in lines[2:]:
    if line["method"] == "on_policy_kd":
      assert line["replacement_rate"] is None
      assert line["replacement_curve"] == []
    else:
      assert 0 < line["replacement_rate"] < 1
      assert [step for step, _ in line["replacement_curve"]] == [*range(1, 7)]
      assert line["replacement_by_position"][0][0] == 0


@pytest.mark.slow
def test_control_replaces_at_the_rate_of_what_it_controls(compared):
  what, *_, lines = compared
  for seed in (0, 1):
    rate = comparison.find(lines, "skd", seed)["replacement_rate"]
    run = what.workdir / "runs" / "random" / f"seed_{seed}"
    settings = json.loads((run / "config.json").read_text())["config"]
    assert settings["rollout"]["threshold"] == pytest.approx(rate)
    found = comparison.find(lines, "random", seed)["replacement_rate"]
    assert found == pytest.approx(rate, abs=0.1)


@pytest.mark.slow
def test_runs_of_a_seed_see_the_same_examples(compared):
  what, *_ = compared
  settings = [
    json.loads((path / "config.json").read_text())["config"]
    for path in sorted((what.workdir / "runs").glob("*/seed_0"))
  ]
  assert len(settings) == 3
  for section in ("data", "distill", "evaluate", "seeds", "seed"):
    assert all(s[section] == settings[0][section] for s in settings)
  for field in ("student_temperature", "teacher_temperature"):
    assert len({s["rollout"][field] for s in settings}) == 1


@pytest.mark.slow
def test_table_plots_and_tests_are_written(compared):
  what, *_ = compared
  folder = what.workdir / "methods"
  page = (folder / "comparison.md").read_text("utf-8")
  for name in METHODS:
    assert f"| {name} " in page
  assert "![score_over_time](score_over_time.png)" in page
  assert (folder / "replacement_by_position.png").stat().st_size > 0
  tested = comparison.read_tests(what.path)
  assert list(tested) == ["on_policy_kd", "skd"]
  assert set(tested["on_policy_kd"]) == {"skd", "random"}
  assert 0 < tested["on_policy_kd"]["skd"]["bleu"]["p_value"] <= 1


@pytest.mark.slow
def test_other_settings_do_not_mix_with_kept_lines(compared, finished):
  what, *_ = compared
  other = asked(
    finished, what.workdir, METHODS, **{"distill.learning_rate": 1e-5}
  )
  before = what.path.read_bytes()
  with pytest.raises(ValueError, match="other settings"):
    compare_methods.run_all(other)
  assert what.path.read_bytes() == before


def test_impossible_comparisons_are_refused_before_they_start(tmp_path):
  finished = tmp_path / "finished"
  what = asked(finished, tmp_path / "w", [], grid="model_size")
  with pytest.raises(ValueError, match=r"student.path = .*model_size"):
    compare_methods.run_all(what)
  several = asked(finished, tmp_path / "w", ["skd"])
  several.config.tasks = {"sums": {"kind": "arithmetic"}}
  with pytest.raises(ValueError, match=r"tasks = \['sums'\]"):
    compare_methods.run_all(several)
  assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_every_method_runs(finished, tmp_path):
  what = asked(
    finished,
    tmp_path,
    [],
    seeds=1,
    grid="methods",
    **{"distill.num_steps": 4, "distill.evaluate_every_steps": 2},
  )
  lines = compare_methods.run_all(what)
  assert set(comparison.names(lines)) == set(methods.METHODS)
  for line in lines:
    assert all(np.isfinite(v) for v in line["metrics"].values())


@pytest.mark.slow
def test_grid_trains_the_starts_that_it_needs(finished, tmp_path):
  what = asked(
    finished,
    tmp_path,
    [],
    seeds=1,
    grid="start",
    **{"student.path": "", "student.fit.num_steps": 4},
  )
  lines = compare_methods.run_all(what)
  assert len(lines) == 3 + 6  # The teacher, two starts, six runs.
  assert {
    path.name for path in pathlib.Path(tmp_path / "starts").iterdir()
  } == {
    "start",
    "raw",
  }
