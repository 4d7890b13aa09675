"""The report says plainly what a run found, and never more than it found."""

import copy
import json
import math

import pytest
from matplotlib.figure import Figure

from skd_jax.reporting.plots import (
  draw_learning_curve,
  draw_replacement_rate,
  mean_curve,
  read_curves,
)
from skd_jax.reporting.report import margin_sentence, plot_history, write_report


def metrics_of(student: float, start: float, name: str = "bleu") -> dict:
  return {
    "teacher": {name: 40.0},
    "student_init": {name: start},
    "student": {name: student},
  }


def report_of(*scores: tuple[float, float], name: str = "bleu") -> dict:
  """A report of one (student, start) pair of scores per seed."""
  return {
    "task": "translate",
    "config": {"learning_rate": 1e-4},
    "seeds": list(range(len(scores))),
    "main_metric": name,
    "metrics": metrics_of(*scores[0], name),
    "per_seed": [
      {"seed": seed, "metrics": metrics_of(*pair, name)}
      for seed, pair in enumerate(scores)
    ],
    "rollout": {
      "replacement_rate": 0.0814,
      "accepted_per_round": 3.912,
      "tokens_per_s": 3124.3,
    },
    "seconds": {"generate": 812.2, "train": 55.12, "total": 4030.0},
    "signature": {"bleu": "nrefs:1|tok:13a"},
  }


def page_of(folder, report) -> str:
  write_report(folder, report)
  return (folder / "report.md").read_text(encoding="utf-8")


def test_gain_beyond_the_spread_is_said():
  sentence = margin_sentence(report_of((25.0, 20.0), (26.0, 20.5)))
  assert "above its start by more than the spread over 2 seeds (1.00)" in (
    sentence
  )
  assert "not above" not in sentence
  assert "25.50, its start's 20.25: +5.25" in sentence


@pytest.mark.parametrize(
  "scores",
  [
    [(21.0, 20.0), (23.0, 20.0)],  # Gain 2, the student's spread 2.
    [(22.0, 19.0), (22.0, 22.0)],  # Gain 1.5, the start's spread 3.
    [(19.0, 20.0), (19.0, 20.0)],  # A loss, without any spread.
    [(20.0, 20.0), (20.0, 20.0)],
  ],
)
def test_gain_within_the_spread_is_no_gain(scores):
  assert "is not above its start" in margin_sentence(report_of(*scores))


def test_one_seed_gives_no_verdict():
  sentence = margin_sentence(report_of((30.0, 20.0)))
  assert "spread over seeds is not known" in sentence
  assert "above" not in sentence


def test_report_without_per_seed_is_one_seed():
  report = report_of((30.0, 20.0), (10.0, 20.0))
  del report["per_seed"]
  assert "+10.00. One seed" in margin_sentence(report)


def test_task_without_bleu_is_compared_by_its_own_score():
  sentence = margin_sentence(
    report_of((0.51, 0.25), (0.52, 0.25), name="accuracy")
  )
  assert "accuracy is 0.5150, its start's 0.2500: +0.2650" in sentence


def test_student_is_judged_by_the_main_metric_wherever_it_stands():
  report = report_of((40.0, 50.0), name="chrf")
  for run in [report, *report["per_seed"]]:
    for model, scores in run["metrics"].items():
      # A better one that comes first, and is not the main one.
      run["metrics"][model] = {"bleu": 30.0, **scores}
  assert "The student's chrf is 40.00" in margin_sentence(report)
  report["main_metric"] = "bleu"
  assert "The student's bleu is 30.00" in margin_sentence(report)


def report_of_tasks() -> dict:
  def scores(bleu, accuracy):
    return {
      "mean": (bleu + accuracy) / 2,
      "translation": {"bleu": bleu, "kl": 0.5},
      "arithmetic": {"accuracy": accuracy},
    }

  def metrics(gain):
    return {
      "teacher": scores(40.0, 80.0),
      "student_init": scores(10.0, 20.0),
      "student": scores(10.0 + gain, 20.0),
    }

  report = report_of((0.0, 0.0), (0.0, 0.0), name="mean")
  report["metrics"] = metrics(5.0)
  report["per_seed"] = [
    {"seed": 0, "metrics": metrics(4.0)},
    {"seed": 1, "metrics": metrics(6.0)},
  ]
  return report


def test_several_tasks_are_judged_by_their_mean():
  sentence = margin_sentence(report_of_tasks())
  assert "The student's mean is 17.50, its start's 15.00: +2.50." in sentence
  assert "more than the spread over 2 seeds (1.00)" in sentence


def test_every_task_has_its_table(tmp_path):
  page = page_of(tmp_path, report_of_tasks())
  mean, translation, arithmetic = page.split("## ")[:3]
  assert "| student, distilled | 17.50 ± 0.71 |" in mean
  assert translation.startswith("translation\n\n|  | bleu | kl |\n")
  assert (
    "| student, distilled | 15.00 ± 1.41 | 0.5000 ± 0.0000 |" in translation
  )
  assert arithmetic.startswith("arithmetic\n\n|  | accuracy |\n")
  assert "| teacher | 80.00 ± 0.00 |" in arithmetic
  assert page.count("over 2 seeds.") == 1


def test_score_that_is_not_finite_gives_no_verdict():
  sentence = margin_sentence(report_of((math.nan, 20.0), (30.0, 20.0)))
  assert "no verdict" in sentence


def test_missing_start_gives_no_verdict():
  report = report_of((30.0, 20.0))
  for run in [report, *report["per_seed"]]:
    run["metrics"]["student_init"] = {}
  assert "bleu or its start's was not measured: no verdict" in (
    margin_sentence(report)
  )


def test_table_gives_mean_and_sample_deviation(tmp_path):
  page = page_of(tmp_path, report_of((25.0, 20.0), (26.0, 20.0)))
  assert "| student, distilled | 25.50 ± 0.71 |" in page
  assert "| teacher | 40.00 ± 0.00 |" in page
  assert "over 2 seeds." in page


def test_one_seed_has_no_deviation(tmp_path):
  assert "±" not in page_of(tmp_path, report_of((25.0, 20.0)))


def test_metric_that_one_model_lacks_is_not_made_up(tmp_path):
  report = report_of((25.0, 20.0))
  report["per_seed"][0]["metrics"]["student"]["chrf"] = 51.5
  page = page_of(tmp_path, report)
  assert "| student, start | 20.00 | n/a |" in page
  assert "| student, distilled | 25.00 | 51.50 |" in page


def test_quantities_have_sensible_digits(tmp_path):
  page = page_of(tmp_path, report_of((25.0, 20.0)))
  assert "| replacement rate | 8.14 % |" in page
  assert "| accepted per round | 3.91 |" in page
  assert "| tokens per second | 3,124 |" in page
  assert "| generate | 13 min 32 s | 20 % |" in page
  assert "| train | 55.1 s | 1 % |" in page
  assert "| total | 1 h 07 min | 100 % |" in page


def test_warnings_stand_above_the_numbers_of_the_rollouts(tmp_path):
  report = report_of((25.0, 20.0))
  assert "Warnings" not in page_of(tmp_path, report)
  report["warnings"] = ["distill, seed 0, step 20: the gate is inert."]
  page = page_of(tmp_path, report)
  assert "## Warnings\n\n- distill, seed 0, step 20: the gate" in page
  assert page.index("## Warnings") < page.index("## Rollouts")


def test_verdict_on_the_pair_stands_above_the_scores(tmp_path):
  report = report_of((25.0, 20.0))
  assert "The pair" not in page_of(tmp_path, report)
  report["probe"] = {"replaced": 0.12, "verdict": "fits: top_k 25 replaces 12%"}
  page = page_of(tmp_path, report)
  assert "\nThe pair at the start: fits: top_k 25 replaces 12%.\n" in page
  assert page.index("The pair at the start") < page.index("| teacher |")


def test_json_keeps_the_report_and_stays_json(tmp_path):
  report = report_of((25.0, 20.0), (26.0, 20.0))
  report["rollout"]["tokens_per_s"] = math.nan
  before = copy.deepcopy(report)
  write_report(tmp_path, report)

  def refuse(constant):
    raise AssertionError(constant)

  text = (tmp_path / "report.json").read_text()
  read = json.loads(text, parse_constant=refuse)
  assert read["rollout"].pop("tokens_per_s") is None
  assert math.isnan(report["rollout"].pop("tokens_per_s"))
  del before["rollout"]["tokens_per_s"]
  assert read == before == report
  assert [p.name for p in tmp_path.glob("*.tmp")] == []


def test_origin_and_files_are_told(tmp_path):
  for name in ("report.html", "learning_curve.png"):
    (tmp_path / name).write_text("")
  report = report_of((25.0, 20.0)) | {
    "command": "python -m skd_jax.main",
    "versions": {"jax": "0.10.2"},
    "signature": {"bleu": "tok:13a", "chrf": "nc:6"},
  }
  page = page_of(tmp_path, report)
  assert "```sh\npython -m skd_jax.main\n```" in page
  assert "jax 0.10.2" in page
  assert "bleu: `tok:13a`" in page
  assert "chrf: `nc:6`" in page
  assert "[report.html](report.html)" in page
  assert "![learning_curve](learning_curve.png)" in page
  assert "replacement_rate.png" not in page


@pytest.mark.parametrize(
  "key", ["task", "config", "main_metric", "metrics", "seconds"]
)
def test_missing_key_is_named_and_nothing_is_page_of(tmp_path, key):
  report = report_of((25.0, 20.0))
  del report[key]
  with pytest.raises(ValueError, match=f"report has no '{key}'"):
    write_report(tmp_path, report)
  assert not list(tmp_path.iterdir())


def line_of(step, *, stage="distill", seed=0, **values):
  return {"stage": stage, "seed": seed, "step": step, **values}


def titles(figure: Figure | None) -> list[str]:
  assert figure is not None
  return [axes.get_title(loc="left") for axes in figure.axes if axes.lines]


def test_every_stage_and_validation_score_has_its_panel():
  lines = [
    line_of(1, stage="teacher", loss=3.0),
    line_of(1, stage="student_init", loss=4.0),
    line_of(1, loss=2.0, validation_bleu=20.0, validation_kl=0.5, kl=0.4),
    line_of(2, loss=1.0),
  ]
  figure = draw_learning_curve(read_curves(lines), ["bleu"])
  assert titles(figure) == [
    "teacher: loss",
    "student, start: loss",
    "distillation: loss",
    "distillation: validation bleu",
  ]


def test_each_seed_has_a_line_and_the_mean_one_more():
  lines = [
    line_of(step, seed=seed, replacement_rate=0.1 * step + 0.2 * seed)
    for seed in (0, 1)
    for step in (1, 2)
  ]
  figure = draw_replacement_rate(read_curves(lines))
  assert figure is not None
  drawn = figure.axes[0].lines
  assert [line.get_label() for line in drawn] == ["seed 0", "seed 1", "mean"]
  assert list(drawn[2].get_ydata()) == pytest.approx([0.2, 0.3])
  assert drawn[2].get_linewidth() > drawn[0].get_linewidth()


def test_mean_stops_where_a_seed_stops():
  mean = mean_curve([{1: 0.0, 2: 2.0, 3: 4.0}, {1: 2.0, 2: 4.0}])
  assert mean == {1: 1.0, 2: 3.0}


def test_number_that_was_null_is_a_gap():
  lines = [line_of(1, loss=1.0), line_of(2, loss=math.nan)]
  figure = draw_learning_curve(read_curves(lines), ["bleu"])
  assert figure is not None
  values = figure.axes[0].lines[0].get_ydata()
  assert values[0] == 1.0
  assert math.isnan(values[1])


def test_plot_without_numbers_is_left_out(tmp_path):
  lines = [line_of(1, loss=1.0), line_of(2, loss=0.5)]
  assert plot_history(lines, tmp_path, ["bleu"]) == [
    tmp_path / "learning_curve.png"
  ]
  png = (tmp_path / "learning_curve.png").read_bytes()
  assert png.startswith(b"\x89PNG")
  assert not (tmp_path / "replacement_rate.png").exists()


def test_empty_history_draws_nothing(tmp_path):
  assert plot_history([], tmp_path, ["bleu"]) == []


def test_clock_of_the_start_stands_below_the_parts(tmp_path):
  report = report_of((25.0, 20.0)) | {"clock_seconds": 75.0}
  assert "By the clock, this start took 1 min 15 s." in page_of(
    tmp_path, report
  )
