"""Comparisons of methods: their tests, tables and plots."""

import json
import math
import random

import jax
import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from benchmarks import harness, tables
from benchmarks.quality import plots, significance, table
from skd_jax import comparison, grids, methods
from skd_jax import records as records_lib
from skd_jax.parallel import sharding
from tests import command_lines, tiny_run

compare_methods = command_lines.load(
  "benchmarks.compare_methods", keep_flags=False
)
method_cost = command_lines.load(
  "benchmarks.speed.method_cost", keep_flags=False
)

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


def test_mean_curve_is_over_the_steps_of_all_seeds():
  curves = [[(3.0, 2, 20.0), (6.0, 4, 30.0)], [(5.0, 2, 22.0)]]
  assert table.mean_curve(curves) == [(4.0, 21.0)]
  assert table.mean_curve([]) == []


def test_time_to_a_score_is_that_of_the_first_validation_that_has_it():
  curve = [(3.0, 20.0), (6.0, 30.0), (9.0, 29.0)]
  assert table.seconds_to_reach(curve, 25.0) == 6.0
  assert table.seconds_to_reach(curve, 31.0) is None


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
  rows = table.rows(RECORDS, TESTS)
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
  text = table.section(RECORDS, TESTS)
  assert "24.50 ± 0.71" in text
  assert "| +3.50 [-0.50, +7.50], p = 0.004 |" in text
  assert "p < 0.001" in text
  assert "| 15.00 % " in text
  assert "| bleu over on_policy_kd" in text
  # Without tests yet, as while a comparison runs.
  assert "over" not in table.section(RECORDS, {})


def test_changed_tokens_are_shown_where_they_are_fewer_than_replaced():
  same = RECORDS[-1] | {"changed_rate": 0.2}
  fewer = RECORDS[-1] | {"method": "random", "changed_rate": 0.125}
  text = table.section([same, fewer], {})
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
  *_, skd = table.rows(newer, TESTS)
  assert skd["seeds"] == 3
  assert "bleu over on_policy_kd" not in skd


def test_all_commands_of_the_lines_are_named():
  other = RECORDS[-1] | {"seed": 2, "command": "python -m elsewhere"}
  text = table.section([*RECORDS, other], TESTS)
  assert "`python -m benchmarks.compare_methods`\n`python -m elsewhere`" in text


def test_plots_are_drawn_of_what_was_measured(tmp_path):
  drawn = plots.draw_all(RECORDS, tmp_path)
  assert [path.name for path in drawn] == [
    "score_over_time.png",
    "replacement_over_steps.png",
    "replacement_by_position.png",
  ]
  assert all(path.stat().st_size > 0 for path in drawn)
  figure = plots.draw_score_over_time(RECORDS)
  (axes,) = figure.axes
  lines = {line.get_label(): line for line in axes.lines}
  np.testing.assert_allclose(lines["skd"].get_xdata(), [4.5, 9.0])
  np.testing.assert_allclose(lines["skd"].get_ydata(), [23.5, 24.5])
  replaced = plots.draw_replacement_over_steps(RECORDS)
  assert [line.get_label() for line in replaced.axes[0].lines] == ["skd"]
  assert plots.draw_replacement_by_position(RECORDS[:3]) is None


def test_page_shows_a_comparison_from_its_lines(tmp_path, monkeypatch):
  monkeypatch.setattr(tables, "ROOT", tmp_path)
  path = tmp_path / "quality" / "tiny" / "methods" / "runs.jsonl"
  records_lib.write(path, RECORDS)
  harness.write_json(table.tests_path(path), TESTS)
  tables.draw(tmp_path)
  (found,) = tables.read_results(tmp_path)
  page = "".join(
    f"<!-- table: {name} -->\nold\n<!-- end -->\n" for name in tables.NAMES
  )
  text = tables.rebuild(page, [found])
  assert "**tiny: methods**" in text
  assert "24.50 ± 0.71" in text
  assert "(../../quality/tiny/methods/score_over_time.png)" in text
  assert "old" not in text


def test_each_group_is_timed_to_its_own_baseline():
  records = [
    record("a, on_policy_kd", 0, 20.0),
    record("a, skd", 0, 21.5),
    record("b, on_policy_kd", 0, 40.0),
    record("b, skd", 0, 39.0),
  ]
  found = table.rows(records, {"on_policy_kd": {}})
  assert [row["to_baseline"] for row in found] == [10.0, 5.0, 10.0, None]


def test_usual_baselines_are_those_that_are_compared():
  def chosen(asked, *names, grid=None):
    return compare_methods.choose_baselines(asked, grids.choose(grid, names))

  assert chosen([], "skd", "on_policy_kd") == ["on_policy_kd"]
  assert chosen([], "skd", "sft") == ["skd"]
  assert chosen(["sft"], "skd", "sft", "on_policy_kd") == ["sft"]
  assert chosen([], grid="data_size") == list(grids.BASELINES)
  with pytest.raises(ValueError, match="--baselines=gkd: must be of skd, sft"):
    chosen(["gkd"], "skd", "sft")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run, whose teacher and start are compared from."""
  with tiny_run.quick_compilation(tmp_path_factory):
    yield tiny_run.finish(tmp_path_factory)


def config_of(finished, **changes):
  config = tiny_run.config(finished.parent / "data")
  config.teacher.path = str(finished / "teacher")
  config.student.path = str(finished / "student_init")
  return methods.change(config, changes)


@pytest.mark.slow
def test_steps_of_methods_are_timed_in_turns(finished, tmp_path, monkeypatch):
  names = ["on_policy_kd", "skd", "skd_k1", "random"]
  asked = comparison.open_comparison(
    config_of(finished), tmp_path, methods=names
  )
  turns = []
  generate_responses = method_cost.generation.generate_responses

  def watched(spec, *arguments):
    *_, step = arguments
    turns.append((spec.mode, spec.rule.accept, step))
    return generate_responses(spec, *arguments)

  monkeypatch.setattr(method_cost.generation, "generate_responses", watched)
  with jax.set_mesh(sharding.make_mesh(**asked.config.mesh)):
    prepared = comparison.prepare(asked, grids.Start())
    rows = method_cost.make_rows(prepared, names, 2)
  on_policy, skd, first_only, control = rows
  assert on_policy["ratio_to_on_policy_kd"] == 1
  assert on_policy["replacement_rate"] is None
  # The rollout of SKD has verified what the others have to show the teacher.
  assert on_policy["verify"] > 0
  assert skd["verify"] == 0
  # The top 25 of this teacher are nearly all that its student proposes.
  assert (skd["replacement_rate"] or 0) < first_only["replacement_rate"]
  assert (control["replacement_rate"] or 0) < 0.1
  # Compiled one by one, then in turns, at the first and the last step.
  assert [step for *_, step in turns] == [0, 5] * 4 + [0] * 4 + [5] * 4
  assert turns[8:12] == turns[0:8:2]


@pytest.mark.slow
def test_table_plots_and_tests_are_written(finished, tmp_path):
  names = ["on_policy_kd", "skd", "random"]
  changes = {"distill.num_steps": 2, "distill.evaluate_every_steps": 1}
  comparison.compare(
    config_of(finished, **changes), tmp_path, methods=names, seeds=2
  )
  folder = tmp_path / "methods"
  text = compare_methods.analyze(
    folder / "runs.jsonl", tmp_path, ["on_policy_kd", "skd"]
  )
  page = (folder / "comparison.md").read_text("utf-8")
  assert text in page
  for name in names:
    assert f"| {name} " in page
  assert "![score_over_time](score_over_time.png)" in page
  assert (folder / "replacement_by_position.png").stat().st_size > 0
  tested = json.loads((folder / "tests.json").read_text("utf-8"))
  assert list(tested) == ["on_policy_kd", "skd"]
  assert set(tested["on_policy_kd"]) == {"skd", "random"}
  assert 0 < tested["on_policy_kd"]["skd"]["bleu"]["p_value"] <= 1
