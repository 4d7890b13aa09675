"""How often tasks are read, in which order, and after a stop."""

import json

import numpy as np
import pytest

from skd_jax.data import dataset, input_pipeline, mixture

SAME = np.testing.assert_array_equal


def test_shares_follow_size_weight_and_temperature():
  def first(sizes, weights, temperature):
    found = mixture.shares(sizes, weights, temperature)
    assert sum(found) == pytest.approx(1)
    return found[0]

  assert first([30, 10], [1.0, 1.0], 1.0) == pytest.approx(0.75)
  assert first([30, 10], [1.0, 3.0], 1.0) == pytest.approx(0.5)
  assert first([90, 10], [1.0, 1.0], 2.0) == pytest.approx(0.75)
  assert first([9000, 10], [1.0, 1.0], 1e6) == pytest.approx(0.5, abs=1e-4)
  assert first([9000, 10], [1.0, 1.0], 1e-3) == pytest.approx(1.0)
  assert mixture.shares([5], [0.1], 3.0) == (1.0,)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (([3, 0], [1, 1], 1.0), "sizes"),
    (([3, 1], [1, 0], 1.0), "weights"),
    (([3, 1], [1, 1], 0.0), "temperature = 0.0"),
  ],
)
def test_share_out_of_range_is_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    mixture.shares(*arguments)


def counts(task_id, shares, num_epochs, seed=0):
  """int [epochs, examples]: how often each epoch reads each example."""
  return np.stack(
    [
      np.bincount(
        mixture.epoch_examples(task_id, shares, epoch, seed),
        minlength=len(task_id),
      )
      for epoch in range(num_epochs)
    ]
  )


@pytest.mark.parametrize(
  "shares", [(0.5, 0.3, 0.2), (0.9, 0.06, 0.04), (0.333, 0.333, 0.334)]
)
def test_tasks_have_their_shares_to_the_example(shares):
  task_id = np.repeat([0, 1, 2], [20, 30, 7])
  read = counts(task_id, shares, 40)
  assert (read.sum(axis=1) == 57).all()
  by_task = np.stack(
    [read[:, task_id == t].sum(axis=1) for t in range(3)], axis=1
  )
  ideal = np.outer(np.arange(1, 41) * 57, shares)
  assert np.abs(by_task.cumsum(axis=0) - ideal).max() <= 1 + 1e-9


def test_no_example_of_a_task_is_read_again_before_all_others():
  task_id = np.repeat([0, 1], [12, 5])
  total = np.zeros(17, int)
  for read in counts(task_id, (0.4, 0.6), 30):
    total += read
    for t in (0, 1):
      assert np.ptp(total[task_id == t]) <= 1


def test_small_task_may_miss_an_epoch():
  task_id = np.repeat([0, 1], [9, 1])
  read = counts(task_id, (0.97, 0.03), 10)
  assert (read[:, 9] == 0).any()
  assert read[:, 9].sum() in (2, 3, 4)


def test_epochs_and_seeds_choose_differently_and_repeatably():
  task_id = np.repeat([0, 1], [40, 40])
  one, other = (
    counts(task_id, (0.7, 0.3), 4, 1),
    counts(task_id, (0.7, 0.3), 4, 2),
  )
  SAME(one, counts(task_id, (0.7, 0.3), 4, 1))
  assert (one != other).any(axis=1).all()
  assert (one[0] != one[1]).any()


def test_single_task_reads_every_example_once_an_epoch():
  for epoch in (0, 1, 5):
    chosen = mixture.epoch_examples(np.zeros(33, int), (1.0,), epoch, seed=3)
    SAME(chosen, np.arange(33))


def make_set(sizes, limits=(8, 20)):
  """Task t holds sizes[t] examples of prompt tokens 100 t + i."""
  rng = np.random.default_rng(0)
  parts = [
    dataset.TokenizedSet(
      examples=[{"source": f"{t}.{i}", "target": "."} for i in range(size + 1)],
      indices=np.arange(size, dtype=np.int32) + 1,
      prompts=[
        np.full(n, 100 * t + i, np.int32)
        for i, n in enumerate(rng.integers(1, 9, size))
      ],
      responses=[np.full(n, 7, np.int32) for n in rng.integers(1, 9, size)],
      task_id=np.full(size, t, np.int32),
      max_new_tokens=np.full(size, limits[t], np.int32),
      max_prompt_length=10 + t,
      num_too_long=t,
    )
    for t, size in enumerate(sizes)
  ]
  return dataset.join(parts)


def batches_of(data, **changes):
  settings = {"batch_size": 8, "seed": 1, "shares": (0.5, 0.5)}
  return input_pipeline.train_batches(data, **settings | changes)


def test_rows_carry_task_limit_and_example():
  data = make_set((30, 20))
  assert (data.max_prompt_length, data.num_too_long) == (11, 1)
  iterator = batches_of(data)
  mixed = 0
  for _ in range(12):
    batch = next(iterator)
    mixed += len(set(batch.task_id.tolist())) == 2
    for row, task_id in enumerate(batch.task_id):
      assert batch.max_new_tokens[row] == (8, 20)[task_id]
      token = batch.prompt[row, 0]
      assert token // 100 == task_id
      source = data.examples[batch.index[row]]["source"]
      assert source == f"{task_id}.{token % 100 + 1}"
  assert mixed > 6


def test_batches_hold_the_mixture():
  iterator = batches_of(make_set((60, 20)), shares=(0.2, 0.8))
  rows = np.concatenate([next(iterator).task_id for _ in range(100)])
  assert rows.mean() == pytest.approx(0.8, abs=0.02)


def test_stopped_mixture_continues_with_the_same_batches():
  data = make_set((30, 20))
  iterator = batches_of(data)
  for _ in range(5):
    next(iterator)
  state = json.dumps(iterator.get_state())
  rest = [next(iterator) for _ in range(15)]  # Over the end of two epochs.
  again = batches_of(data)
  again.set_state(json.loads(state))
  for batch in rest:
    other = next(again)
    for name in ("index", "task_id", "prompt", "reference", "max_new_tokens"):
      SAME(getattr(batch, name), getattr(other, name))


def test_one_task_is_read_in_the_plain_order_of_its_epochs():
  data = make_set((30,))
  iterator = batches_of(data, shares=(1.0,))
  lengths = np.array(
    [len(p) + len(r) for p, r in zip(data.prompts, data.responses, strict=True)]
  )
  for epoch in range(3):
    seed = int(np.random.SeedSequence([1, epoch]).generate_state(1)[0])
    for chosen in input_pipeline.epoch_order(lengths, 8, seed):
      SAME(next(iterator).index, data.indices[chosen])
