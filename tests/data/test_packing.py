"""Which examples share a row, and what the row says of them."""

import jax
import numpy as np
import pytest

from skd_jax.data import input_pipeline, packing
from tests.data.test_input_pipeline import make_set, take

SIZE = 70


def packed(data, **changes):
  arguments = {"batch_size": 16, "seed": 0, "packed_length": SIZE}
  return input_pipeline.train_batches(data, **arguments | changes)


def examples_of(batch):
  """The (prompt, response) of each example of a packed batch, sorted."""
  found = []
  for row in range(len(batch.index)):
    size = 1 + int(batch.reference_length[row])
    tokens = np.append(batch.prompt[row], batch.reference[row])[:size]
    learned = np.append(False, batch.learned[row])[:size]
    first = np.flatnonzero(~learned[1:] & learned[:-1]) + 1
    for part, is_response in zip(
      np.split(tokens, first), np.split(learned, first), strict=True
    ):
      if is_response.any():
        found.append((tuple(part[~is_response]), tuple(part[is_response])))
  return sorted(found)


def test_rows_are_filled_from_the_longest_on():
  assert packing.choose_rows([3, 9, 4, 6, 1], 10) == [[1, 4], [3, 2], [0]]
  assert packing.choose_rows([5], 5) == [[0]]


def test_few_numbers_of_rows_occur_and_each_divides():
  for batch_size, multiple in ((64, 1), (64, 4), (16, 8), (6, 2)):
    found = {
      packing.round_up(n, batch_size, multiple)
      for n in range(1, batch_size + 1)
    }
    assert len(found) <= 16
    assert all(n % multiple == 0 for n in found)
    assert all(
      n <= packing.round_up(n, batch_size, multiple)
      for n in range(1, batch_size + 1)
    )


def test_a_packed_batch_has_the_examples_of_one_that_is_not():
  data = make_set()
  usual = take(packed(data, packed_length=0), 6)
  for one, other in zip(take(packed(data), 6), usual, strict=True):
    assert one.reference.shape[0] < 16
    assert one.reference.shape[1] == SIZE - 1
    assert examples_of(one) == sorted(
      (tuple(data.prompts[i - 7]), tuple(data.responses[i - 7]))
      for i in other.index
    )
    assert not one.reference[~one.learned & (one.reference >= 1000)].any()


def test_processes_have_the_rows_of_the_whole_batch():
  data = make_set()
  (whole,) = take(packed(data, row_multiple=4), 1)
  assert len(whole.index) % 4 == 0
  parts = [
    take(packed(data, row_multiple=4, process_index=i, process_count=2), 1)[0]
    for i in range(2)
  ]
  jax.tree.map(
    lambda x, *of: np.testing.assert_array_equal(x, np.concatenate(of)),
    whole,
    *parts,
  )


@pytest.mark.parametrize("rows", [[[]], [[0], []]])
def test_a_row_without_examples_learns_nothing(rows):
  batch = packing.make_batch(make_set(), rows, SIZE)
  assert batch.index[-1] == -1
  assert batch.reference_length[-1] == 0
  assert not batch.learned[-1].any()
