"""What is generated from: lines of a file, or text without an end."""

import dataclasses
import gzip
import itertools
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from benchmarks.speed import pair as pair_lib
from benchmarks.speed.pair import Pair
from skd_jax import structs
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.data.prompts import make_prompt_batch


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Prompts as token ids, and what ends a response.

  rows: int32 ids of each prompt.
  eos_ids: that end a response; none: T tokens end it.
  """

  rows: Sequence[np.ndarray]
  eos_ids: Sequence[int] = ()

  @property
  def size(self) -> int:
    """The tokens of the longest prompt."""
    return max(map(len, self.rows))

  def in_batches(self, batch_size: int) -> list[list[np.ndarray]]:
    """Returns the prompts, B at a time; the first ones fill the last batch."""
    count = -(-len(self.rows) // batch_size) * batch_size
    rows = list(itertools.islice(itertools.cycle(self.rows), count))
    return [rows[i : i + batch_size] for i in range(0, count, batch_size)]

  def batches(self, batch_size: int, new_tokens: int) -> list[structs.Batch]:
    """Returns the same as batches of one width, of at most T new tokens."""
    return [
      self._batch(rows, new_tokens) for rows in self.in_batches(batch_size)
    ]

  def _batch(
    self, rows: Sequence[np.ndarray], new_tokens: int
  ) -> structs.Batch:
    batch = make_prompt_batch(
      dict(enumerate(rows)), len(rows), self.size, new_tokens
    )
    missing = self.size - batch.prompt.shape[1]
    prompt = jnp.pad(batch.prompt, ((0, 0), (0, missing)))
    return dataclasses.replace(batch, prompt=prompt)


def endless(pair: Pair, num_prompts: int, prompt_size: int) -> Prompts:
  """Returns prompts of one length, whose responses nothing ends."""
  batch = pair_lib.make_prompts(pair, num_prompts, prompt_size)
  return Prompts(list(np.asarray(batch.prompt)))


def from_file(path: str, pair: Pair, prompt: str, num_prompts: int) -> Prompts:
  """Reads the first lines of a file, plain or .gz, as the pair reads them.

  Args:
    path: of a text file, one source per line.
    pair: whose tokenizer is used.
    prompt: the user's turn, with {source} in it.
    num_prompts: how many lines.

  Raises:
    ValueError: the pair has no tokenizer, or the file has fewer lines.
    FileNotFoundError: there is no such file.
  """
  if pair.tokenizer is None:
    raise ValueError(f"--sources={path}: needs a --teacher with a tokenizer")
  open_file = gzip.open if pathlib.Path(path).suffix == ".gz" else open
  with open_file(path, "rt", encoding="utf-8") as file:
    lines = list(
      itertools.islice(filter(None, map(str.strip, file)), num_prompts)
    )
  if len(lines) < num_prompts:
    raise ValueError(
      f"--num_prompts={num_prompts}: must be at most {len(lines)}, the lines "
      f"of --sources={path}"
    )
  tokenizer = tokenizer_lib.load_tokenizer(pair.tokenizer)
  return Prompts(
    tokenizer_lib.encode_prompts(tokenizer, lines, prompt),
    tokenizer_lib.eos_ids(tokenizer, pair.tokenizer),
  )
