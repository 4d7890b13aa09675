"""What every stage of a run needs, opened once: train.py alone sees it."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import ml_collections
from absl import logging

from skd_jax import (
  builders,
  config_checks,
  folder_checks,
  methods,
  models,
  stage_changes,
  stages,
  structs,
)
from skd_jax import config as config_lib
from skd_jax import field_checks as fields
from skd_jax.data import (
  dataset,
  encoder_templates,
  input_pipeline,
  tasks,
  templates,
)
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.decoding import stopping
from skd_jax.evaluation import evaluator
from skd_jax.losses import chunked
from skd_jax.parallel import processes, rollout_devices, sharding
from skd_jax.reporting import files, provenance


@dataclasses.dataclass(frozen=True)
class Experiment:
  """An opened run: settings, data and devices."""

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  mesh: jax.sharding.Mesh
  rollout_mesh: jax.sharding.Mesh  # The same, where all devices do both.
  tasks: tasks.TaskSet
  stop_table: stopping.StopTable  # Of all tasks, in their order.
  dtype: Any  # Of activations, caches and the frozen teacher.
  # What the teacher has answered, for all that share it; see Evaluator.
  answered: evaluator.Answered = dataclasses.field(default_factory=dict)

  @property
  def chunk_size(self) -> int:
    """Tokens whose logits are held at once."""
    asked = self.config.loss.chunk_size
    return chunked.fitting_size(asked, self.tasks.vocab_size, self.mesh)

  def cached(
    self, stage: str, function: Callable[[], dict[str, Any]]
  ) -> dict[str, Any]:
    """Returns the result of a stage; runs it where there is none yet."""
    key = stages.cache_keys(self.config)[stage]
    return stages.cached(self.workdir, stage, key, function)

  def train_batches(
    self, fit: ml_collections.ConfigDict, seed: int
  ) -> grain.DatasetIterator[structs.Batch]:
    """Returns the endless batches of a stage, their rows on the devices."""
    train = train_set(self.tasks, fit)
    multiple = self.config.data.length_multiple
    index, count = sharding.reader(self.mesh, fit.batch_size)

    def place(batch: structs.Batch) -> structs.Batch:
      return sharding.place_rows(batch, self.mesh, len(batch.index) * count)

    return input_pipeline.train_batches(
      train,
      batch_size=fit.batch_size,
      seed=seed,
      shares=self.tasks.shares(train),
      prompt_multiple=multiple,
      response_multiple=multiple,
      packed_length=fit.packed_length,
      row_multiple=sharding.num_row_shards(self.mesh) * fit.num_microbatches,
      process_index=index,
      process_count=count,
      place=place,
    )

  def eval_batches(
    self, split: dataset.TokenizedSet, batch_size: int | None = None
  ) -> Iterator[structs.Batch]:
    """Returns the batches of a held-out split, each example once.

    Args:
      split: the split.
      batch_size: default: evaluate.batch_size.

    Returns:
      Batches whose rows are on the devices, as those of train_batches.
    """
    batch_size = batch_size or self.config.evaluate.batch_size
    multiple = self.config.data.length_multiple
    index, count = sharding.reader(self.mesh, batch_size)
    batches = input_pipeline.eval_batches(
      split,
      batch_size,
      prompt_multiple=multiple,
      response_multiple=multiple,
      process_index=index,
      process_count=count,
    )
    return (sharding.place_rows(b, self.mesh, batch_size) for b in batches)

  def one_batch(
    self, split: dataset.TokenizedSet, *, num_rows: int = 1
  ) -> structs.Batch:
    """Returns a few examples as one batch, filled up for the mesh.

    Args:
      split: the examples.
      num_rows: that the batch has at least.
    """
    parts = sharding.num_row_shards(self.mesh)
    num_rows = max(num_rows, len(split))
    (batch,) = self.eval_batches(split, -(-num_rows // parts) * parts)
    return batch


def train_set(
  task_set: tasks.TaskSet, fit: ml_collections.ConfigDict
) -> dataset.TokenizedSet:
  """Returns the examples that a stage trains on."""
  if not fit.max_examples:
    return task_set.train
  return dataset.first_examples(task_set.train, fit.max_examples)


def open_experiment(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  continue_with_changes: bool = False,
) -> Experiment:
  """Checks the config and the workdir, reads the data, writes config.json.

  Nothing is written before all checks have passed. What computes with the
  experiment does so within `jax.set_mesh(experiment.mesh)`.

  Args:
    config: the settings.
    workdir: the folder of the run.
    continue_with_changes: whether a stage under way may go on with other
      settings than it was begun with, see stage_changes.py.

  Raises:
    ValueError, FileNotFoundError: bad settings, data or checkpoints; or not all
      processes see the same workdir.
  """
  experiment = read_experiment(
    config, workdir, continue_with_changes=continue_with_changes
  )
  write_config(experiment.workdir, config)
  return experiment


def read_experiment(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  continue_with_changes: bool = False,
) -> Experiment:
  """As open_experiment; in a workdir that has been used, writes nothing.

  Args:
    config: the settings.
    workdir: the folder of the run.
    continue_with_changes: as in open_experiment.

  Raises:
    ValueError, FileNotFoundError: as open_experiment.
  """
  config_checks.check_config(config)
  vocab_size = common_vocab_size(config)
  if vocab_size:
    config_checks.check_vocabulary(config, vocab_size)
  folder_checks.check_folders(config)
  mesh = sharding.make_mesh(**config.mesh)
  rollout_mesh = rollout_devices.make_rollout_mesh(**config.mesh)
  config_checks.check_rows(
    config, *map(sharding.num_row_shards, (mesh, rollout_mesh))
  )
  workdir = config_checks.check_workdir(workdir)
  keys = stages.cache_keys(config)
  if continue_with_changes:
    stage_changes.accept(workdir, keys)
  stages.check_fresh(workdir, keys)
  settings = builders.task_settings(config)
  train = {
    name: tasks.load_split(name, task, "train")
    for name, task in settings.items()
  }
  workdir.mkdir(parents=True, exist_ok=True)
  processes.check_shared(workdir)
  tokenizer = _load_tokenizer(config, workdir, settings, train)
  task_set = tasks.make_task_set(
    settings,
    train,
    tokenizer,
    vocab_size=vocab_size or tokenizer_lib.num_ids(tokenizer),
    eos_ids=tokenizer_lib.eos_ids(
      tokenizer, stages.tokenizer_folder(config) or None
    ),
    mixing_temperature=config.mixing_temperature,
  )
  config_checks.check_sizes(
    config,
    {
      stage: len(train_set(task_set, config_lib.get(config, stage)))
      for stage in config_checks.trained_stages(config)
    },
  )
  return Experiment(
    config=config,
    workdir=workdir,
    mesh=mesh,
    rollout_mesh=rollout_mesh,
    tasks=task_set,
    stop_table=make_stop_table(task_set),
    dtype=models.compute_dtype(config.dtype),
  )


def open_baseline(experiment: Experiment, method: str) -> Experiment:
  """Opens what is run beside an experiment: another method, the rest the same.

  Its stages, log and answers go to WORKDIR/baselines/METHOD.

  Raises:
    ValueError: that folder holds a stage with other settings.
  """
  config = methods.apply_method(experiment.config, method)
  config = methods.change(config, {"baselines": (), "profile": 0})
  workdir = experiment.workdir / "baselines" / method
  stages.check_fresh(workdir, stages.cache_keys(config))
  processes.on_first(lambda: workdir.mkdir(parents=True, exist_ok=True))
  write_config(workdir, config)
  return dataclasses.replace(experiment, config=config, workdir=workdir)


def write_config(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Writes config.json: the resolved config, versions, devices, revision."""
  record = {"config": config_lib.to_plain(config), **provenance.provenance()}
  if changes := stage_changes.read(workdir):
    record["changes"] = changes
  processes.on_first(files.write_json, workdir / "config.json", record)


def make_stop_table(task_set: tasks.TaskSet) -> stopping.StopTable:
  """Returns what ends a response, task by task."""
  return stopping.join_stop_tables(
    [
      stopping.make_stop_table(
        task_set.vocab_size,
        task_set.eos_ids,
        [text.encode() for text in task.stop_strings],
        task_set.token_bytes if task.stop_strings else None,
      )
      for task in task_set.tasks
    ]
  )


def common_vocab_size(config: ml_collections.ConfigDict) -> int:
  """Checks that both checkpoints have the same vocabulary.

  Returns:
    Tokens that both know; those of the tokenizer where no model comes from a
    checkpoint; 0 where there is no tokenizer yet.

  Raises:
    ValueError: the tokenizers give a token two ids, or the chat template does
      not go with its arguments.
  """
  if not stages.tokenizer_folder(config):
    return 0
  tokenizer = _read_tokenizer(config)
  sizes = [
    tokenizer_lib.check_same_vocabulary(
      tokenizer_lib.load_tokenizer(folder),
      tokenizer,
      models.load_config(folder).vocab_size,
      tokenizer_lib.num_ids(tokenizer),
    )
    for folder in folder_checks.model_folders(config).values()
  ]
  return min(sizes, default=tokenizer_lib.num_ids(tokenizer))


def _load_tokenizer(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  settings: dict[str, tasks.TaskSettings],
  train: dict[str, list[structs.Example]],
) -> tokenizer_lib.Tokenizer:
  """Reads the tokenizer, or trains one where there is none yet."""
  if stages.tokenizer_folder(config):
    return _read_tokenizer(config)

  def train_tokenizer() -> dict[str, Any]:
    size = config.tokenizer.vocab_size
    logging.info("Training a tokenizer of %d", size)
    texts = [
      text
      for name, task in settings.items()
      for text in tasks.tokenizer_texts(task, train[name])
    ]
    with fields.prefix("tokenizer."):
      processes.on_first(
        lambda: (
          tokenizer_lib.train_bpe(texts, size, workdir / "tokenizer") and None
        )
      )
    return {"folder": "tokenizer"}

  key = stages.cache_keys(config)["tokenizer"]
  stages.cached(workdir, "tokenizer", key, train_tokenizer)
  return tokenizer_lib.load_tokenizer(workdir / "tokenizer")


def _read_tokenizer(
  config: ml_collections.ConfigDict,
) -> tokenizer_lib.Tokenizer:
  """Reads the tokenizer of a folder; its chat template has its arguments."""
  tokenizer = tokenizer_lib.load_tokenizer(stages.tokenizer_folder(config))
  with fields.prefix("tokenizer."):
    arguments = config.tokenizer.template_arguments.to_dict()
    templates.set_arguments(tokenizer, arguments)
    templates.check_dateless(tokenizer)
    encoder_templates.check_template(tokenizer)
  return tokenizer
