"""Order, shapes and resumption of batches."""

import json

import jax
import numpy as np
import pytest

from skd_jax.data import dataset, input_pipeline

SAME = np.testing.assert_array_equal


def make_set(num_examples=40, seed=0, longest=30, limit=32):
  """Example i has prompt tokens 100 + i and response tokens 1000 + i."""
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, longest + 1, (num_examples, 2))
  return dataset.TokenizedSet(
    examples=[{"source": str(i), "target": str(i)} for i in range(50)],
    indices=np.arange(num_examples, dtype=np.int32) + 7,
    prompts=[np.full(n, 100 + i, np.int32) for i, (n, _) in enumerate(sizes)],
    responses=[
      np.full(n, 1000 + i, np.int32) for i, (_, n) in enumerate(sizes)
    ],
    task_id=np.zeros(num_examples, np.int32),
    max_new_tokens=np.full(num_examples, limit, np.int32),
    max_prompt_length=limit,
    num_too_long=0,
  )


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def assert_same(batches, others):
  assert len(batches) == len(others)
  jax.tree.map(SAME, batches, others)


def differ(batches, others):
  return any(
    not np.array_equal(one.index, two.index)
    for one, two in zip(batches, others, strict=True)
  )


def test_rows_hold_the_example_that_index_names():
  data = make_set()
  for batch in take(
    input_pipeline.train_batches(data, batch_size=8, seed=0), 5
  ):
    for row, index in enumerate(batch.index):
      prompt, response = data.prompts[index - 7], data.responses[index - 7]
      assert batch.prompt_length[row] == len(prompt)
      assert batch.reference_length[row] == len(response)
      SAME(batch.prompt[row, : len(prompt)], prompt)
      SAME(batch.reference[row, : len(response)], response)
      assert not batch.prompt[row, len(prompt) :].any()
      assert not batch.reference[row, len(response) :].any()
    for array in jax.tree.leaves(batch):
      assert array.dtype == np.int32


def test_every_epoch_reads_all_full_batches_in_a_new_order():
  data = make_set(42)
  batches = take(input_pipeline.train_batches(data, batch_size=8, seed=0), 15)
  epochs = [
    np.concatenate([batch.index for batch in batches[start : start + 5]])
    for start in (0, 5, 10)
  ]
  for epoch in epochs:
    assert len(set(epoch.tolist())) == 40
  assert differ(batches[:5], batches[5:10])
  left_out = [set(data.indices.tolist()) - set(epoch) for epoch in epochs]
  assert left_out[0] != left_out[1]


def test_order_depends_on_the_seed_only():
  data = make_set()
  one, again, other = (
    take(input_pipeline.train_batches(data, batch_size=8, seed=seed), 12)
    for seed in (3, 3, 4)
  )
  assert_same(one, again)
  assert differ(one, other)


def test_saved_state_resumes_exactly():
  data = make_set()
  iterator = input_pipeline.train_batches(data, batch_size=8, seed=1)
  take(iterator, 4)
  saved = json.dumps(iterator.get_state())
  rest = take(iterator, 6)  # Past the end of the first epoch.
  fresh = input_pipeline.train_batches(data, batch_size=8, seed=1)
  fresh.set_state(json.loads(saved))
  assert_same(take(fresh, 6), rest)


def test_buffers_are_the_longest_row_rounded_up_within_the_limit():
  data = make_set(longest=30, limit=30)
  shapes = set()
  iterator = input_pipeline.train_batches(
    data, batch_size=4, seed=0, prompt_multiple=8, response_multiple=16
  )
  for batch in take(iterator, 20):
    width, depth = batch.prompt.shape[1], batch.reference.shape[1]
    assert width == min(-(-batch.prompt_length.max() // 8) * 8, 30)
    assert depth == min(-(-batch.reference_length.max() // 16) * 16, 30)
    shapes.add((width, depth))
  assert len(shapes) > 2


def test_similar_lengths_stand_together_yet_batches_are_shuffled():
  lengths = np.random.default_rng(0).lognormal(3, 0.5, 4096).astype(int)
  order = input_pipeline.epoch_order(lengths, 16, seed=0)
  grouped = lengths[order]
  plain = lengths.reshape(order.shape)
  padding = [x.max(1).sum() * 16 / x.sum() - 1 for x in (grouped, plain)]
  assert padding[0] < padding[1] / 5
  means = grouped.mean(1)
  assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


def test_shuffle_mixes_the_whole_split():
  order = input_pipeline.epoch_order(np.ones(4096, int), 16, seed=0)
  assert sorted(order.ravel()) == list(range(4096))
  assert order[: len(order) // 2].mean() == pytest.approx(2048, rel=0.05)
  assert (order.max(1) - order.min(1)).min() > 1024


def test_processes_share_every_batch():
  data = make_set(43)
  whole = take(input_pipeline.train_batches(data, batch_size=6, seed=0), 9)
  parts = [
    take(
      input_pipeline.train_batches(
        data, batch_size=6, seed=0, process_index=i, process_count=3
      ),
      9,
    )
    for i in range(3)
  ]
  joined = [
    jax.tree.map(lambda *rows: np.concatenate(rows), *pieces)
    for pieces in zip(*parts, strict=True)
  ]
  assert_same(joined, whole)
  whole = list(input_pipeline.eval_batches(data, 6))
  parts = [
    list(input_pipeline.eval_batches(data, 6, process_index=i, process_count=3))
    for i in range(3)
  ]
  joined = [
    jax.tree.map(lambda *rows: np.concatenate(rows), *pieces)
    for pieces in zip(*parts, strict=True)
  ]
  assert_same(joined, whole)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_evaluation_sees_every_example_once_and_marks_padding(batch_size):
  data = make_set(42)
  batches = list(input_pipeline.eval_batches(data, batch_size))
  assert all(len(batch.index) == batch_size for batch in batches)
  index = np.concatenate([batch.index for batch in batches])
  assert sorted(index[index >= 0]) == data.indices.tolist()
  last = batches[-1]
  empty = last.index == -1
  assert empty.sum() == len(index) - 42
  SAME(last.reference_length == 0, empty)
  assert (last.prompt_length[empty] == 1).all()
  # The longest come first, so that memory runs out at once or not at all.
  widths = [batch.prompt.size + batch.reference.size for batch in batches]
  assert widths[0] == max(widths)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"batch_size": 41}, "batch_size = 41: must be at most the 40 examples"),
    ({"batch_size": 0}, "batch_size = 0"),
    ({"prompt_multiple": 0}, "prompt_multiple = 0"),
    ({"seed": -1}, "seed = -1"),
    ({"process_count": 3}, "batch_size = 8: must be a multiple of the 3"),
    ({"process_index": 1}, "process_index = 1"),
  ],
)
def test_bad_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    input_pipeline.train_batches(
      make_set(), **{"batch_size": 8, "seed": 0, **arguments}
    )
