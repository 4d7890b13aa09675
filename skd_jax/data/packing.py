"""Several examples in one row, for responses that are known in advance.

  row 0   a a a A A | b B B B | - -      small letters: prompts
  row 1   c c C C C C C | d d D | -      capitals: responses, which are learned

The rows go through a model as they are; a token sees those of its own example.
A packed batch has the same examples as one that is not, and the same gradient.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skd_jax.data.dataset import TokenizedSet
from skd_jax.structs import Batch

_NUM_HEIGHTS = 16  # Numbers of rows, at most; each is compiled once.


def choose_rows(lengths: Sequence[int], size: int) -> list[list[int]]:
  """Puts examples into as few rows as a simple rule needs.

  The longest goes first, each into the first row that has room.

  Args:
    lengths: tokens of each example, at most `size`.
    size: tokens of a row.

  Returns:
    The examples of each row, by their index in `lengths`.
  """
  rows: list[list[int]] = []
  left: list[int] = []
  for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    row = next((r for r, room in enumerate(left) if room >= lengths[i]), None)
    if row is None:
      row = len(rows)
      rows.append([])
      left.append(size)
    rows[row].append(i)
    left[row] -= lengths[i]
  return rows


def round_up(num_rows: int, batch_size: int, multiple: int) -> int:
  """Returns so many rows that few different numbers occur.

  Args:
    num_rows: that hold examples.
    batch_size: B, the examples, a multiple of `multiple`.
    multiple: what the number must be a multiple of.
  """
  step = -(-batch_size // (_NUM_HEIGHTS * multiple)) * multiple
  return -(-num_rows // step) * step


def make_batch(
  data: TokenizedSet, rows: Sequence[Sequence[int]], size: int
) -> Batch:
  """Makes a packed Batch of chosen examples.

  Args:
    data: the split.
    rows: the kept examples of each row; a row may have none.
    size: S, tokens of a row.

  Returns:
    Batch of numpy arrays [R, ...]. The first token of a row is its prompt, the
    S - 1 others its reference, of which `learned` marks the responses. `index`
    is that of the first example.
  """
  num_rows = len(rows)
  tokens = np.zeros((num_rows, size), np.int32)
  learned = np.zeros((num_rows, size), bool)
  length = np.ones(num_rows, np.int32)
  index = np.full(num_rows, -1, np.int32)
  for row, examples in enumerate(rows):
    end = 0
    for i in examples:
      start, middle = end, end + len(data.prompts[i])
      end = middle + len(data.responses[i])
      tokens[row, start:middle] = data.prompts[i]
      tokens[row, middle:end] = data.responses[i]
      learned[row, middle:end] = True
    if examples:
      length[row] = end
      index[row] = data.indices[examples[0]]
  # jit takes numpy arrays where Batch says jax.Array.
  arrays: dict[str, Any] = {
    "prompt": tokens[:, :1],
    "prompt_length": np.ones(num_rows, np.int32),
    "reference": tokens[:, 1:],
    "reference_length": length - 1,
    "index": index,
    "task_id": np.zeros(num_rows, np.int32),
    "max_new_tokens": np.full(num_rows, size - 1, np.int32),
    "learned": learned[:, 1:],
  }
  return Batch(**arrays)
