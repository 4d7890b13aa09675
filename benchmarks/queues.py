"""The refill queue against batch after batch, on lengths that vary by 8x."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contestants, harness
from benchmarks import pair as pair_lib
from benchmarks.corrected import Corrected
from skd_jax import structs

_PROMPTS_PER_ROW = 4
_SPREAD = 8


def varying_limits(num_rows: int, max_new_tokens: int) -> jax.Array:
  """Returns int32 [Q] lengths from T / 8 to T, log-uniform, in random order.

  Args:
    num_rows: Q.
    max_new_tokens: T, at least 8.
  """
  limits = np.geomspace(max_new_tokens / _SPREAD, max_new_tokens, num_rows)
  limits = np.random.default_rng(0).permutation(np.round(limits))
  return jnp.asarray(limits, jnp.int32)


def make_rows(
  regime: Corrected,
  *,
  batch_size: int,
  prompt_size: int,
  max_new_tokens: int,
  num_draft_tokens: int,
  repeats: int,
) -> list[harness.Row]:
  """Times a queue of prompts with and without refilling finished rows.

  Args:
    regime: the pair and its rule.
    batch_size: rows that are decoded at once.
    prompt_size: P.
    max_new_tokens: T.
    num_draft_tokens: G.
    repeats: of the clock.

  Returns:
    The rows queue_on and queue_off; `ratio` is the speed over queue_off.
  """
  pair = regime.pair
  stop_table = contestants.never_stop(pair.teacher.config.vocab_size)
  num_rows = _PROMPTS_PER_ROW * batch_size
  queue = dataclasses.replace(
    pair_lib.make_prompts(pair, num_rows, prompt_size),
    max_new_tokens=varying_limits(num_rows, max_new_tokens),
  )

  def make(size: int | None) -> contestants.Write:
    return contestants.make_skd(
      pair,
      stop_table,
      num_draft_tokens=num_draft_tokens,
      max_new_tokens=max_new_tokens,
      accept=regime.accept,
      batch_size=size,
    )

  whole = contestants.bind(make(batch_size), pair, queue, regime.threshold)
  plain = make(None)
  parts = [
    contestants.bind(
      plain,
      pair,
      jax.tree.map(lambda x, i=i: x[i : i + batch_size], queue),
      regime.threshold,
    )
    for i in range(0, num_rows, batch_size)
  ]
  calls: dict[str, Callable[[], list[structs.Rollout]]] = {
    "queue_on": lambda: [whole()],
    "queue_off": lambda: [part() for part in parts],
  }
  lengths = {
    what: np.concatenate([np.asarray(part.length) for part in call()])
    for what, call in calls.items()
  }
  # Compiled by now.
  timings = harness.interleaved(calls, repeats, warm_up=False)
  tokens = {what: float(found.sum()) for what, found in lengths.items()}
  speed = {what: tokens[what] / timings[what].best for what in calls}
  return [
    {
      "what": what,
      "batch": batch_size,
      "tokens_per_s": speed[what],
      "tokens_per_s_median": tokens[what] / timings[what].median,
      "ratio": speed[what] / speed["queue_off"],
      "num_draft_tokens": num_draft_tokens,
      "num_prompts": len(lengths[what]),
      "shortest": int(lengths[what].min()),
      "mean_length": float(lengths[what].mean()),
      "longest": int(lengths[what].max()),
      "pair": pair.name,
    }
    for what in calls
  ]
