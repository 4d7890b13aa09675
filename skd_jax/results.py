"""What a run leaves behind for people: answers, plots, report."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from skd_jax import builders, report_page
from skd_jax import config as config_lib
from skd_jax.evaluation import evaluator
from skd_jax.experiment import Experiment
from skd_jax.reporting import files, metric_log, provenance, report
from skd_jax.training import health
from skd_jax.training.loop import Totals


def write_answers(
  workdir: pathlib.Path,
  name: str,
  answers: Mapping[str, Sequence[str]],
  *,
  by_task: bool,
) -> None:
  """Writes the greedy answers of a model by task, one per line.

  Args:
    workdir: of the run.
    name: of the model.
    answers: by task.
    by_task: whether to answers/NAME.TASK.txt; else, of one task, to
      answers/NAME.txt.
  """
  folder = workdir / "answers"
  folder.mkdir(exist_ok=True)
  for task, lines in answers.items():
    stem = f"{name}.{task}" if by_task else name
    text = "".join(" ".join(line.split()) + "\n" for line in lines)
    files.write_atomically(folder / f"{stem}.txt", text)


def describe(scores: Mapping[str, Any]) -> str:
  """Returns some scores in one line."""
  flat = evaluator.flatten(scores)
  return ", ".join(f"{name} {value:.3g}" for name, value in flat.items())


def write(
  experiment: Experiment,
  per_seed: Sequence[Mapping[str, Any]],
  seconds: Mapping[str, Mapping[str, float]],
  *,
  clock_seconds: float,
  command: str,
  probe: Mapping[str, Any] | None = None,
  warnings: Sequence[str] = (),
) -> dict[str, Any]:
  """Writes plots, report.html, samples.html, report.json and report.md.

  For one process: of several, the first.

  Args:
    experiment: the run.
    per_seed: {"seed", "scores" {teacher, student_init, student, and each
      baseline: as of scoring.score}, "totals" {student, and each baseline: as
      of train.distill}}.
    seconds: of {"teacher", "student_init"}, by part; of "teacher_cache" where
      there is one.
    clock_seconds: since the command began.
    command: that was run.
    probe: as of pair.probe_start.
    warnings: that were given before the training.

  Returns:
    The report, as in report.json.
  """
  workdir = experiment.workdir
  # A run with other seeds may have left lines of them.
  log = [
    line
    for line in metric_log.read_metrics(workdir / metric_log.FILE_NAME)
    if line["stage"] != "distill" or line["seed"] in experiment.config.seeds
  ]
  result = make_report(experiment, per_seed, seconds, command)
  result["clock_seconds"] = clock_seconds
  result["warnings"] = [*warnings, *health.over_the_run(log)]
  if probe is not None:
    result["probe"] = probe
  files.write_json(
    report_page.examples_path(workdir),
    {task.name: task.test.examples for task in experiment.tasks.tasks},
  )
  names = evaluator.score_names(experiment.tasks.tasks)
  report.plot_history(log, workdir, names)
  report_page.write_of_run(workdir, result)
  report.write_report(workdir, result)
  print((workdir / "report.md").read_text("utf-8"))
  return result


def make_report(
  experiment: Experiment,
  per_seed: Sequence[Mapping[str, Any]],
  seconds: Mapping[str, Mapping[str, float]],
  command: str,
) -> dict[str, Any]:
  """Returns what the stages came to; arguments as of `write`."""
  config = experiment.config
  of_seeds = [
    Totals.from_plain(entry["totals"]["student"]) for entry in per_seed
  ]
  totals, of_baselines = Totals(), Totals()
  for of_seed in of_seeds:
    totals.add(of_seed)
  for entry in per_seed:
    for name in config.baselines:
      of_baselines.add(Totals.from_plain(entry["totals"][name]))
  first = per_seed[0]["scores"]
  evaluated = first["teacher"]["seconds"] + first["student_init"]["seconds"]
  evaluated += sum(
    entry["scores"][name]["seconds"]
    for entry in per_seed
    for name in ("student", *config.baselines)
  )
  parts = [*seconds.values(), totals.seconds, of_baselines.seconds]
  compiling = sum(part.get("compile", 0.0) for part in parts)
  of_cache = seconds.get("teacher_cache", {})
  times = {
    "teacher": seconds["teacher"].get("train", 0.0),
    "teacher_cache": sum(of_cache.values()) - of_cache.get("compile", 0.0),
    "student_init": seconds["student_init"].get("train", 0.0),
    "generate": totals.seconds["generate"],
    # A pass of its own; those of a rollout are in `generate`.
    "verify": totals.seconds["verify"],
    # For responses that are begun early, in the place of both.
    "wait": totals.seconds["wait"],
    "train": totals.seconds["train"],
    "baselines": sum(of_baselines.seconds.values())
    - of_baselines.seconds["compile"],
    "evaluate": evaluated,
    "compile": compiling,
  }
  rare = ("teacher_cache", "verify", "wait", "baselines", "compile")
  times = {
    name: value for name, value in times.items() if value or name not in rare
  }
  rates = totals.rates()
  return {
    "task": config.task,
    "asked": describe_request(config),
    "config": config_lib.to_plain(config),
    "seeds": list(config.seeds),
    "main_metric": evaluator.score_names(experiment.tasks.tasks)[0],
    "metrics": {
      model: _mean([entry["scores"][model]["metrics"] for entry in per_seed])
      for model in first
    },
    "per_seed": [
      {
        "seed": entry["seed"],
        "metrics": {m: v["metrics"] for m, v in entry["scores"].items()},
        "rollout": of_seed.rates(),
        "replacement_by_position": {
          name: _by_position(Totals.from_plain(plain))
          for name, plain in entry["totals"].items()
        },
      }
      for entry, of_seed in zip(per_seed, of_seeds, strict=True)
    ],
    "rollout": {
      "replacement_rate": rates.get("replacement_rate"),
      "accepted_per_round": rates.get("accepted_per_round"),
      "truncated": rates.get("truncated"),
      "tokens_per_s": rates.get("generated_tokens_per_s"),
    },
    "seconds": times | {"total": sum(times.values())},
    "signature": first["teacher"]["signature"],
    "command": command,
    **provenance.provenance(),
  }


def describe_request(config: ml_collections.ConfigDict) -> str:
  """Says in a line what a run was asked to do."""
  fit, rule = config.distill, config.rollout
  parts = [f"{fit.num_steps} steps of {fit.batch_size} prompts"]
  if rule.mode == "skd":
    ends = builders.schedule(config, "threshold").extremes
    threshold = " to ".join(f"{value:g}" for value in ends)
    parts += [
      f"rule {rule.accept}, threshold {threshold}",
      f"replacement {rule.replace}",
    ]
  return f"{rule.mode}: {', '.join(parts)}"


def _by_position(totals: Totals) -> list[tuple[int, float]]:
  """Returns (position, replacement rate); none where no teacher judged."""
  stats = totals.stats
  return sorted(stats.replacement_by_position().items()) if stats.rounds else []


def _mean(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The mean of each score, task by task where there are several."""
  return {
    name: _mean([entry[name] for entry in entries])
    if isinstance(value, Mapping)
    else statistics.fmean(entry[name] for entry in entries)
    for name, value in entries[0].items()
  }
