"""What every stage of a run needs, in one place."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import ml_collections

from skd_jax import input_pipeline, stages, structs, tokenized
from skd_jax import task as task_lib


@dataclasses.dataclass(frozen=True)
class Run:
  """What every stage of a run needs."""

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  task: task_lib.Task
  dtype: Any  # Of activations, caches and the frozen teacher.

  def depends_on(self, *sections: str) -> dict[str, Any]:
    """Returns the settings of some sections, and those of the task, flat."""
    return task_lib.depends_on(self.config) | stages.settings(
      self.config, *sections, "seed", "dtype"
    )

  def train_batches(
    self, fit_config: ml_collections.ConfigDict, seed: int
  ) -> grain.DatasetIterator[structs.Batch]:
    """Returns the endless batches of a stage."""
    train = self.task.train
    if fit_config.max_examples:
      train = tokenized.first_examples(train, fit_config.max_examples)
    multiple = self.config.data.length_multiple
    return input_pipeline.train_batches(
      train,
      batch_size=fit_config.batch_size,
      seed=seed,
      shares=self.task.shares(train),
      prompt_multiple=multiple,
      response_multiple=multiple,
    )

  def eval_batches(
    self, split: tokenized.TokenizedSet
  ) -> Iterator[structs.Batch]:
    """Returns the batches of a held-out split, each example once."""
    multiple = self.config.data.length_multiple
    return input_pipeline.eval_batches(
      split,
      self.config.evaluate.batch_size,
      prompt_multiple=multiple,
      response_multiple=multiple,
    )
