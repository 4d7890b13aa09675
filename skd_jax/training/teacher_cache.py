"""A cached teacher: what it thinks of responses that no student changes.

  make_records     a batch of responses -> records, by the teacher alone
  CachedTeacher    records -> the responses of a training step, those of each
                   task by the teacher that wrote them
  check_records    some records against the teacher again

The files are those of data/teacher_records.py, the loss that of
losses/cached.py.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skd_jax import structs
from skd_jax.data import teacher_records
from skd_jax.losses import cached, chunked
from skd_jax.models.loading import LoadedModel
from skd_jax.parallel import processes, sharding
from skd_jax.training import generation
from skd_jax.training.timing import timed

# Total variation between the cached distribution of a token and the teacher's,
# in the mean over a response. Other dtypes and devices stay far below, other
# weights far above.
_TOLERANCE = 0.02


def make_records(
  teacher: LoadedModel,
  batch: structs.Batch,
  rollout: structs.Rollout,
  *,
  response: int,
  k: int,
  chunk_size: int,
) -> list[teacher_records.Record]:
  """Returns the records of a batch; rows that pad have none.

  Args:
    teacher: the teacher.
    batch: its prompts [B, P].
    rollout: the responses [B, T], with `teacher_hidden`.
    response: which of the responses to these prompts.
    k: K.
    chunk_size: tokens whose logits are held at once.
  """
  top = _teacher_top(
    teacher.model, teacher.params, rollout, k=k, chunk_size=chunk_size
  )
  index, tokens, length, stopped, top = processes.to_host(
    (batch.index, rollout.tokens, rollout.length, rollout.stopped, top)
  )
  return [
    teacher_records.Record(
      index=int(index[row]),
      response=response,
      stopped=bool(stopped[row]),
      tokens=tokens[row, :n],
      ids=top.ids[row, :n],
      log_probs=top.log_probs[row, :n],
      log_tail=top.log_tail[row, :n],
    )
    for row, n in enumerate(length)
    if index[row] >= 0
  ]


@dataclasses.dataclass(frozen=True)
class TeacherRecords:
  """What one teacher has written.

  records: of the first response to each prompt, then of the second, ...
  index: int32 [n], the example of each record of the first responses.
  seconds: that the records took, by part as of timing.py.
  """

  records: teacher_records.Records
  index: np.ndarray
  seconds: dict[str, float]

  def read(
    self, index: np.ndarray, response: int
  ) -> list[teacher_records.Record]:
    """Returns the records of some examples, int [rows], in their order.

    Raises:
      ValueError: a record cannot be read, or is not the one of its place.
    """
    order = self._order
    places = order[np.searchsorted(self.index, index, sorter=order)]
    places += response * len(self.index)
    found = self.records.read(places.tolist())
    for example, record in zip(index, found, strict=True):
      if (record.index, record.response) != (example, response):
        raise ValueError(
          f"the cached teacher has response {record.response} of example "
          f"{record.index}: must be response {response} of {example}"
        )
    return found

  @functools.cached_property
  def _order(self) -> np.ndarray:
    return np.argsort(self.index)


@dataclasses.dataclass(frozen=True)
class CachedTeacher:
  """The responses of a run and the teachers' view of them, read from disk.

  parts: of each teacher, of different examples.
  k: K.
  num_responses: how many different ones each prompt has.
  source: who generated them: structs.TEACHER or REFERENCE.
  max_new_tokens: T of the teacher's; references are as wide as in their batch.
  steps_per_epoch: after so many, the next response takes its turn.
  mesh: rows are sharded over it.
  """

  parts: tuple[TeacherRecords, ...]
  k: int
  num_responses: int
  source: int
  max_new_tokens: int
  steps_per_epoch: int
  mesh: jax.sharding.Mesh

  @property
  def seconds(self) -> dict[str, float]:
    """Returns what the records took, by part as of timing.py."""
    total: collections.Counter[str] = collections.Counter()
    for part in self.parts:
      total.update(part.seconds)
    return dict(total)

  def responses(
    self, batch: structs.Batch, step: int
  ) -> tuple[structs.Rollout, dict[str, float]]:
    """Returns the responses of a step; epoch e has the response e mod number.

    Args:
      batch: [B, ...].
      step: of the run, from 0.

    Returns:
      (Rollout [B, T] with `teacher_top`, seconds by part as of timing.py).
    """
    seconds: dict[str, float] = {}
    epoch = step // self.steps_per_epoch
    with timed(seconds, "generate"):
      rollout = self.rollout(batch, epoch % self.num_responses)
      jax.block_until_ready(rollout)
    return rollout, seconds

  def rollout(self, batch: structs.Batch, response: int) -> structs.Rollout:
    """Returns one of the responses to each prompt; empty where a row pads.

    Raises:
      ValueError: an example has no record, or none that can be read.
    """
    num_rows = batch.index.shape[0]
    part, count = sharding.reader(self.mesh, num_rows)
    local = num_rows // count
    index = processes.to_host(batch.index)[part * local : (part + 1) * local]
    width = self.max_new_tokens
    if self.source == structs.REFERENCE:
      width = batch.reference.shape[1]
    arrays = _empty(local, width, self.k, self.source)
    missing = index >= 0
    for part in self.parts:
      rows = np.flatnonzero(np.isin(index, part.index))
      found = part.read(index[rows], response)
      for row, record in zip(rows.tolist(), found, strict=True):
        _fill(arrays, row, record)
      missing[rows] = False
    if missing.any():
      raise ValueError(
        f"the cached teacher has no record of the examples "
        f"{index[missing].tolist()}"
      )
    return sharding.place_rows(arrays, self.mesh, num_rows)


def check_records(
  cache: CachedTeacher,
  teacher: LoadedModel,
  batch: structs.Batch,
  *,
  chunk_size: int,
) -> float:
  """Compares the records of a batch with the teacher.

  Args:
    cache: the records.
    teacher: what they are of.
    batch: [B, ...], of any examples of the cache.
    chunk_size: tokens whose logits are held at once.

  Returns:
    The largest distance of a record: total variation, mean over its tokens.

  Raises:
    ValueError: a record is not of this teacher; names its example.
  """
  rollout = generation.with_teacher_hidden(
    teacher.model, teacher.params, batch, cache.rollout(batch, 0)
  )
  distance = _distances(
    teacher.model, teacher.params, rollout, chunk_size=chunk_size
  )
  index, distance = processes.to_host((batch.index, distance))
  worst = int(np.argmax(distance))
  if not distance[worst] <= _TOLERANCE:
    raise ValueError(
      f"the cached teacher differs from the teacher at example {index[worst]}: "
      f"total variation {distance[worst]:.3g} of a token, must be at most "
      f"{_TOLERANCE}"
    )
  return float(distance[worst])


def _empty(num_rows: int, width: int, k: int, source: int) -> Any:
  """A Rollout of numpy arrays without a token."""
  tokens = np.zeros((num_rows, width), np.int32)
  top: dict[str, Any] = {
    "ids": np.zeros((num_rows, width, k), np.int32),
    "log_probs": np.zeros((num_rows, width, k), np.float32),
    "log_tail": np.zeros((num_rows, width), np.float32),
  }
  arrays: dict[str, Any] = {
    "tokens": tokens,
    "length": np.zeros(num_rows, np.int32),
    "source": np.full(tokens.shape, source, np.int8),
    "draft_tokens": tokens,
    "stopped": np.ones(num_rows, bool),
    "num_rounds": np.zeros(num_rows, np.int32),
    "teacher_hidden": None,
    "teacher_top": structs.TeacherTop(**top),
  }
  return structs.Rollout(**arrays)


def _fill(arrays: Any, row: int, record: teacher_records.Record) -> None:
  n = len(record.tokens)
  arrays.tokens[row, :n] = record.tokens
  arrays.length[row], arrays.stopped[row] = n, record.stopped
  top = arrays.teacher_top
  top.ids[row, :n] = record.ids
  top.log_probs[row, :n] = record.log_probs
  top.log_tail[row, :n] = record.log_tail


@functools.partial(jax.jit, static_argnames=("teacher", "k", "chunk_size"))
def _teacher_top(teacher, params, rollout, *, k, chunk_size):
  """Returns TeacherTop [B, T, ...]; zeros past the end of a response."""

  def of_chunk(logits, inputs):
    del inputs
    return cached.top_of_logits(logits, k)

  return _by_chunks(of_chunk, teacher, params, rollout, (), chunk_size)


@functools.partial(jax.jit, static_argnames=("teacher", "chunk_size"))
def _distances(teacher, params, rollout, *, chunk_size):
  """Returns the total variation, float32 [B], mean over each response."""

  def of_chunk(logits, top):
    now = jnp.exp(cached.merge_tail(logits, top.ids))
    before = jnp.exp(cached.cached_distribution(top, logits.shape[-1]))
    return 0.5 * jnp.sum(jnp.abs(now - before), axis=-1)

  found = _by_chunks(
    of_chunk, teacher, params, rollout, rollout.teacher_top, chunk_size
  )
  return jnp.sum(found, axis=1) / jnp.maximum(rollout.length, 1)


def _by_chunks(
  function: Callable[[jax.Array, Any], Any],
  teacher: structs.LanguageModel,
  params: structs.Params,
  rollout: structs.Rollout,
  inputs: Any,
  chunk_size: int,
) -> Any:
  """Applies a function to the teacher's logits of each token, chunk by chunk.

  Args:
    function: (logits [C, V], inputs [C, ...]) -> a tree of [C, ...].
    teacher: its head is applied.
    params: its weights.
    rollout: [B, T], with `teacher_hidden`.
    inputs: a tree of [B, T, ...].
    chunk_size: C.

  Returns:
    The tree of [B, T, ...], zeros past the end of a response.
  """
  shape = rollout.tokens.shape
  mask = jnp.arange(shape[1])[None, :] < rollout.length[:, None]

  def walk(head, rows):
    of_group = rows[-1].shape
    hidden, inputs, mask = jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[2:]), rows
    )
    chunks = chunked.Chunks(mask, chunk_size)

    def of_chunk(i):
      take, _ = chunks[i]
      logits = teacher.head(head, take(hidden))
      return take, function(logits, jax.tree.map(take, inputs))

    def add_chunk(i, found):
      take, new = of_chunk(i)
      return jax.tree.map(take.put, found, new)

    empty = jax.tree.map(
      lambda x: jnp.zeros((mask.size, *x.shape[1:]), x.dtype),
      jax.eval_shape(lambda: of_chunk(0)[1]),
    )
    found = jax.lax.fori_loop(0, chunks.number, add_chunk, empty)
    return jax.tree.map(lambda x: x.reshape(*of_group, *x.shape[1:]), found)

  return sharding.by_rows(walk)(
    teacher.head_params(params), (rollout.teacher_hidden, inputs, mask)
  )
