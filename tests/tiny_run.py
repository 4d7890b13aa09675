"""A run from tokenizer to report that takes seconds, and its data."""

import os
import pathlib

import filelock
import ml_collections
import pytest

from skd_jax import config as config_lib
from skd_jax import experiment, methods, train

SECRET = "hf_planted_in_the_environment"  # While the run is made.

_NOUNS = ("Hund", "dog"), ("Baum", "tree"), ("Mann", "man"), ("Ball", "ball")
_VERBS = ("sieht", "sees"), ("malt", "paints"), ("sucht", "seeks")


def write_data(folder: pathlib.Path) -> None:
  """Writes parallel text of three splits: train of 48 lines, 8 and 8."""
  pairs = [
    (f"Der {a[0]} {v[0]} den {b[0]}.", f"The {a[1]} {v[1]} the {b[1]}.")
    for v in _VERBS
    for a in _NOUNS
    for b in _NOUNS
  ]
  splits = {"train": pairs, "validation": pairs[::6], "test": pairs[3::6]}
  for split, examples in splits.items():
    for side, language in enumerate(("de", "en")):
      text = "".join(pair[side] + "\n" for pair in examples)
      (folder / f"{split}.{language}").write_text(text, encoding="utf-8")


def config(data: pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the config: vocabulary of 300, one layer, D = 16, two seeds."""
  result = config_lib.default_config()
  result.task = "tiny"
  result.seeds = (0, 1)
  result.data.kind = "parallel"
  result.data.dir = str(data)
  result.data.max_prompt_length = 32
  result.data.max_new_tokens = 16
  result.data.length_multiple = 32  # One width, one compilation.
  result.tokenizer.vocab_size = 300
  result.rollout.threshold = 2.0
  result.rollout.student_temperature = 1.0
  result.rollout.student_top_p = 1.0
  result.rollout.num_draft_tokens = 3
  result.loss.chunk_size = 64
  result.evaluate.batch_size = 8
  result.evaluate.num_samples = 2
  shape = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
  }
  training = {
    "num_steps": 6,
    "batch_size": 8,
    "warmup_steps": 1,
    "log_every_steps": 1,
    "checkpoint_every_steps": 2,
  }
  result.teacher.update(shape)
  result.student.update(shape)
  for model in (result.teacher, result.student):
    model.fit.update(training, num_steps=200, learning_rate=2e-2)
    model.fit.update(log_every_steps=20, checkpoint_every_steps=100)
  result.distill.update(training, evaluate_every_steps=3)
  return result


def finish(factory: pytest.TempPathFactory) -> pathlib.Path:
  """Runs the config, once a session; returns WORKDIR (data: ../data)."""
  folder = _shared_folder(factory) / "tiny_run"
  with filelock.FileLock(folder.with_suffix(".lock")):
    if not (folder / "workdir" / "report.json").exists():
      (folder / "data").mkdir(parents=True)
      write_data(folder / "data")
      with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_TOKEN", "WANDB_API_KEY"):
          patch.setenv(name, SECRET)
        train.train_and_evaluate(config(folder / "data"), folder / "workdir")
  return folder / "workdir"


def open_untrained(
  factory: pytest.TempPathFactory, **changes
) -> experiment.Experiment:
  """Opens a run whose teacher and student start are not trained at all.

  Args:
    factory: of the folder; WORKDIR, and ../data as of `finish`.
    **changes: other settings, by dotted names.
  """
  folder = factory.mktemp("untrained")
  (folder / "data").mkdir()
  write_data(folder / "data")
  untrained = {"teacher.fit.num_steps": 0, "student.fit.num_steps": 0}
  changed = methods.change(config(folder / "data"), untrained | changes)
  return experiment.open_experiment(changed, folder / "workdir")


def from_finished(
  finished: pathlib.Path, **changes
) -> ml_collections.ConfigDict:
  """Returns the config from the teacher and the start of a finished run.

  Args:
    finished: the workdir, as of `finish`.
    **changes: other settings, by dotted names.
  """
  result = config(finished.parent / "data")
  result.teacher.path = str(finished / "teacher")
  result.student.path = str(finished / "student_init")
  return methods.change(result, changes)


def _shared_folder(factory: pytest.TempPathFactory) -> pathlib.Path:
  # A worker of pytest-xdist has its folder inside the one of all workers.
  base = factory.getbasetemp()
  return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
