"""Pairs whose teacher replaces a wanted part of the student's tokens."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import contestants
from benchmarks import pair as pair_lib
from benchmarks.pair import Pair
from skd_jax import structs

TOP_K = 25


@dataclasses.dataclass(frozen=True)
class Corrected:
  """A pair, and the rule under which it replaces at a known rate."""

  pair: Pair
  accept: str
  threshold: float


def all_accepted(pair: Pair) -> Corrected:
  """K = V: nothing is replaced."""
  return Corrected(pair, "top_k", float(pair.teacher.config.vocab_size))


def at_rates(
  pair: Pair,
  rates: Sequence[float],
  *,
  num_rows: int,
  prompt_size: int,
  new_tokens: int,
) -> list[Corrected]:
  """Tunes a pair until K = 25 replaces a part of the tokens.

  A student that is no part of its teacher (--shape=llama_1b, random weights)
  cannot be tuned; there, tokens are replaced blindly at the rate, by the rule
  `random`, whose cost is that of `top_k` up to one count over the vocabulary.

  Args:
    pair: to tune.
    rates: of replaced tokens, such as 0.02.
    num_rows: B of the rollouts that measure the rate.
    prompt_size: P.
    new_tokens: T.

  Returns:
    One tuned pair for each rate.
  """
  if not pair.every_third:
    return [Corrected(pair, "random", rate) for rate in rates]
  batch = pair_lib.make_prompts(pair, num_rows, prompt_size)
  write = contestants.make_skd(
    pair,
    contestants.never_stop(pair.teacher.config.vocab_size),
    num_draft_tokens=min(5, new_tokens),
    max_new_tokens=new_tokens,
  )
  keys = contestants.row_keys(batch)

  def measure(teacher_params):
    written = write(
      pair.student.params, teacher_params, batch, keys, jnp.float32(TOP_K)
    )
    return contestants.replacement_rate(written)

  regimes = []
  for rate in rates:
    tuned, found = pair_lib.tune_faintness(pair, rate, measure)
    print(f"Tuned a teacher to replace {rate:.0%}: it replaces {found:.1%}")
    regimes.append(Corrected(tuned, "top_k", float(TOP_K)))
  return regimes


def usual_regimes(
  pair: Pair, *, num_rows: int, prompt_size: int, new_tokens: int
) -> dict[str, Corrected]:
  """Returns the regimes of the targets: all accepted, 2 % and 10 % replaced.

  Args:
    pair: to tune.
    num_rows: as in at_rates, like the next two.
    prompt_size: P.
    new_tokens: T.
  """
  few, many = at_rates(
    pair,
    (0.02, 0.1),
    num_rows=num_rows,
    prompt_size=prompt_size,
    new_tokens=new_tokens,
  )
  return {
    "skd_all_accepted": all_accepted(pair),
    "skd_2pct": few,
    "skd_10pct": many,
  }


def fastest_rollouts(
  regimes: Mapping[str, Corrected],
  batch: structs.Batch,
  *,
  max_new_tokens: int,
  draft_lengths: Sequence[int],
) -> dict[str, tuple[Callable[[], structs.Rollout], dict[str, Any]]]:
  """Returns the rollout of each regime with the draft length that is fastest.

  Args:
    regimes: by name; their pairs differ in the weights of the teacher alone.
    batch: the prompts.
    max_new_tokens: T; nothing ends a response earlier.
    draft_lengths: G, to choose from.

  Returns:
    By name: (the call, columns of its row).
  """
  found = {}
  writers: dict[tuple[str, int], contestants.Write] = {}
  for what, regime in regimes.items():
    stop_table = contestants.never_stop(regime.pair.teacher.config.vocab_size)
    calls = {}
    for length in draft_lengths:
      # One program serves all pairs and thresholds of a rule.
      key = (regime.accept, length)
      first = key not in writers
      if first:
        writers[key] = contestants.make_skd(
          regime.pair,
          stop_table,
          num_draft_tokens=length,
          max_new_tokens=max_new_tokens,
          accept=regime.accept,
        )
      calls[length] = contestants.bind(
        writers[key], regime.pair, batch, regime.threshold
      )
      if first:
        jax.block_until_ready(calls[length]())
    found[what] = contestants.fastest(calls)
  return found
