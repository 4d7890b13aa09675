"""How far the student is from its teacher, as the last rollouts show.

A token of the mixture (1 - g) p + g q of student p and teacher q differs from
the student's with probability g TV(p, q), where it is drawn as
`acceptance.accept_mixture` draws it. So the tokens that were replaced, divided
by g times the tokens that were judged, are their mean total variation, which
costs nothing to know:

  step        0     1     2          the share g of the next step is twice the
  g         1.0  1.00  0.78          distance so far: a student that knows
  judged    400   400   400          little learns from its teacher's text, one
  replaced  220   180   100          that knows most from its own, and the
  distance       .55   .50   .46     share falls by itself as it learns
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.training import schedules

_PER_DISTANCE = 2.0
_KEPT = 0.9  # Of what was seen up to a step, after one more.


@dataclasses.dataclass(frozen=True)
class ShareByDistance:
  """The teacher's share of a mixture, from the distance of the two.

  The state is float32 [2], tokens of recent steps, older ones fading: replaced,
  and judged times the share.

  least: the least share; above 0, as nothing is seen without the teacher.
  largest: the largest, and that of the first step.
  """

  least: float
  largest: float

  def start(self) -> jax.Array:
    """Returns the state before the first step: nothing is seen yet."""
    return jnp.zeros(2)

  @functools.partial(jax.jit, static_argnames="self")
  def share(self, seen: jax.Array) -> jax.Array:
    """Returns the share of the next step, float32 []."""
    replaced, weight = seen[0], seen[1]
    distance = replaced / jnp.maximum(weight, 1e-6)
    share = jnp.clip(_PER_DISTANCE * distance, self.least, self.largest)
    return jnp.where(weight > 0, share, self.largest)

  def after(
    self,
    seen: jax.Array,
    rollout: structs.Rollout,
    share: jax.Array | None = None,
  ) -> jax.Array:
    """Returns the state after a step.

    Args:
      seen: the state before it.
      rollout: its responses [B, T].
      share: that they are from; None: that of the state before it.
    """
    share = self.share(seen) if share is None else share
    slots = jnp.arange(rollout.tokens.shape[1])[None, :]
    judged = slots < rollout.length[:, None]
    judged &= rollout.source != structs.REFERENCE
    replaced = judged & (rollout.source == structs.TEACHER)
    weight = share * jnp.sum(judged, dtype=jnp.float32)
    more = [jnp.sum(replaced, dtype=jnp.float32), weight]
    return _KEPT * seen + jnp.stack(more)


def of_schedule(schedule: schedules.Schedule) -> ShareByDistance | None:
  """Returns what a schedule of the shape `distance` means; else None."""
  if schedule.shape != schedules.BY_DISTANCE:
    return None
  return ShareByDistance(least=schedule.end, largest=schedule.start)
