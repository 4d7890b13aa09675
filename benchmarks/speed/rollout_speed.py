"""How fast rollouts are: one model, on-policy, SKD and the peers in one run.

  python -m benchmarks.speed.rollout_speed [--quick] [--teacher=HF_FOLDER]

Rows, by `what`:

  student, teacher   one model generates
  on_policy          the student generates, the teacher reads it once
  skd_all_accepted   SKD, K = V
  skd_2pct, _10pct   SKD, K = 25, with a teacher that replaces such a share
  skd_k25, skd_k1    SKD, K = 25 and 1, with the untrained student of every
                     third layer
  hf_student, _teacher, _assisted
                     transformers' generate, greedy, which is the cheapest for
                     it; assisted with the pair of skd_2pct, batch 1 only

`tokens_per_s` counts emitted tokens; prefill is part of the time. The draft
length G is the fastest of a few, each tried in the same run, and the shortest
of them for the untrained student.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags

from benchmarks import harness
from benchmarks.speed import batches as batches_lib
from benchmarks.speed import pair as pair_lib
from benchmarks.speed import peers, regimes, rollouts
from benchmarks.speed.pair import Pair
from benchmarks.speed.regimes import Regime
from benchmarks.speed.rollouts import Contestant
from skd_jax import structs

_TOKENS = flags.DEFINE_integer("tokens", None, "T; by default 64.")

PEERS = ("hf_student", "hf_teacher", "hf_assisted")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement."""

  # Rows, and how often each contestant is timed: a large batch is steadier.
  batches: tuple[tuple[int, int], ...] = ((1, 3), (4, 3), (16, 3), (64, 2))
  prompt_size: int = 32
  new_tokens: int = 64
  draft_lengths: tuple[int, ...] = (4, 8, 16)
  tune_rows: int = 16


QUICK = Settings(
  batches=((1, 3), (4, 3)),
  prompt_size=8,
  new_tokens=16,
  draft_lengths=(4, 8),
  tune_rows=4,
)


def make_rows(pair: Pair, settings: Settings) -> Iterator[harness.Row]:
  """Measures everything: yields one row for each `what` and batch."""
  tuned = rollouts.usual_regimes(
    pair,
    num_rows=settings.tune_rows,
    prompt_size=settings.prompt_size,
    new_tokens=settings.new_tokens,
  )
  missing = peers.missing(peers.TRANSFORMERS)
  others = {} if missing else _peers(pair, tuned["skd_2pct"].pair)
  for batch_size, repeats in settings.batches:
    batch = pair_lib.make_prompts(pair, batch_size, settings.prompt_size)
    field = _ours(pair, tuned, batch, settings)
    for what, call in others.items():
      if what != "hf_assisted" or batch_size == 1:
        call = functools.partial(call, batch.prompt, settings.new_tokens)
        field[what] = Contestant(call)
    print(f"batch {batch_size}: {', '.join(field)}", flush=True)
    yield from race(field, pair, batch_size, settings.new_tokens, repeats)
    if missing:
      absent = {"batch": batch_size, "tokens_per_s": None, "note": missing}
      yield from ({"what": what, **absent} for what in PEERS)


def _ours(
  pair: Pair,
  tuned: Mapping[str, Regime],
  batch: structs.Batch,
  settings: Settings,
) -> dict[str, Contestant]:
  """Returns the rollouts of this project."""
  new_tokens, lengths = settings.new_tokens, settings.draft_lengths
  field = {}
  for mode in ("student", "teacher", "on_policy"):
    function = rollouts.make_rollout(pair, mode, max_new_tokens=new_tokens)
    field[mode] = Contestant(rollouts.bind(function, pair, batch))
  harness.compile_all(contestant.call for contestant in field.values())
  fastest = functools.partial(
    rollouts.fastest, batch=batch, max_new_tokens=new_tokens
  )
  untrained = {
    "skd_k25": Regime(pair, regimes.TOP_K),
    "skd_k1": Regime(pair, 1),
  }
  # Most tokens of the untrained student are replaced: short drafts are best.
  return {
    **field,
    **fastest(tuned, draft_lengths=lengths),
    **fastest(untrained, draft_lengths=lengths[:1]),
  }


def _peers(pair: Pair, agreeing: Pair) -> dict[str, Callable[..., Any]]:
  """Returns what transformers offers: `(prompts, T) -> tokens`.

  Args:
    pair: the models.
    agreeing: the pair whose student drafts for its teacher.
  """
  student, teacher, agreeing_teacher = (
    peers.to_torch(model)
    for model in (pair.student, pair.teacher, agreeing.teacher)
  )
  calls = (
    functools.partial(peers.generate, student),
    functools.partial(peers.generate, teacher),
    functools.partial(peers.generate, agreeing_teacher, assistant=student),
  )
  return dict(zip(PEERS, calls, strict=True))


def race(
  field: Mapping[str, Contestant],
  pair: Pair,
  batch_size: int,
  new_tokens: int,
  repeats: int,
) -> list[harness.Row]:
  """Times all contestants of one batch, in turns."""
  timings = harness.interleaved(
    {what: contestant.call for what, contestant in field.items()}, repeats
  )
  num_tokens = batch_size * new_tokens
  return [
    {
      "what": what,
      "batch": batch_size,
      "tokens_per_s": num_tokens / min(timings[what]),
      "tokens_per_s_median": num_tokens / statistics.median(timings[what]),
      "pair": pair.name,
      **contestant.columns,
    }
    for what, contestant in field.items()
  ]


def rows_from_flags(quick: bool) -> Iterator[harness.Row]:
  """Runs what the command line asks for."""
  pair = pair_lib.from_flags(quick)
  print(pair.name)
  settings = QUICK if quick else Settings()
  if asked := batches_lib.from_flags():
    batches = tuple((size, 3) for size in asked)
    # A teacher is tuned with as many rows as are timed: one program less.
    settings = dataclasses.replace(
      settings, batches=batches, tune_rows=max(size for size, _ in batches)
    )
  if _TOKENS.value:
    settings = dataclasses.replace(settings, new_tokens=_TOKENS.value)
  return make_rows(pair, settings)


if __name__ == "__main__":
  harness.run(
    "rollout_speed",
    rows_from_flags,
    program="speed.rollout_speed",
    result="speed/{device}/rollout.json",
  )
