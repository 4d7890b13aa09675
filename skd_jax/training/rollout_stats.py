"""What rollouts came to: counted once, on the device, read by all.

The loop, the health checks, the report and comparisons read `RolloutStats` and
its rates; nothing counts a rollout again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from skd_jax import structs
from skd_jax.parallel import processes, sharding
from skd_jax.reporting import boards

# A token repeats where it ends so many tokens that stand a few positions before
# as well: a model that has collapsed says one thing over and over.
_REPEATED_TOKENS = 4
_MAX_PERIOD = 16

# Positions 0, 1, 2-3, 4-7, ..., 32,768 and later.
_NUM_BUCKETS = 17
_FIRSTS = (0, *(2**k for k in range(_NUM_BUCKETS - 1)))


@struct.dataclass
class RolloutStats:
  """Counts of generated responses; references are not counted.

  rows: responses.
  emitted: their tokens.
  replaced: tokens that are the teacher's. Not only where it judges: a teacher
    that generates alone "replaces" every token.
  changed: replaced by another token than the one that was proposed.
  repeated: tokens that end four which stand the same, at most 16 positions
    before.
  truncated: responses that ended at the length limit.
  rounds: teacher passes that judged, summed over the rows; 0 where no teacher
    judges.
  emitted_by_position: emitted tokens by position in the response: 0, 1, 2-3,
    4-7, ...
  replaced_by_position: likewise.
  rows_by_length: responses by their length, in the same buckets.
  """

  rows: Any = 0  # int32 [] on the device, int on the host
  emitted: Any = 0
  replaced: Any = 0
  changed: Any = 0
  repeated: Any = 0
  truncated: Any = 0
  rounds: Any = 0
  emitted_by_position: Any = (0,) * _NUM_BUCKETS  # int32 [17], or a tuple
  replaced_by_position: Any = (0,) * _NUM_BUCKETS
  rows_by_length: Any = (0,) * _NUM_BUCKETS

  @classmethod
  def of(cls, rollout: structs.Rollout) -> "RolloutStats":
    """Counts a rollout [B, T]; inside jit."""
    positions = jnp.arange(rollout.tokens.shape[1])
    within = positions[None, :] < rollout.length[:, None]
    emitted = within & (rollout.source != structs.REFERENCE)
    replaced = emitted & (rollout.source == structs.TEACHER)
    rows = jnp.any(emitted, axis=1)

    def by_bucket(places, counts):
      # Place 0 is in bucket 0, and 2^(k-1) .. 2^k - 1 in bucket k.
      bucket = jnp.searchsorted(jnp.array(_FIRSTS), places, side="right") - 1
      return jnp.zeros(_NUM_BUCKETS, jnp.int32).at[bucket].add(counts)

    def by_position(x):
      return by_bucket(positions, jnp.sum(x, axis=0, dtype=jnp.int32))

    def total(x):
      return jnp.sum(x, dtype=jnp.int32)

    return cls(
      rows=total(rows),
      emitted=total(emitted),
      replaced=total(replaced),
      changed=total(emitted & (rollout.tokens != rollout.draft_tokens)),
      repeated=total(emitted & _repeats(rollout.tokens)),
      truncated=total(rows & ~rollout.stopped),
      rounds=total(rollout.num_rounds),
      emitted_by_position=by_position(emitted),
      replaced_by_position=by_position(replaced),
      rows_by_length=by_bucket(rollout.length, rows.astype(jnp.int32)),
    )

  def __add__(self, other: "RolloutStats") -> "RolloutStats":
    """Adds counts up; on the host, where integers do not overflow."""
    return jax.tree.map(lambda a, b: a + b, self, other)

  def rates(self) -> dict[str, float]:
    """Returns the shares that the counts allow; on the host.

    truncated: of the responses. repeated: of the tokens. Where a teacher judges
    also replacement_rate, replaced tokens over ALL emitted ones; changed_rate;
    and accepted_per_round, the student's tokens that stayed per teacher pass.
    """
    if not self.emitted:
      return {}
    rates = {
      "truncated": self.truncated / self.rows,
      "repeated": self.repeated / self.emitted,
    }
    if self.rounds:
      rates |= {
        "replacement_rate": self.replaced / self.emitted,
        "changed_rate": self.changed / self.emitted,
        "accepted_per_round": (self.emitted - self.replaced) / self.rounds,
      }
    return rates

  def replacement_by_position(self) -> dict[int, float]:
    """Returns the replacement rate by the first position of each bucket."""
    counts = zip(
      _FIRSTS, self.emitted_by_position, self.replaced_by_position, strict=True
    )
    return {at: replaced / all_ for at, all_, replaced in counts if all_}

  def histograms(self) -> dict[str, boards.Histogram]:
    """Returns what the boards draw; on the host.

    response_length: of the responses, in tokens. Where a teacher judges also
    replaced_by_position, whose height at a position is the share of its tokens
    that are replaced.
    """
    if not self.rows:
      return {}
    found = {"response_length": _histogram(self.rows_by_length)}
    if self.rounds:
      rates = self.replacement_by_position()
      widths = (1, *_FIRSTS[1:])
      shares = [
        rates.get(first, 0.0) * width
        for first, width in zip(_FIRSTS, widths, strict=True)
      ]
      found["replaced_by_position"] = _histogram(shares)
    return found

  def to_plain(self) -> dict[str, Any]:
    """Returns the counts as JSON can hold them; on the host."""
    return dataclasses.asdict(self)

  @classmethod
  def from_plain(cls, plain: Mapping[str, Any]) -> "RolloutStats":
    """Reads what `to_plain` returned."""
    return cls(
      **{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    )


def _histogram(counts: Sequence[float]) -> boards.Histogram:
  """The buckets up to the last one that holds something."""
  used = max((k for k, count in enumerate(counts) if count), default=0) + 1
  edges = (*_FIRSTS, 2 ** (_NUM_BUCKETS - 1))
  return boards.Histogram(edges[: used + 1], tuple(counts[:used]))


def _repeats(tokens: jax.Array) -> jax.Array:
  """Whether a token of [B, T] ends a repetition, bool [B, T].

  period 2   a b a b a b c      the second a b a b ends at the sixth token
             . . . . . y .
  """
  size = tokens.shape[1]
  repeats = jnp.zeros(tokens.shape, bool)
  for period in range(1, _MAX_PERIOD + 1):
    width = size - period - _REPEATED_TOKENS + 1
    if width < 1:
      break
    same = tokens[:, period:] == tokens[:, :-period]
    ends = jnp.stack(
      [same[:, i : i + width] for i in range(_REPEATED_TOKENS)]
    ).all(axis=0)
    repeats |= jnp.pad(ends, ((0, 0), (size - width, 0)))
  return repeats


@jax.jit
def _count(rollout: structs.Rollout) -> tuple[RolloutStats, jax.Array]:
  counted = RolloutStats.of(rollout), jnp.max(rollout.length)
  return jax.tree.map(
    lambda x: sharding.constrain(x, *[None] * x.ndim), counted
  )


def count(rollout: structs.Rollout) -> RolloutStats:
  """Returns the counts of a rollout [B, T], on the host."""
  return to_host(processes.to_host(_count(_small(rollout)))[0])


def _small(rollout: structs.Rollout) -> structs.Rollout:
  """Leaves out what the teacher thinks, which is not counted."""
  return dataclasses.replace(rollout, teacher_hidden=None, teacher_top=None)


def trim_and_count(
  rollout: structs.Rollout, multiple: int
) -> tuple[structs.Rollout, RolloutStats]:
  """Cuts the response buffer to what was generated, and counts it.

  The train step then reads T rounded up to `multiple`, not the whole limit.

  Args:
    rollout: [B, T].
    multiple: of the width.

  Returns:
    (Rollout [B, width], its counts on the host).
  """
  stats, longest = processes.to_host(_count(_small(rollout)))
  width = -(-max(int(longest), 1) // multiple) * multiple
  width = min(width, rollout.tokens.shape[1])
  names = ("tokens", "source", "draft_tokens", "teacher_hidden", "teacher_top")
  cut = jax.tree.map(
    lambda x: x[:, :width], {name: getattr(rollout, name) for name in names}
  )
  return dataclasses.replace(rollout, **cut), to_host(stats)


def to_host(stats: RolloutStats) -> RolloutStats:
  """Turns counts as jax.device_get returns them into Python's integers."""
  return RolloutStats(
    **{
      name: tuple(value.tolist()) if np.ndim(value) else int(value)
      for name, value in vars(stats).items()
    }
  )
