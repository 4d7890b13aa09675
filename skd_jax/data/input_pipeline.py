"""Batches of examples, in a deterministic order.

  TokenizedSet -> train_batches or eval_batches -> Batch

Batches are numpy arrays. Their buffers P and T are as wide as the longest row
of the batch, rounded up so that few shapes are compiled, and examples of
similar length stand together:

  shuffle         5 2 9 4 7 3 ...      all examples, again in every epoch
  windows         5 2 9 4 | 7 3 ...    some batches of examples each
  sort            2 4 5 9 | 3 7 ...    by length, inside each window
  cut             2 4 | 5 9 | 3 7 ...
  shuffle         5 9 | 3 7 | 2 4 ...  whole batches

Where several tasks are learned at once, the set holds the examples of all;
mixture.py says how often an epoch reads each, and a batch may hold rows of any.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from skd_jax.data import mixture, packing
from skd_jax.data.dataset import TokenizedSet
from skd_jax.structs import Batch

_WINDOW = 32  # Batches per window; more save little padding and shuffle less.
_ENDLESS = 2**40  # Batches; an iterator of grain wants some length.


def _lengths(rows: Sequence[np.ndarray]) -> np.ndarray:
  return np.array([len(row) for row in rows], np.int32)


@dataclasses.dataclass(frozen=True)
class _Collator:
  """Makes a Batch of chosen examples."""

  tokenized: TokenizedSet
  batch_size: int
  prompt_multiple: int
  response_multiple: int
  process_index: int
  process_count: int
  packed_length: int = 0
  row_multiple: int = 1

  def __post_init__(self):
    for field in ("batch_size", "prompt_multiple", "response_multiple"):
      if getattr(self, field) < 1:
        raise ValueError(
          f"{field} = {getattr(self, field)}: must be at least 1"
        )
    if not 0 <= self.process_index < self.process_count:
      raise ValueError(
        f"process_index = {self.process_index}: must be below process_count = "
        f"{self.process_count}"
      )
    if self.batch_size % self.process_count:
      raise ValueError(
        f"batch_size = {self.batch_size}: must be a multiple of the "
        f"{self.process_count} processes"
      )

  def __call__(self, chosen: np.ndarray) -> Batch:
    """This process's rows of the batch of the `chosen` kept examples.

    Every process sees the whole choice, so all agree on P and T:

      chosen       a b c d -      batch_size = 6, 3 processes; - only pads
      process 0    a b
      process 1        c d
      process 2            - -
    """
    if self.packed_length:
      return self._packed(chosen)
    data = self.tokenized
    prompts = [data.prompts[i] for i in chosen]
    responses = [data.responses[i] for i in chosen]
    width = _round_up(prompts, self.prompt_multiple, data.max_prompt_length)
    longest = int(data.max_new_tokens.max())
    depth = _round_up(responses, self.response_multiple, longest)
    local = self.batch_size // self.process_count
    rows = slice(self.process_index * local, (self.process_index + 1) * local)
    prompt = np.zeros((local, width), np.int32)
    prompt_length = np.ones(local, np.int32)
    reference = np.zeros((local, depth), np.int32)
    reference_length = np.zeros(local, np.int32)
    index = np.full(local, -1, np.int32)
    task_id = np.zeros(local, np.int32)
    max_new_tokens = np.ones(local, np.int32)
    for row, i in enumerate(chosen[rows]):
      prompt_length[row] = len(data.prompts[i])
      prompt[row, : prompt_length[row]] = data.prompts[i]
      reference_length[row] = len(data.responses[i])
      reference[row, : reference_length[row]] = data.responses[i]
      index[row] = data.indices[i]
      task_id[row] = data.task_id[i]
      max_new_tokens[row] = data.max_new_tokens[i]
    # jit takes numpy arrays where Batch says jax.Array.
    arrays: dict[str, Any] = {
      "prompt": prompt,
      "prompt_length": prompt_length,
      "reference": reference,
      "reference_length": reference_length,
      "index": index,
      "task_id": task_id,
      "max_new_tokens": max_new_tokens,
    }
    return Batch(**arrays)

  def _packed(self, chosen: np.ndarray) -> Batch:
    """As __call__, with several examples a row; all agree on the rows."""
    lengths = [
      len(self.tokenized.prompts[i]) + len(self.tokenized.responses[i])
      for i in chosen
    ]
    rows = [
      [int(chosen[i]) for i in row]
      for row in packing.choose_rows(lengths, self.packed_length)
    ]
    height = packing.round_up(len(rows), self.batch_size, self.row_multiple)
    rows += [[]] * (height - len(rows))
    local = height // self.process_count
    start = self.process_index * local
    return packing.make_batch(
      self.tokenized, rows[start : start + local], self.packed_length
    )


def _round_up(rows: Sequence[np.ndarray], multiple: int, limit: int) -> int:
  longest = max(len(row) for row in rows)
  return min(-(-longest // multiple) * multiple, limit)


def epoch_order(lengths: np.ndarray, batch_size: int, seed: int) -> np.ndarray:
  """The batches of one epoch, as in the drawing at the top of this file.

  Args:
    lengths: int [examples], prompt and response together.
    batch_size: B. What does not fill a batch sits out this epoch; as it is cut
      off after the shuffle, it is different every time.
    seed: Of the shuffles. The same seed gives the same order.

  Returns:
    int64 [examples // B, B], no example twice.
  """
  rng = np.random.default_rng(seed)
  num_batches = len(lengths) // batch_size
  shuffled = rng.permutation(len(lengths))[: num_batches * batch_size]
  window = _WINDOW * batch_size
  for start in range(0, len(shuffled), window):
    part = shuffled[start : start + window]
    part[:] = part[np.argsort(lengths[part], kind="stable")]
  return rng.permutation(shuffled.reshape(num_batches, batch_size))


class _TrainBatches:
  """Batch number n of the whole run, for any n, as grain wants it."""

  def __init__(
    self,
    collate: _Collator,
    shares: Sequence[float],
    seed: int,
  ):
    data = collate.tokenized
    self._collate = collate
    self._per_epoch = len(data) // collate.batch_size
    lengths = _lengths(data.prompts) + _lengths(data.responses)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
      chosen = mixture.epoch_examples(data.task_id, shares, epoch, seed)
      epoch_seed = np.random.SeedSequence([seed, epoch]).generate_state(1)[0]
      places = epoch_order(lengths[chosen], collate.batch_size, int(epoch_seed))
      return chosen[places]

    self._order = order

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, index: int) -> Batch:
    epoch, place = divmod(index, self._per_epoch)
    return self._collate(self._order(epoch)[place])


def train_batches(
  tokenized: TokenizedSet,
  *,
  batch_size: int,
  seed: int,
  shares: Sequence[float] = (1.0,),
  prompt_multiple: int = 16,
  response_multiple: int = 16,
  packed_length: int = 0,
  row_multiple: int = 1,
  process_index: int = 0,
  process_count: int = 1,
  place: Callable[[Batch], Batch] = lambda batch: batch,
) -> grain.DatasetIterator[Batch]:
  """Returns endless full batches for training, in a new order every epoch.

  The order depends on `seed` and the epoch only. `get_state()` of the iterator
  is a dict that JSON can hold, `set_state()` continues there exactly, given the
  same arguments; it is the same for every process.

  Args:
    tokenized: The split.
    batch_size: B over all processes.
    seed: Of the order, not negative.
    shares: Of each task in what is read, as mixture.shares gives them.
    prompt_multiple: P is the longest prompt rounded up to a multiple of this,
      at most max_prompt_length. Every pair of P and T is compiled once, so a
      quarter of the limit is a good choice, and the limit itself gives one P.
    response_multiple: The same for T and max_new_tokens.
    packed_length: S, tokens of a row that holds several examples, see
      packing.py; at least as many as the longest has. 0: one example a row.
    row_multiple: What the number of such rows is a multiple of; it divides
      batch_size.
    process_index: Which rows to make: those of this process.
    process_count: All processes get rows of the same P and T.
    place: Called with each batch, ahead of its use; puts it on the devices.

  Returns:
    An iterator of what `place` makes of each Batch of numpy arrays with
    B / process_count rows, or as many as packing needs.

  Raises:
    ValueError: batch_size exceeds the examples or does not divide among the
      processes, or another argument is out of range.
  """
  collate = _Collator(
    tokenized,
    batch_size,
    prompt_multiple,
    response_multiple,
    process_index,
    process_count,
    packed_length,
    row_multiple,
  )
  if batch_size > len(tokenized):
    raise ValueError(
      f"batch_size = {batch_size}: must be at most the {len(tokenized)} "
      "examples"
    )
  if seed < 0:
    raise ValueError(f"seed = {seed}: must not be negative")
  # One thread a few batches ahead hides the little work that a batch takes.
  ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  batches = grain.MapDataset.source(_TrainBatches(collate, shares, seed))
  return iter(batches.map(place).to_iter_dataset(ahead))


def longest_first(tokenized: TokenizedSet) -> np.ndarray:
  """The places of the kept examples, in the order of `eval_batches`."""
  lengths = _lengths(tokenized.prompts) + _lengths(tokenized.responses)
  return np.argsort(-lengths, kind="stable")


def eval_batches(
  tokenized: TokenizedSet,
  batch_size: int,
  *,
  prompt_multiple: int = 16,
  response_multiple: int = 16,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Every example once, the longest first; the last batch is filled up.

  The rows that fill it have index -1, reference_length 0 and prompt_length 1.

  Args:
    tokenized: The split.
    batch_size: B over all processes; it may exceed the examples.
    prompt_multiple: See `train_batches`; so are the following.
    response_multiple: See `train_batches`.
    process_index: See `train_batches`.
    process_count: See `train_batches`.

  Returns:
    An iterator of Batch, of numpy arrays with B / process_count rows.

  Raises:
    ValueError: As `train_batches`, but for a batch_size beyond the examples.
  """
  collate = _Collator(
    tokenized,
    batch_size,
    prompt_multiple,
    response_multiple,
    process_index,
    process_count,
  )
  order = longest_first(tokenized)
  starts = range(0, len(order), batch_size)
  return (collate(order[start : start + batch_size]) for start in starts)
