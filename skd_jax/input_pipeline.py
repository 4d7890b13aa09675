"""Examples as token ids, in a deterministic order, batch by batch.

  load_examples -> tokenize_examples -> train_batches or eval_batches -> Batch

Batches are numpy arrays. Their buffers P and T are as wide as the longest row
of the batch, rounded up so that few shapes are compiled, and examples of
similar length stand together:

  shuffle         5 2 9 4 7 3 ...      all examples, anew in every epoch
  windows         5 2 9 4 | 7 3 ...    some batches of examples each
  sort            2 4 5 9 | 3 7 ...    by length, inside each window
  cut             2 4 | 5 9 | 3 7 ...
  shuffle         5 9 | 3 7 | 2 4 ...  whole batches
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from skd_jax import tokenizer as tokenizer_lib
from skd_jax.structs import Batch, Example

_WINDOW = 32  # Batches per window; more save little padding and shuffle less.
_ENDLESS = 2**40  # Batches; an iterator of grain wants some length.


@dataclasses.dataclass(frozen=True)
class TokenizedSet:
  """One split as token ids; len() counts the examples that are kept."""

  examples: Sequence[Example]  # The whole split.
  indices: np.ndarray  # int32 [kept]: the places of the kept ones in it.
  prompts: Sequence[np.ndarray]  # int32 [<= max_prompt_length] each.
  responses: Sequence[np.ndarray]  # int32 [<= max_new_tokens] each.
  num_too_long: int  # How many were left out, or cut; see tokenize_examples.
  max_prompt_length: int
  max_new_tokens: int

  def __len__(self) -> int:
    return len(self.prompts)


def tokenize_examples(
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[Example],
  *,
  prompt: str,
  max_prompt_length: int,
  max_new_tokens: int,
  keep_long_references: bool = False,
) -> TokenizedSet:
  """Turns a split into token ids.

  Args:
    tokenizer: As `skd_jax.tokenizer.load` gives it.
    examples: The split.
    prompt: The user's turn, with {source} in it.
    max_prompt_length: The most tokens of a prompt.
    max_new_tokens: The most tokens of a response, EOS included.
    keep_long_references: False, for training, leaves out an example of which
      either side is too long. True, for evaluation, keeps every example: a long
      reference is cut to its first max_new_tokens ids, without EOS, which
      matter to the held-out divergence only, a mean over positions; its text,
      by which answers are scored, stays whole.

  Returns:
    The kept examples in their order, and in `num_too_long` how many were left
    out (training) or have a cut reference (evaluation).

  Raises:
    ValueError: No example is kept; or, in evaluation, a prompt is too long.
  """
  for field, limit in (
    ("max_prompt_length", max_prompt_length),
    ("max_new_tokens", max_new_tokens),
  ):
    if limit < 1:
      raise ValueError(f"{field}={limit}: must be at least 1")
  pairs = tokenizer_lib.encode_examples(tokenizer, examples, prompt)
  indices, num_too_long = [], 0
  for number, (ids, response) in enumerate(pairs):
    long_prompt = len(ids) > max_prompt_length
    if long_prompt and keep_long_references:
      raise ValueError(
        f"example {number}: its prompt has {len(ids)} tokens; at most "
        f"max_prompt_length={max_prompt_length} are allowed"
      )
    too_long = long_prompt or len(response) > max_new_tokens
    num_too_long += too_long
    if keep_long_references or not too_long:
      indices.append(number)
  if not indices:
    raise ValueError(
      f"none of {len(pairs)} examples fits max_prompt_length="
      f"{max_prompt_length} and max_new_tokens={max_new_tokens}"
    )
  return TokenizedSet(
    examples=examples,
    indices=np.asarray(indices, np.int32),
    prompts=[pairs[i][0] for i in indices],
    responses=[pairs[i][1][:max_new_tokens] for i in indices],
    num_too_long=num_too_long,
    max_prompt_length=max_prompt_length,
    max_new_tokens=max_new_tokens,
  )


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

  def __post_init__(self):
    for field in ("batch_size", "prompt_multiple", "response_multiple"):
      if getattr(self, field) < 1:
        raise ValueError(f"{field}={getattr(self, field)}: must be at least 1")
    if not 0 <= self.process_index < self.process_count:
      raise ValueError(
        f"process_index={self.process_index}: must be below process_count="
        f"{self.process_count}"
      )
    if self.batch_size % self.process_count:
      raise ValueError(
        f"batch_size={self.batch_size}: must be a multiple of the "
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
    data = self.tokenized
    prompts = [data.prompts[i] for i in chosen]
    responses = [data.responses[i] for i in chosen]
    width = _round_up(prompts, self.prompt_multiple, data.max_prompt_length)
    depth = _round_up(responses, self.response_multiple, data.max_new_tokens)
    local = self.batch_size // self.process_count
    rows = slice(self.process_index * local, (self.process_index + 1) * local)
    prompt = np.zeros((local, width), np.int32)
    prompt_length = np.ones(local, np.int32)
    reference = np.zeros((local, depth), np.int32)
    reference_length = np.zeros(local, np.int32)
    index = np.full(local, -1, np.int32)
    for row, i in enumerate(chosen[rows]):
      prompt_length[row] = len(data.prompts[i])
      prompt[row, : prompt_length[row]] = data.prompts[i]
      reference_length[row] = len(data.responses[i])
      reference[row, : reference_length[row]] = data.responses[i]
      index[row] = data.indices[i]
    # jit takes numpy arrays where Batch says jax.Array.
    arrays: dict[str, Any] = {
      "prompt": prompt,
      "prompt_length": prompt_length,
      "reference": reference,
      "reference_length": reference_length,
      "index": index,
    }
    return Batch(**arrays)


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

  def __init__(self, collate: _Collator, seed: int, num_epochs: int | None):
    data = collate.tokenized
    self._collate = collate
    self._per_epoch = len(data) // collate.batch_size
    self._num_epochs = num_epochs
    lengths = _lengths(data.prompts) + _lengths(data.responses)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
      epoch_seed = np.random.SeedSequence([seed, epoch]).generate_state(1)[0]
      return epoch_order(lengths, collate.batch_size, int(epoch_seed))

    self._order = order

  def __len__(self) -> int:
    if self._num_epochs is None:
      return _ENDLESS
    return self._num_epochs * self._per_epoch

  def __getitem__(self, index: int) -> Batch:
    epoch, place = divmod(index, self._per_epoch)
    return self._collate(self._order(epoch)[place])


def train_batches(
  tokenized: TokenizedSet,
  *,
  batch_size: int,
  seed: int,
  prompt_multiple: int = 16,
  response_multiple: int = 16,
  num_epochs: int | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
  """Full batches for training, in a new order every epoch.

  The order depends on `seed` and the epoch only. `get_state()` of the iterator
  is a dict that JSON can hold, `set_state()` continues there exactly, given the
  same arguments; it is the same for every process.

  Args:
    tokenized: The split.
    batch_size: B over all processes.
    seed: Of the order, not negative.
    prompt_multiple: P is the longest prompt rounded up to a multiple of this,
      at most max_prompt_length. Every pair of P and T is compiled once, so a
      quarter of the limit is a good choice, and the limit itself gives one P.
    response_multiple: The same for T and max_new_tokens.
    num_epochs: How often the split is read; None never ends.
    process_index: Which rows to make: those of this process.
    process_count: All processes get rows of the same P and T.

  Returns:
    An iterator of Batch, of numpy arrays with B / process_count rows.

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
  )
  if batch_size > len(tokenized):
    raise ValueError(
      f"batch_size={batch_size}: must be at most the {len(tokenized)} examples"
    )
  if seed < 0:
    raise ValueError(f"seed={seed}: must not be negative")
  if num_epochs is not None and num_epochs < 1:
    raise ValueError(f"num_epochs={num_epochs}: must be at least 1, or None")
  # One thread a few batches ahead hides the little work that a batch takes.
  ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  batches = grain.MapDataset.source(_TrainBatches(collate, seed, num_epochs))
  return iter(batches.to_iter_dataset(ahead))


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
    tokenized: The split; so are the others as for `train_batches`.
    batch_size: B over all processes; it may exceed the examples.
    prompt_multiple: See `train_batches`.
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
  lengths = _lengths(tokenized.prompts) + _lengths(tokenized.responses)
  order = np.argsort(-lengths, kind="stable")
  starts = range(0, len(order), batch_size)
  return (collate(order[start : start + batch_size]) for start in starts)


def first_examples(tokenized: TokenizedSet, count: int) -> TokenizedSet:
  """The first `count` kept examples, or all where there are fewer."""
  return dataclasses.replace(
    tokenized,
    indices=tokenized.indices[:count],
    prompts=tokenized.prompts[:count],
    responses=tokenized.responses[:count],
  )


def spread_examples(tokenized: TokenizedSet, count: int) -> TokenizedSet:
  """`count` kept examples, evenly spread over the split; to be looked at."""
  chosen = np.linspace(0, len(tokenized) - 1, count).astype(int)
  return dataclasses.replace(
    tokenized,
    indices=tokenized.indices[chosen],
    prompts=[tokenized.prompts[i] for i in chosen],
    responses=[tokenized.responses[i] for i in chosen],
  )
