"""How often each task is read where several are learned at once.

Temperature-scaled sampling, as in multilingual and multi-task training
(arXiv 1907.05019, arXiv 1910.10683): a task of n examples and weight w has the
share

  p_i = (n_i w_i)^(1/T) / sum_j (n_j w_j)^(1/T)

so T = 1 reads all data evenly, and a large T all tasks evenly.

The counts are exact, not drawn: each epoch reads as many examples as there are,
and after any number of epochs every task has had its share of them to within
one example. A task is read in permutations of its own, one after the other,
however the epochs cut them:

  task 0, n = 3, 2 an epoch      b a | c  c | a b  ...
  task 1, n = 2, 3 an epoch      y x  y | x  x y | ...
                                 epoch 0   epoch 1

What an epoch reads follows from its number alone, so that a run resumes
anywhere.
"""

from collections.abc import Sequence

import numpy as np


def shares(
  sizes: Sequence[int], weights: Sequence[float], temperature: float
) -> tuple[float, ...]:
  """Returns p, the share of each task; their sum is 1.

  Args:
    sizes: examples of each task, at least 1.
    weights: w of each task, above 0.
    temperature: T, above 0.

  Raises:
    ValueError: an argument is out of range.
  """
  if min(sizes) < 1:
    raise ValueError(f"sizes = {list(sizes)}: must be at least 1")
  if min(weights) <= 0:
    raise ValueError(f"weights = {list(weights)}: must be above 0")
  if temperature <= 0:
    raise ValueError(f"temperature = {temperature}: must be above 0")
  # By the largest, in logarithms: a small T would overflow the powers.
  logs = np.log(np.asarray(sizes, float) * np.asarray(weights)) / temperature
  powers = np.exp(logs - logs.max())
  return tuple((powers / powers.sum()).tolist())


def epoch_examples(
  task_id: np.ndarray, shares: Sequence[float], epoch: int, seed: int
) -> np.ndarray:
  """Returns which examples an epoch reads, not in the order of reading.

  Args:
    task_id: int [examples], the task of each.
    shares: of each task, their sum 1.
    epoch: counted from 0.
    seed: of the permutations.

  Returns:
    int64 [examples], sorted places in `task_id`; one is in it as often as the
    epoch reads it. With a single task: every place once.
  """
  begin, end = _read_before(len(task_id), shares, np.array([epoch, epoch + 1]))
  parts = []
  for task in range(len(shares)):
    places = np.flatnonzero(task_id == task)
    size = len(places)
    rounds = range(begin[task] // size, -(-end[task] // size))
    drawn = [
      np.random.default_rng([seed, task, r]).permutation(places) for r in rounds
    ]
    first = begin[task] - rounds.start * size
    count = end[task] - begin[task]
    parts.append(np.concatenate([places[:0], *drawn])[first : first + count])
  return np.sort(np.concatenate(parts))


def _read_before(
  num_examples: int, shares: Sequence[float], epochs: np.ndarray
) -> np.ndarray:
  """How many examples of each task are read before each of some epochs.

  The running sums over the tasks are rounded, not the shares themselves: so the
  total is right, and each task is at most one example off.

  Returns:
    int64 [epochs, tasks].
  """
  sums = np.concatenate([[0.0], np.cumsum(shares)])
  sums[-1] = 1.0
  bounds = np.rint(sums[None, :] * (epochs[:, None] * num_examples))
  return np.diff(bounds.astype(np.int64), axis=1)
