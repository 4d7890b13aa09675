"""report.html of finished runs: from their workdirs, by task and prompt.

WORKDIR/metrics.jsonl, answers, samples -> write -> report.html
"""

import collections
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from skd_jax.evaluation import metrics as metrics_lib
from skd_jax.reporting import metric_log, page, rollouts
from skd_jax.reporting.answer_cards import Answer, Example

Workdirs = Mapping[str, tuple[pathlib.Path, Mapping[str, Any]]]
"""name of a run -> (its workdir, its report)."""


def write(path: pathlib.Path, workdirs: Workdirs) -> None:
  """Writes one page of one or several finished runs.

  Args:
    path: the file to write; an older one is overwritten.
    workdirs: the runs; the name of a single one may be "".

  Raises:
    ValueError: the answers of a model are not those of the test split.
    OSError: a file is missing, or cannot be written.
  """
  page.write(path, *_read(workdirs))


def write_of_run(workdir: pathlib.Path, report: Mapping[str, Any]) -> None:
  """Writes report.html and samples.html of a run; raises as `write`."""
  runs, examples = _read({"": (workdir, report)})
  page.write(workdir / "report.html", runs, examples)
  page.write_samples(workdir / "samples.html", runs, examples)


def _read(workdirs: Workdirs) -> tuple[list[page.Run], list[Example]]:
  runs = [
    page.Run(name, report, _read_logs(workdir, report))
    for name, (workdir, report) in workdirs.items()
  ]
  found = [
    _read_examples(run, workdir)
    for run, (workdir, _) in zip(runs, workdirs.values(), strict=True)
  ]
  return runs, _join(found)


def read_report(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the report of a finished run.

  Raises:
    ValueError: the run is not finished, or is of an earlier version.
  """
  for path in (workdir / "report.json", examples_path(workdir)):
    if not path.is_file():
      raise ValueError(
        f"{path} is missing: it is there when a run has ended, and the command "
        "of the run writes it again"
      )
  return json.loads((workdir / "report.json").read_text("utf-8"))


def examples_path(workdir: pathlib.Path) -> pathlib.Path:
  """Returns where the test split is: {task: [{"source", "target"}, ...]}."""
  return workdir / "answers" / "examples.json"


def samples_folder(workdir: pathlib.Path, seed: int) -> pathlib.Path:
  """Returns where the rollouts are that were kept of a seed."""
  return workdir / "samples" / f"seed_{seed}"


def _baseline_folders(
  workdir: pathlib.Path, report: Mapping[str, Any]
) -> dict[str, pathlib.Path]:
  """Returns where each distilled model has its log and its answers."""
  names = [
    name
    for name in report["metrics"]
    if name not in ("teacher", "student_init", "student")
  ]
  return {"student": workdir} | {
    name: workdir / "baselines" / name for name in names
  }


def _read_logs(
  workdir: pathlib.Path, report: Mapping[str, Any]
) -> dict[str, page.Lines]:
  return {
    model: [
      line
      for line in metric_log.read_metrics(folder / metric_log.FILE_NAME)
      # A run with other seeds may have left lines of them.
      if line["stage"] != "distill" or line["seed"] in report["seeds"]
    ]
    for model, folder in _baseline_folders(workdir, report).items()
  }


# (task, prompt, reference, how many of the same stand before) -> the example.
_Examples = Mapping[tuple[str, str, str, int], Example]


def _read_examples(run: page.Run, workdir: pathlib.Path) -> _Examples:
  """Reads the test split with the answers of all models, and scores each."""
  seed = run.report["seeds"][0]
  samples: dict[str, list[tuple[str, rollouts.SampleView]]] = {}
  for sample in rollouts.read(samples_folder(workdir, seed)):
    samples.setdefault(sample.prompt, []).append((run.name, sample))
  by_task = json.loads(examples_path(workdir).read_text("utf-8"))
  found: dict[tuple[str, str, str, int], Example] = {}
  for name, examples in by_task.items():
    task = name if len(by_task) > 1 else ""
    references = [example["target"] for example in examples]
    metric, columns = _score_answers(run, workdir, task, references)
    same: collections.Counter[tuple[str, str]] = collections.Counter()
    for i, (example, *answers) in enumerate(
      zip(examples, *columns, strict=True)
    ):
      pair = example["source"], example["target"]
      kept = samples.get(example["source"], ())
      found[task, *pair, same[pair]] = Example(
        i + 1, task, metric, *pair, answers, kept
      )
      same[pair] += 1
  return found


def _score_answers(
  run: page.Run, workdir: pathlib.Path, task: str, references: Sequence[str]
) -> tuple[str, list[list[Answer]]]:
  """Returns what the scores of a task are of, and the answers by model."""
  scores = run.report["metrics"]["teacher"]
  # The first is the main one.
  metric = next(iter(scores[task] if task else scores))
  name, columns = metric, []
  for model, path in _answer_files(workdir, run.report, task).items():
    texts = _read_lines(path)
    if len(texts) != len(references):
      raise ValueError(
        f"{path} has {len(texts)} answers: must be {len(references)}, as many "
        f"as {examples_path(workdir)} has examples"
      )
    name, values = metrics_lib.score_each(metric, texts, references)
    make = functools.partial(Answer, run.name, model, run.name_of(model))
    columns.append(list(map(make, texts, values)))
  return name, columns


def _answer_files(
  workdir: pathlib.Path, report: Mapping[str, Any], task: str
) -> dict[str, pathlib.Path]:
  """Returns the files of answers by model, those of the first seed."""
  suffix = f".{task}.txt" if task else ".txt"
  before = {
    model: workdir / "answers" / f"{model}{suffix}"
    for model in ("teacher", "student_init")
  }
  return before | {
    model: folder / "answers" / f"distill_seed_{report['seeds'][0]}{suffix}"
    for model, folder in _baseline_folders(workdir, report).items()
  }


def _read_lines(path: pathlib.Path) -> list[str]:
  if not path.is_file():
    raise ValueError(
      f"{path} is missing: delete the record of its model in stages/, and the "
      "command of the run scores the model again"
    )
  # Not splitlines: an answer may hold characters that it splits at.
  return path.read_text("utf-8").removesuffix("\n").split("\n")


def _join(runs: Sequence[_Examples]) -> list[Example]:
  """Returns the examples that all runs have, with the answers of all."""
  joined = []
  for key, first in runs[0].items():
    same = [examples[key] for examples in runs if key in examples]
    if len(same) == len(runs):
      joined.append(
        Example(
          **vars(first)
          | {
            "answers": [answer for e in same for answer in e.answers],
            "samples": [sample for e in same for sample in e.samples],
          }
        )
      )
  return joined
