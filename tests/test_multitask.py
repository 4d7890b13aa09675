"""A whole run of two tasks, each with its prompt, limits, stops and scores."""

import json

import pytest

from skd_jax import experiment, train
from tests import tiny_run

pytestmark = pytest.mark.slow


def write_sums(folder):
  """JSON lines of small sums: "2 + 3" -> "2 + 3 = 5 #### 5"."""
  pairs = [(a, b) for a in range(2, 8) for b in range(2, 8)]
  splits = {"train": pairs, "validation": pairs[::9], "test": pairs[1::7]}
  for split, chosen in splits.items():
    lines = [
      {"q": f"{a} + {b}", "a": f"{a} + {b} = {a + b} #### {a + b}"}
      for a, b in chosen
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def tiny_config(data):
  config = tiny_run.config(data)
  config.seeds = (0,)
  config.mixing_temperature = 2.0
  config.rollout.accept = "always"  # Which the report has to warn of.
  config.tasks = {
    "translation": {"prompt": "Translate: {source}", "metrics": ("chrf",)},
    "sums": {
      "kind": "jsonl",
      "source_field": "q",
      "target_field": "a",
      "max_new_tokens": 24,
      "stop_strings": (";",),
      "metrics": ("accuracy", "rougeL"),
      "weight": 2.0,
    },
  }
  return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("multitask")
  (folder / "data").mkdir()
  tiny_run.write_data(folder / "data")
  write_sums(folder / "data")
  train.train_and_evaluate(tiny_config(folder / "data"), folder / "workdir")
  return folder / "workdir"


def report_of(workdir):
  return json.loads((workdir / "report.json").read_text("utf-8"))


def test_every_task_is_scored_by_its_metrics_and_the_mean(workdir):
  report = report_of(workdir)
  for scores in [*report["metrics"].values(), report["per_seed"][0]["metrics"]]:
    scores = scores.get("student", scores)
    assert set(scores) == {"mean", "translation", "sums"}
    for task, names in (
      ("translation", ["chrf", "kl", "agreement"]),
      ("sums", ["accuracy", "rougeL", "kl", "agreement"]),
    ):
      assert list(scores[task])[: len(names)] == names
    main = scores["translation"]["chrf"], scores["sums"]["accuracy"]
    assert scores["mean"] == pytest.approx(sum(main) / 2)
  assert set(report["signature"]) == {"chrf", "accuracy", "rougeL"}
  page = (workdir / "report.md").read_text("utf-8")
  assert "The student's mean is" in page
  assert "## translation\n" in page
  assert "## sums\n" in page


def test_report_warns_of_a_gate_that_replaces_nothing(workdir):
  (warning,) = report_of(workdir)["warnings"]
  assert warning.startswith("distill, seed 0, step 1: the teacher replaces 0.0")
  assert warning.endswith("(6 x in the log)")
  assert "The gate is inert" in (workdir / "report.md").read_text("utf-8")


def test_each_task_is_asked_in_its_own_words(workdir):
  config = tiny_config(workdir.parent / "data")
  task_set = experiment.open_experiment(config, workdir).tasks
  words = {
    task.name: task_set.tokenizer.decode(task.test.prompts[0])
    for task in task_set.tasks
  }
  assert "Translate: Der " in words["translation"]
  assert "Translate" not in words["sums"]


def test_answers_of_each_task_end_at_its_own_stops_and_limit(workdir):
  def answers(task):
    path = workdir / "answers" / f"teacher.{task}.txt"
    return path.read_text("utf-8").splitlines()

  assert len(answers("translation")) == 8
  assert len(answers("sums")) == 5
  assert sum("####" in answer for answer in answers("sums")) >= 3
  assert not any(";" in answer for answer in answers("sums"))
  assert all(answer.startswith("The") for answer in answers("translation"))


def test_validation_is_logged_task_by_task(workdir):
  lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
  validated = [x for x in map(json.loads, lines) if "validation_mean" in x]
  assert [line["step"] for line in validated] == [3, 6]
  for line in validated:
    main = line["validation_translation_chrf"], line["validation_sums_accuracy"]
    assert line["validation_mean"] == pytest.approx(sum(main) / 2)


def test_samples_show_prompts_of_both_tasks(workdir):
  samples = json.loads((workdir / "samples/seed_0/6.json").read_text("utf-8"))
  prompts = sorted(sample["prompt"] for sample in samples)
  assert "+" in prompts[0]
  assert prompts[1].startswith("Der ")


def test_other_weight_makes_the_run_stale_and_other_metrics_the_scores(workdir):
  config = tiny_config(workdir.parent / "data")
  config.tasks.sums["weight"] = 3.0
  with pytest.raises(
    ValueError, match=r"'tokenizer' .*tasks\.sums\.weight was 2\.0 and is 3\.0"
  ):
    train.train_and_evaluate(config, workdir)
  config = tiny_config(workdir.parent / "data")
  config.tasks.sums["metrics"] = ("accuracy",)
  with pytest.raises(
    ValueError, match=r"'evaluate_teacher' .*tasks\.sums\.metrics was"
  ):
    train.train_and_evaluate(config, workdir)
