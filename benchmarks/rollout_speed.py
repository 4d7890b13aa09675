"""How fast rollouts are: alone, on-policy, SKD, and the peers, in one run.

  python -m benchmarks.rollout_speed [--quick] [--teacher=HF_FOLDER]

Rows, by `what`:

  student, teacher   one model writes
  on_policy          the student writes, the teacher reads it once
  skd_all_accepted   SKD, K = V
  skd_2pct, _10pct   SKD, K = 25, a teacher that replaces such a part
  skd_k25, skd_k1    SKD, K = 25 and 1, the student of every third layer as it
                     is, without any training
  hf_student, _teacher, _assisted
                     transformers' generate, greedy (the cheapest for it);
                     assisted with the pair that agrees most, batch 1 alone
  queue_on, _off     four times as many prompts as rows, lengths that vary by
                     8x; finished rows refilled from the queue, or batch after
                     batch

`tokens_per_s` counts emitted tokens, prefill included in the time. The draft
length G is the fastest of a few, each tried in the same run; the shortest of
them for the untrained student.
`fraction_of_limit` compares with limits.py: reading the weights and the filled
cache once a pass, and the multiplications, at the measured rates.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks import contestants, corrected, harness, limits, peers, queues
from benchmarks import pair as pair_lib
from benchmarks.corrected import Corrected
from benchmarks.pair import Pair
from skd_jax import structs


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement."""

  # Rows, and how often each contestant is timed: a large batch is steadier.
  batches: tuple[tuple[int, int], ...] = ((1, 3), (4, 3), (16, 3), (64, 2))
  prompt_size: int = 32
  new_tokens: int = 64
  draft_lengths: tuple[int, ...] = (4, 8, 16)
  tune_rows: int = 16
  queue_batch: int = 16
  queue_repeats: int = 3


QUICK = Settings(
  batches=((1, 3), (4, 3)),
  prompt_size=8,
  new_tokens=16,
  draft_lengths=(4, 8),
  tune_rows=4,
  queue_batch=4,
)


@dataclasses.dataclass(frozen=True)
class Contestant:
  """What the clock calls, and what its limit is computed from."""

  call: Callable[[], Any]
  columns: dict[str, Any]
  kind: str  # student, teacher, on_policy, skd, assisted


def make_rows(
  pair: Pair, settings: Settings, machine: limits.Machine
) -> list[harness.Row]:
  """Measures everything, batch by batch.

  Args:
    pair: the models.
    settings: sizes.
    machine: what the limits are computed from.

  Returns:
    One row for each `what` and batch.
  """
  regimes = corrected.usual_regimes(
    pair,
    num_rows=settings.tune_rows,
    prompt_size=settings.prompt_size,
    new_tokens=settings.new_tokens,
  )
  untrained = {
    "skd_k25": Corrected(pair, "top_k", float(corrected.TOP_K)),
    "skd_k1": Corrected(pair, "top_k", 1.0),
  }
  others = peer_calls(pair, regimes["skd_2pct"].pair, settings.new_tokens)
  rows: list[harness.Row] = []
  for batch_size, repeats in settings.batches:
    batch = pair_lib.make_prompts(pair, batch_size, settings.prompt_size)
    field = ours(pair, regimes, untrained, batch, settings) | {
      what: Contestant(functools.partial(call, batch.prompt), columns, kind)
      for what, (call, columns, kind) in others.items()
      if what != "hf_assisted" or batch_size == 1
    }
    rows += race(field, pair, batch, settings, machine, repeats)
  rows += missing_peers(settings)
  return rows + queues.make_rows(
    regimes["skd_2pct"],
    batch_size=settings.queue_batch,
    prompt_size=settings.prompt_size,
    max_new_tokens=settings.new_tokens,
    num_draft_tokens=settings.draft_lengths[0],
    repeats=settings.queue_repeats,
  )


def ours(
  pair: Pair,
  regimes: dict[str, Corrected],
  untrained: dict[str, Corrected],
  batch: structs.Batch,
  settings: Settings,
) -> dict[str, Contestant]:
  """Returns the rollouts of this project.

  Each of `regimes` has its best G; where the student is `untrained`, most is
  replaced, and the shortest is.
  """
  stop_table = contestants.never_stop(pair.teacher.config.vocab_size)
  new_tokens = settings.new_tokens
  alone = functools.partial(
    contestants.make_alone, pair, stop_table, max_new_tokens=new_tokens
  )
  simple = {
    "student": alone(source=structs.STUDENT),
    "teacher": alone(source=structs.TEACHER),
    "on_policy": contestants.make_on_policy(
      pair, stop_table, max_new_tokens=new_tokens
    ),
  }
  field = {
    what: Contestant(contestants.bind(write, pair, batch, 0.0), {}, what)
    for what, write in simple.items()
  }
  fastest = functools.partial(
    corrected.fastest_rollouts, batch=batch, max_new_tokens=new_tokens
  )
  rollouts = fastest(regimes, draft_lengths=settings.draft_lengths) | fastest(
    untrained, draft_lengths=settings.draft_lengths[:1]
  )
  return field | {
    what: Contestant(call, columns, kind="skd")
    for what, (call, columns) in rollouts.items()
  }


def peer_calls(
  pair: Pair, agreeing: Pair, new_tokens: int
) -> dict[str, tuple[Callable[[jax.Array], Any], dict[str, Any], str]]:
  """Returns what transformers offers: `prompts -> tokens`, columns and kind."""
  if not peers.has_torch():
    return {}
  generate = functools.partial(peers.generate, max_new_tokens=new_tokens)
  student = peers.to_torch(pair.student)
  teacher = peers.to_torch(pair.teacher)
  agreeing_teacher = (
    teacher if agreeing is pair else peers.to_torch(agreeing.teacher)
  )
  return {
    "hf_student": (functools.partial(generate, student), {}, "student"),
    "hf_teacher": (functools.partial(generate, teacher), {}, "teacher"),
    "hf_assisted": (
      functools.partial(generate, agreeing_teacher, assistant=student),
      {"note": "the pair of skd_2pct"},
      "assisted",
    ),
  }


def missing_peers(settings: Settings) -> list[harness.Row]:
  """Returns the rows of the peers that could not run, with the reason."""
  if peers.has_torch():
    return []
  return [
    {
      "what": what,
      "batch": batch,
      "tokens_per_s": None,
      "note": f"torch {harness.NOT_INSTALLED}",
    }
    for what in ("hf_student", "hf_teacher", "hf_assisted")
    for batch, _ in settings.batches
  ]


def race(
  field: dict[str, Contestant],
  pair: Pair,
  batch: structs.Batch,
  settings: Settings,
  machine: limits.Machine,
  repeats: int,
) -> list[harness.Row]:
  """Times all contestants of one batch, in turns."""
  print(f"batch {batch.prompt.shape[0]}: {', '.join(field)}", flush=True)
  for contestant in field.values():
    if contestant.kind != "skd":  # Those are warm.
      jax.block_until_ready(contestant.call())
  timings = harness.interleaved(
    {what: contestant.call for what, contestant in field.items()},
    repeats,
    warm_up=False,
  )
  num_tokens = batch.prompt.shape[0] * settings.new_tokens
  rows = []
  for what, contestant in field.items():
    limit = limit_seconds(pair, batch, settings, machine, contestant)
    best = timings[what].best
    rows.append(
      {
        "what": what,
        "batch": batch.prompt.shape[0],
        "tokens_per_s": num_tokens / best,
        "tokens_per_s_median": num_tokens / timings[what].median,
        "fraction_of_limit": limit and limit / best,
        "pair": pair.name,
      }
      | contestant.columns
    )
  return rows


def limit_seconds(
  pair: Pair,
  batch: structs.Batch,
  settings: Settings,
  machine: limits.Machine,
  contestant: Contestant,
) -> float | None:
  """Returns the least seconds of a rollout; None if rounds are unknown."""
  sizes = limits.Sizes(*batch.prompt.shape, settings.new_tokens, pair.itemsize)
  student, teacher = pair.student.config, pair.teacher.config
  if contestant.kind == "student":
    return limits.write_seconds(machine, student, sizes)
  if contestant.kind == "teacher":
    return limits.write_seconds(machine, teacher, sizes)
  if contestant.kind == "on_policy":
    return limits.on_policy_seconds(machine, student, teacher, sizes)
  if contestant.kind == "skd":
    return limits.skd_seconds(
      machine,
      student,
      teacher,
      sizes,
      num_draft_tokens=contestant.columns["num_draft_tokens"],
      rounds=contestant.columns["rounds"],
    )
  return None


def rows_from_flags(quick: bool) -> Sequence[harness.Row]:
  """Runs what the command line asks for."""
  pair = pair_lib.from_flags(quick)
  machine = limits.measure(pair.teacher.params["embedding"].dtype, quick=quick)
  print(
    f"{pair.name}; memory {machine.bytes_per_s / 1e9:.1f} GB/s, "
    f"products {machine.flops_per_s / 1e9:.0f} GFLOP/s"
  )
  return make_rows(pair, QUICK if quick else Settings(), machine)


if __name__ == "__main__":
  harness.run("rollout_speed", rows_from_flags)
