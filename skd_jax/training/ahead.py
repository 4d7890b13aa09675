"""The responses of a step while the one before it trains: one update of lag.

  max_staleness 0   generate 0 | train 0 | generate 1 | train 1 | ...
  max_staleness 1   generate 0 | train 0
                                 generate 1 | train 1
                                              generate 2 | ...

Responses 1, 2, ... come from the weights of before the last update, which do
not wait for it, and so are begun while it is computed. Which weights these are
is in the state, `TrainState.older`, and not in the order of what runs: the
responses of a step are a function of state, batch and step, whenever they are
begun.

A run that was stopped therefore goes on with the same bits. Its checkpoint
holds the older weights, from which the responses under way are generated again;
the batches stand before what was looked at. The responses themselves are not
kept: they would have to be waited for at every checkpoint, and the teacher's
hidden states of a whole batch would be in it. Nor is a step after a checkpoint
generated with the newest weights: a signal can make a checkpoint anywhere, and
a run must not depend on where it was stopped.
"""

from collections.abc import Callable
from typing import Any

import jax

from skd_jax import structs
from skd_jax.training.timing import WAIT, timed

Responses = tuple[structs.Rollout, dict[str, float]]

# (state, batch, step) -> as of generation.generate_responses.
Generate = Callable[[structs.TrainState, structs.Batch, int], Responses]


class Lookahead:
  """Batches of which the next one can be looked at before it is taken."""

  def __init__(self, batches: Any):
    self._batches = batches
    self._next: tuple[Any, structs.Batch] | None = None

  def __next__(self) -> structs.Batch:
    if self._next is None:
      return next(self._batches)
    (_, batch), self._next = self._next, None
    return batch

  def peek(self) -> structs.Batch:
    """Returns the batch that `next` is going to return."""
    if self._next is None:
      before = self._batches.get_state()
      self._next = before, next(self._batches)
    return self._next[1]

  def get_state(self) -> Any:
    """Returns the position, which a batch that was looked at does not move."""
    return self._batches.get_state() if self._next is None else self._next[0]

  def set_state(self, state: Any) -> None:
    """Goes to a position."""
    self._batches.set_state(state)
    self._next = None


class Source:
  """The responses of each step, begun before or generated when it is due."""

  def __init__(
    self,
    generate: Generate,
    batches: Lookahead,
    *,
    num_steps: int,
    max_staleness: int,
  ):
    """Begins nothing yet.

    Args:
      generate: of a step; waits for the devices where max_staleness is 0 alone.
      batches: those of the loop.
      num_steps: of the loop.
      max_staleness: 1: the responses of the next step are begun early; 0: not.
    """
    self._generate = generate
    self._batches = batches
    self._last = num_steps - 1
    self._max_staleness = max_staleness
    self._begun: Responses | None = None

  def responses(
    self, state: structs.TrainState, batch: structs.Batch, step: int
  ) -> Responses:
    """Returns the responses of a step, once they are there.

    Args:
      state: before the step.
      batch: [B, ...].
      step: of the run. The first one of a process has not been begun.

    Returns:
      (Rollout [B, T], seconds by part as of timing.py).
    """
    begun, self._begun = self._begun, None
    rollout, seconds = begun or self._generate(state, batch, step)
    if self._max_staleness:
      with timed(seconds, WAIT):
        jax.block_until_ready(rollout)
    return rollout, seconds

  def begin_next(self, state: structs.TrainState, step: int) -> None:
    """Begins the responses of the step after this one, where they may be older.

    Args:
      state: after the step; it may be under way.
      step: of the run.
    """
    if self._max_staleness and step < self._last:
      batch = self._batches.peek()
      self._begun = self._generate(state, batch, step + 1)
