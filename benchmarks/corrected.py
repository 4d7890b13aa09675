"""Pairs whose teacher replaces a wanted part of the student's tokens."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from benchmarks import contestants
from benchmarks import pair as pair_lib
from benchmarks.pair import Pair

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
