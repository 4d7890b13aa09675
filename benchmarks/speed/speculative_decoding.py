"""What drafters bring: acceptance, passes saved, and the speed-up by batch.

  python -m benchmarks.speed.speculative_decoding [--quick] \\
    [--teacher=HF_FOLDER [--student=HF_FOLDER]]

All decode greedily the tokens of the teacher. Rows, by `what`:

  plain           the teacher alone
  student         the student of --student, or of every third layer, untrained
  student_80pct   the same student, of a teacher that accepts 80 % of its
                  tokens; not with --student
  early_exit      the first layers of the teacher, as many as the student has
  prompt_lookup   what followed an earlier occurrence of the last tokens
  X_adaptive      the same with drafts as long as pays: `draft_cost` is measured

  acceptance         of the drafted tokens that were judged
  by_position        the same by the place in the draft
  tokens_per_pass    that a pass of the teacher emits in a row
  speedup            over plain, in turns
  predicted_speedup  tokens_per_pass over the cost of a round, in passes of the
                     teacher alone: G passes of the drafter and one of the
                     teacher over G + 1 tokens, each timed by itself. Rows that
                     wait for the slowest, and rounds without a draft, are left
                     out.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import harness
from benchmarks.speed import pair as pair_lib
from benchmarks.speed import regimes
from benchmarks.speed.pair import Pair
from skd_jax import models, structs
from skd_jax.decoding import (
  draft_stats,
  rollout,
  sampling,
  speculative,
  stopping,
)
from skd_jax.decoding.drafters import Drafter, ModelDrafter, PromptLookup
from skd_jax.decoding.policy import Policy
from skd_jax.models import loading
from skd_jax.models.loading import LoadedModel

_STUDENT = flags.DEFINE_string(
  "student", None, "A Hugging Face folder, such as WORKDIR/export."
)
_REJECTED = 0.2  # Of the student's tokens, by the teacher of student_80pct.
_NUM_PASSES = 8  # In the loop in which a pass is timed.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement."""

  batches: tuple[int, ...] = (1, 4, 16)
  repeats: int = 3
  prompt_size: int = 32
  new_tokens: int = 64
  num_draft_tokens: int = 4
  tune_rows: int = 4


QUICK = Settings(
  batches=(1, 4), repeats=2, prompt_size=8, new_tokens=16, tune_rows=2
)


@dataclasses.dataclass(frozen=True)
class Contestant:
  """A drafter and its teacher; plain decoding has no drafter."""

  teacher: Policy
  drafter: Drafter | None = None


def policy(model: LoadedModel) -> Policy:
  """Returns a model that draws greedily."""
  return Policy(model.params, model.model, sampling.GREEDY)


class Decoder:
  """Decodes a batch with a drafter, or with the teacher alone."""

  def __init__(self, vocab_size: int, settings: Settings) -> None:
    stop_table = stopping.make_stop_table(vocab_size, ())

    @jax.jit
    def plain(teacher, batch):
      return rollout.decode(
        teacher,
        batch,
        sampling.row_keys(0, 0, batch.index),
        stop_table,
        max_new_tokens=settings.new_tokens,
        source=structs.TEACHER,
      )

    @jax.jit
    def speculate(teacher, drafter, batch, draft_cost):
      return speculative.speculative_decode(
        drafter,
        teacher,
        batch,
        sampling.row_keys(0, 0, batch.index),
        stop_table,
        num_draft_tokens=settings.num_draft_tokens,
        max_new_tokens=settings.new_tokens,
        draft_cost=draft_cost,
      )

    self._plain, self._speculate = plain, speculate

  def bind(
    self, contestant: Contestant, batch: structs.Batch, draft_cost: float = 0.0
  ) -> Callable[[], structs.Rollout]:
    """Binds all arguments."""
    teacher, drafter = contestant.teacher, contestant.drafter
    if drafter is None:
      return functools.partial(self._plain, teacher, batch)
    cost = jnp.float32(draft_cost)
    return functools.partial(self._speculate, teacher, drafter, batch, cost)


def make_contestants(
  pair: Pair, measure: Callable[[Contestant], float] | None
) -> dict[str, Contestant]:
  """Returns the contestants, by `what`.

  Args:
    pair: the models.
    measure: returns the share of the student's tokens that its teacher rejects,
      by which student_80pct is tuned; None: without it.
  """
  teacher, student = policy(pair.teacher), ModelDrafter(policy(pair.student))
  first_layers = models.prune_layers(
    pair.teacher, range(pair.student.config.num_layers)
  )
  found = {
    "plain": Contestant(teacher),
    "student": Contestant(teacher, student),
    "early_exit": Contestant(teacher, ModelDrafter(policy(first_layers))),
    "prompt_lookup": Contestant(teacher, PromptLookup()),
  }
  if measure:
    tuned = regimes.tune(
      pair,
      _REJECTED,
      lambda pair: measure(Contestant(policy(pair.teacher), student)),
    )
    found["student_80pct"] = Contestant(policy(tuned.pair.teacher), student)
  return found


def make_rows(
  pair: Pair, settings: Settings, *, tunes: bool = True
) -> list[harness.Row]:
  """Measures everything: one row for each `what` and batch.

  Args:
    pair: the models.
    settings: sizes.
    tunes: whether student_80pct takes part, for which the student must have
      every third layer of the teacher.
  """
  decoder = Decoder(pair.teacher.config.vocab_size, settings)
  tune_batch = pair_lib.make_prompts(
    pair, settings.tune_rows, settings.prompt_size
  )

  def rejected(contestant: Contestant) -> float:
    drafted = jax.device_get(decoder.bind(contestant, tune_batch)())
    return 1 - draft_stats.count(drafted, settings.num_draft_tokens).acceptance

  contestants = make_contestants(pair, rejected if tunes else None)
  return [
    row
    for batch_size in settings.batches
    for row in _race(decoder, contestants, pair, batch_size, settings)
  ]


def _race(
  decoder: Decoder,
  contestants: dict[str, Contestant],
  pair: Pair,
  batch_size: int,
  settings: Settings,
) -> list[harness.Row]:
  """Times all contestants of one batch, in turns."""
  print(f"batch {batch_size}: {', '.join(contestants)}", flush=True)
  batch = pair_lib.make_prompts(pair, batch_size, settings.prompt_size)
  costs = _draft_costs(contestants, batch, settings)
  calls = {what: decoder.bind(c, batch) for what, c in contestants.items()}
  for what, cost in costs.items():
    calls[f"{what}_adaptive"] = decoder.bind(contestants[what], batch, cost)
  timed = harness.interleaved(calls, settings.repeats)
  fastest = {what: min(times) for what, times in timed.items()}
  rows = []
  for what, call in calls.items():
    row: harness.Row = {
      "what": what,
      "batch": batch_size,
      "tokens_per_s": batch_size * settings.new_tokens / fastest[what],
      "speedup": fastest["plain"] / fastest[what],
      "pair": pair.name,
    }
    if what != "plain":
      cost = costs[what.removesuffix("_adaptive")]
      row |= _drafted(call(), cost, settings.num_draft_tokens)
    if what.endswith("_adaptive"):
      row["predicted_speedup"] = None  # It is that of drafts of one length.
    rows.append(row)
  return rows


def _draft_costs(
  contestants: dict[str, Contestant], batch: structs.Batch, settings: Settings
) -> dict[str, float]:
  """Times passes in turns; returns the `draft_cost` of each drafter."""
  length = settings.num_draft_tokens
  teacher = contestants["plain"].teacher
  drafters = {w: c.drafter for w, c in contestants.items() if c.drafter}
  passes = {
    "alone": _passes(teacher, batch, 1),
    "verify": _passes(teacher, batch, length + 1),
  }
  passes |= {
    what: _passes(drafter.policy, batch, 1)
    for what, drafter in drafters.items()
    if drafter.policy
  }
  timed = harness.interleaved(passes, settings.repeats)
  seconds = {what: min(times) for what, times in timed.items()}
  return {
    what: speculative.measured_draft_cost(
      seconds["alone"],
      length * seconds.get(what, 0.0) + seconds["verify"],
      length,
    )
    for what in drafters
  }


def _drafted(
  drafted: structs.Rollout, draft_cost: float, num_draft_tokens: int
) -> harness.Row:
  """Returns the columns of a row that has a drafter."""
  stats = draft_stats.count(jax.device_get(drafted), num_draft_tokens)
  round_cost = 1 + draft_cost * num_draft_tokens
  return {
    "num_draft_tokens": num_draft_tokens,
    "acceptance": stats.acceptance,
    "by_position": [round(x, 2) for x in stats.acceptance_by_position],
    "tokens_per_pass": stats.tokens_per_pass,
    "draft_cost": draft_cost,
    "predicted_speedup": stats.tokens_per_pass / round_cost,
  }


def _passes(
  policy: Policy, batch: structs.Batch, num_tokens: int
) -> Callable[[], Any]:
  """Returns what runs passes of a model over n tokens a row, in a loop."""
  batch_size, prompt_size = batch.prompt.shape

  @jax.jit
  def run(policy):
    model = policy.model

    def one_pass(i, carry):
      tokens, cache = carry
      slots = prompt_size + i * num_tokens + jnp.arange(num_tokens)
      hidden, cache = model.apply(
        policy.params, tokens, jnp.broadcast_to(slots, tokens.shape), cache
      )
      best = jnp.argmax(policy.logits(hidden), axis=-1)
      return best.astype(jnp.int32), cache

    size = prompt_size + _NUM_PASSES * num_tokens
    start = (
      jnp.zeros((batch_size, num_tokens), jnp.int32),
      model.init_cache(batch_size, size),
    )
    return jax.lax.fori_loop(0, _NUM_PASSES, one_pass, start)[0]

  return functools.partial(run, policy)


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for."""
  pair = pair_lib.from_flags(quick)
  if _STUDENT.value:
    student = loading.load_model(
      _STUDENT.value, vocab_size=pair.teacher.config.vocab_size
    )
    pair = dataclasses.replace(pair, student=student)
  print(pair.name)
  settings = QUICK if quick else Settings()
  return make_rows(pair, settings, tunes=not _STUDENT.value)


if __name__ == "__main__":
  harness.run(
    "speculative_decoding",
    rows_from_flags,
    program="speed.speculative_decoding",
    result="speed/{device}/speculative_decoding.json",
  )
