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
from collections.abc import Mapping

from benchmarks import harness
from benchmarks.speed import pair as pair_lib
from benchmarks.speed import peers, regimes, rollouts
from benchmarks.speed.pair import Pair
from benchmarks.speed.regimes import Regime
from benchmarks.speed.rollouts import Contestant
from skd_jax import structs

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


def make_rows(pair: Pair, settings: Settings) -> list[harness.Row]:
  """Measures everything: one row for each `what` and batch."""
  tuned = rollouts.usual_regimes(
    pair,
    num_rows=settings.tune_rows,
    prompt_size=settings.prompt_size,
    new_tokens=settings.new_tokens,
  )
  torch_models = _torch_models(pair, tuned["skd_2pct"].pair)
  rows: list[harness.Row] = []
  for batch_size, repeats in settings.batches:
    batch = pair_lib.make_prompts(pair, batch_size, settings.prompt_size)
    field = ours(pair, tuned, batch, settings)
    field |= _peers(torch_models, batch, settings.new_tokens)
    rows += race(field, pair, batch_size, settings.new_tokens, repeats)
  return rows + _missing_peers(settings)


def ours(
  pair: Pair,
  tuned: Mapping[str, Regime],
  batch: structs.Batch,
  settings: Settings,
) -> dict[str, Contestant]:
  """Returns the rollouts of this project."""
  new_tokens = settings.new_tokens
  alone = functools.partial(
    rollouts.make_alone, pair, max_new_tokens=new_tokens
  )
  simple = {
    "student": alone(source=structs.STUDENT),
    "teacher": alone(source=structs.TEACHER),
    "on_policy": rollouts.make_on_policy(pair, max_new_tokens=new_tokens),
  }
  untrained = {
    "skd_k25": Regime(pair, "top_k", float(regimes.TOP_K)),
    "skd_k1": Regime(pair, "top_k", 1.0),
  }
  fastest = functools.partial(
    rollouts.fastest, batch=batch, max_new_tokens=new_tokens
  )
  return {
    **{
      what: Contestant(rollouts.bind(function, pair, batch))
      for what, function in simple.items()
    },
    **fastest(tuned, draft_lengths=settings.draft_lengths),
    # Most of its tokens are replaced.
    **fastest(untrained, draft_lengths=settings.draft_lengths[:1]),
  }


def _torch_models(pair: Pair, agreeing: Pair) -> tuple[object, ...]:
  """Returns student, teacher, and a teacher that agrees with the student."""
  if peers.missing(peers.TRANSFORMERS):
    return ()
  loaded = (pair.student, pair.teacher, agreeing.teacher)
  return tuple(peers.to_torch(model) for model in loaded)


def _peers(
  torch_models: tuple[object, ...], batch: structs.Batch, new_tokens: int
) -> dict[str, Contestant]:
  if not torch_models:
    return {}
  student, teacher, agreeing = torch_models
  generate = functools.partial(
    peers.generate, prompts=batch.prompt, max_new_tokens=new_tokens
  )
  field = {
    "hf_student": Contestant(functools.partial(generate, student)),
    "hf_teacher": Contestant(functools.partial(generate, teacher)),
  }
  if batch.prompt.shape[0] == 1:
    field["hf_assisted"] = Contestant(
      functools.partial(generate, agreeing, assistant=student),
      {"note": "the pair of skd_2pct"},
    )
  return field


def _missing_peers(settings: Settings) -> list[harness.Row]:
  note = peers.missing(peers.TRANSFORMERS)
  if not note:
    return []
  return [
    {"what": what, "batch": batch, "tokens_per_s": None, "note": note}
    for what in PEERS
    for batch, _ in settings.batches
  ]


def race(
  field: Mapping[str, Contestant],
  pair: Pair,
  batch_size: int,
  new_tokens: int,
  repeats: int,
) -> list[harness.Row]:
  """Times all contestants of one batch, in turns."""
  print(f"batch {batch_size}: {', '.join(field)}", flush=True)
  timings = harness.interleaved(
    {what: contestant.call for what, contestant in field.items()}, repeats
  )
  num_tokens = batch_size * new_tokens
  return [
    {
      "what": what,
      "batch": batch_size,
      "tokens_per_s": num_tokens / timings[what].best,
      "tokens_per_s_median": num_tokens / timings[what].median,
      "pair": pair.name,
      **contestant.columns,
    }
    for what, contestant in field.items()
  ]


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for."""
  pair = pair_lib.from_flags(quick)
  print(pair.name)
  return make_rows(pair, QUICK if quick else Settings())


if __name__ == "__main__":
  harness.run(
    "rollout_speed",
    rows_from_flags,
    program="speed.rollout_speed",
    result="speed/{device}/rollout.json",
  )
