"""What every stage of a run needs, in one place."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import jax
import ml_collections

from skd_jax import stages, structs
from skd_jax.data import dataset, input_pipeline
from skd_jax.data import tasks as tasks_lib
from skd_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Run:
  """What every stage of a run needs."""

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  task: tasks_lib.Task
  dtype: Any  # Of activations, caches and the frozen teacher.
  mesh: jax.sharding.Mesh

  def depends_on(self, *sections: str) -> dict[str, Any]:
    """Returns the settings of some sections, and those of the task, flat."""
    return tasks_lib.depends_on(self.config) | stages.settings(
      self.config, *sections, "seed", "dtype"
    )

  def train_batches(
    self, fit_config: ml_collections.ConfigDict, seed: int
  ) -> grain.DatasetIterator[structs.Batch]:
    """Returns the endless batches of a stage, their rows on the devices."""
    train = self.task.train
    if fit_config.max_examples:
      train = dataset.first_examples(train, fit_config.max_examples)
    multiple = self.config.data.length_multiple
    batch_size = fit_config.batch_size
    index, count = sharding.reader(self.mesh, batch_size)
    return input_pipeline.train_batches(
      train,
      batch_size=batch_size,
      seed=seed,
      shares=self.task.shares(train),
      prompt_multiple=multiple,
      response_multiple=multiple,
      process_index=index,
      process_count=count,
      place=lambda batch: self._place(batch, batch_size),
    )

  def eval_batches(
    self, split: dataset.TokenizedSet
  ) -> Iterator[structs.Batch]:
    """Returns the batches of a held-out split, each example once.

    Their rows are on the devices, as those of train_batches.
    """
    return self._held_out(split, self.config.evaluate.batch_size)

  def one_batch(self, split: dataset.TokenizedSet) -> structs.Batch:
    """Returns a few examples as one batch, filled up for the mesh."""
    parts = sharding.num_row_shards(self.mesh)
    (batch,) = self._held_out(split, -(-len(split) // parts) * parts)
    return batch

  def _held_out(
    self, split: dataset.TokenizedSet, batch_size: int
  ) -> Iterator[structs.Batch]:
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
    return (self._place(batch, batch_size) for batch in batches)

  def _place(self, batch: structs.Batch, batch_size: int) -> structs.Batch:
    return sharding.place_rows(batch, self.mesh, batch_size)
