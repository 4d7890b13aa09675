"""What a run leaves behind for people: config, answers, samples, report."""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import statistics
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from skd_jax import config as config_lib
from skd_jax import policies, structs
from skd_jax.data import dataset
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.decoding import sampling
from skd_jax.evaluation import agreement
from skd_jax.experiment import Run
from skd_jax.models import loading
from skd_jax.parallel import processes
from skd_jax.reporting import metric_log, report, samples_page
from skd_jax.training import health, loop

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers")


def versions() -> dict[str, str]:
  """Returns the versions of what a result depends on."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {"python": platform.python_version(), **found}


def git_revision() -> str:
  """Returns the revision of the checkout that runs, or "" outside of one."""
  result = subprocess.run(
    ["git", "describe", "--always", "--dirty", "--abbrev=12"],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
    check=False,
  )
  return result.stdout.strip()


def write_config(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Writes config.json: the resolved config, versions, devices, revision."""
  record = {
    "config": config_lib.to_plain(config),
    "versions": versions(),
    "devices": [str(device) for device in jax.devices()],
    "git": git_revision(),
  }
  text = json.dumps(record, indent=2) + "\n"
  processes.on_first(metric_log.write_atomically, workdir / "config.json", text)


def write_answers(
  workdir: pathlib.Path, name: str, answers: Sequence[str]
) -> None:
  """Writes the greedy answers of a model, one a line, as answers/NAME.txt."""
  folder = workdir / "answers"
  folder.mkdir(exist_ok=True)
  lines = [" ".join(answer.split()) for answer in answers]
  text = "\n".join(lines) + "\n"
  processes.on_first(metric_log.write_atomically, folder / f"{name}.txt", text)


def describe(scores: Mapping[str, float]) -> str:
  """Returns some scores in one line."""
  return ", ".join(f"{name} {value:.3g}" for name, value in scores.items())


def flatten(scores: Mapping[str, Any]) -> dict[str, float]:
  """Joins names: {"mean": .., "sums": {"accuracy": ..}} has "sums_accuracy"."""
  flat: dict[str, float] = {}
  for name, value in scores.items():
    inner = flatten(value) if isinstance(value, Mapping) else {"": value}
    flat |= {f"{name}_{k}" if k else name: v for k, v in inner.items()}
  return flat


def sample_visits(
  run: Run,
  seed: int,
  student: loading.LoadedModel,
  teacher: loading.LoadedModel,
  policy: policies.PolicyFn,
) -> dict[int, loop.Visit]:
  """Returns visits that keep a few rollouts for samples.html.

  The same held-out prompts and draws at the start, after a tenth, at half and
  at the end, so that the pictures can be compared. They are kept as
  samples/STEP.json, so that a continued run has them all. Only the first seed
  of a run is looked at.
  """
  config = run.config
  test = dataset.join([part.test for part in run.task.parts])
  count = min(config.evaluate.num_samples, len(test))
  if seed != config.seeds[0] or not count or config.rollout.policy != "skd":
    return {}
  num_steps = config.distill.num_steps
  folder = run.workdir / "samples"
  shown = dataset.spread_examples(test, count)
  batch = run.one_batch(shown)
  annotate = agreement.make_annotate_fn(student.model, teacher.model)
  threshold = config_lib.threshold(config)

  def visit(state, step):
    keys = sampling.row_keys(seed, num_steps, batch.index)
    arguments = (state.params, teacher.params, batch)
    now = jnp.float32(threshold.at(step, num_steps))
    written = policy(*arguments, keys, now)
    marks = annotate(*arguments, written)
    views = sample_views(
      run.task.tokenizer,
      [test.examples[i] for i in processes.to_host(batch.index) if i >= 0],
      *processes.to_host((written, marks)),
      step=step,
    )
    folder.mkdir(exist_ok=True)
    text = json.dumps([dataclasses.asdict(view) for view in views])
    processes.on_first(
      metric_log.write_atomically, folder / f"{step}.json", text
    )
    return {}

  steps = {0, num_steps // 10, num_steps // 2, num_steps}
  return dict.fromkeys(sorted(steps), visit)


def sample_views(
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[structs.Example],
  written: structs.Rollout,
  marks: Mapping[str, np.ndarray],
  step: int,
) -> list[samples_page.SampleView]:
  """Turns rollouts on the host into what samples.html shows.

  Args:
    tokenizer: of both models.
    examples: held out, one for each row.
    written: the rollouts.
    marks: from evaluate.make_annotate_fn.
    step: the training step.
  """

  def text(ids):
    return tokenizer.decode(ids, skip_special_tokens=False)

  def token_view(row, t):
    ids = written.tokens[row, :t].tolist()
    before = text(ids)

    def as_written(token):
      # Not the token alone: spaces depend on what stands before it.
      return text([*ids, int(token)])[len(before) :]

    is_teacher = written.source[row, t] == structs.TEACHER
    numbers = {
      name: float(marks[name][row, t])
      for name in ("student_prob", "teacher_prob", "emitted_teacher_prob")
    }
    return samples_page.TokenView(
      text=as_written(written.tokens[row, t]),
      source="teacher" if is_teacher else "student",
      student_token=as_written(written.draft_tokens[row, t]),
      teacher_token=as_written(marks["teacher_token"][row, t]),
      rank=int(marks["rank"][row, t]),
      **numbers,
    )

  views = []
  for row, example in enumerate(examples):
    views.append(
      samples_page.SampleView(
        prompt=example["source"],
        reference=example["target"],
        tokens=[token_view(row, t) for t in range(written.length[row])],
        truncated=not written.stopped[row],
        step=step,
      )
    )
  return views


def write(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  per_seed: Sequence[Mapping[str, Any]],
  seconds: Mapping[str, float],
  command: str,
) -> dict[str, Any]:
  """Writes samples.html, the plots, report.json and report.md, and prints it.

  For one process: of several, the first.

  Args:
    workdir: of the run.
    config: of the run.
    per_seed: {"seed", "scores" {teacher, student_init, student: as of
      held_out.score_model}, "counts"}.
    seconds: of the training of {"teacher", "student_init"}.
    command: that was run.

  Returns:
    The report, as in report.json.
  """
  counts: Counter = Counter()
  for entry in per_seed:
    counts.update(entry["counts"])
  first = per_seed[0]["scores"]
  evaluated = first["teacher"]["seconds"] + first["student_init"]["seconds"]
  evaluated += sum(entry["scores"]["student"]["seconds"] for entry in per_seed)
  verify = counts.get("seconds_verify", 0.0)
  times = {
    "teacher": seconds["teacher"],
    "student_init": seconds["student_init"],
    "generate": counts.get("seconds_generate", 0.0),
    # A pass of its own; those of a rollout are in `generate`.
    **({"verify": verify} if verify else {}),
    "train": counts["seconds_train"],
    "evaluate": evaluated,
  }
  rates = loop.rates(counts)
  result = {
    "task": config.task,
    "config": config_lib.to_plain(config),
    "seeds": list(config.seeds),
    "metrics": {
      model: _mean([entry["scores"][model]["metrics"] for entry in per_seed])
      for model in first
    },
    "per_seed": [
      {
        "seed": entry["seed"],
        "metrics": {m: v["metrics"] for m, v in entry["scores"].items()},
        "rollout": loop.rates(entry["counts"]),
      }
      for entry in per_seed
    ],
    "rollout": {
      "replacement_rate": rates.get("replacement_rate"),
      "accepted_per_round": rates.get("accepted_per_round"),
      "truncated": rates.get("truncated"),
      "tokens_per_s": rates.get("generated_tokens_per_s"),
    },
    "seconds": times | {"total": sum(times.values())},
    "warnings": health.over_the_run(
      metric_log.read_metrics(workdir / metric_log.FILE_NAME)
    ),
    "signature": first["teacher"]["signature"],
    "command": command,
    "versions": versions(),
  }
  _write_samples(workdir, config)
  report.plot_history(workdir / metric_log.FILE_NAME, workdir)
  report.write_report(workdir, result)
  print((workdir / "report.md").read_text("utf-8"))
  return result


def _write_samples(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  files = sorted((workdir / "samples").glob("*.json"), key=_step)
  views = [
    samples_page.SampleView(
      **entry
      | {
        "tokens": [samples_page.TokenView(**token) for token in entry["tokens"]]
      }
    )
    for path in files
    for entry in json.loads(path.read_text("utf-8"))
  ]
  if not views:
    return
  rule = config.rollout
  samples_page.write_samples(
    workdir / "samples.html",
    views,
    title=f"What the student wrote, and the teacher corrected: {config.task}",
    subtitle=(
      f"rule {rule.accept}, threshold {rule.threshold:g}, replacement "
      f"{rule.replace}; held-out prompts, seed {config.seeds[0]}"
    ),
  )


def _step(path: pathlib.Path) -> int:
  return int(path.stem)


def _mean(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The mean of each score, task by task where there are several."""
  return {
    name: _mean([entry[name] for entry in entries])
    if isinstance(value, Mapping)
    else statistics.fmean(entry[name] for entry in entries)
    for name, value in entries[0].items()
  }
