"""What drafters bring: acceptance, passes saved, and the speed-up by batch.

  python -m benchmarks.speed.speculative_decoding [--quick] \\
    [--teacher=HF_FOLDER [--student=[NAME=]HF_FOLDER ...] [--sources=FILE]] \\
    [--draft_tokens=8] [--batches=1,4]

All generate the greedy tokens of the teacher: with --sources the answers to its
lines, up to EOS, else a fixed number of tokens. Rows, by `what`:

  plain           the teacher alone
  student         the student of --student (or its NAME; may be repeated), or of
                  every third layer, untrained
  student_80pct   the same student, of a teacher that accepts 80 % of its
                  tokens; not with --student
  early_exit      the first layers of the teacher, as many as the first student
                  has, at most all but one
  prompt_lookup   what followed an earlier occurrence of the last tokens
  X_adaptive      the same with drafts as long as pays, or none: costs and
                  acceptance are those that were measured before
  hf_plain, hf_assisted, hf_assisted_same, hf_prompt_lookup
                  transformers: the teacher alone; with the first student as
                  assistant, drafts as its defaults say or as long as ours; and
                  its prompt lookup. It drafts at batch 1 only

  acceptance         of the drafted tokens that were judged
  by_position        the same by the place in the draft
  tokens_per_pass    that a pass of the teacher emits in a row
  draft_cost         of one drafted token, in passes of the teacher alone
  round_cost         how much longer a round takes besides, in such passes: to
                     judge a draft, to begin one with two tokens, and to read
                     the weights of two models in turns
  speedup            over plain, in turns; of hf_ over hf_plain
  predicted_speedup  what the rounds that were needed and the measured costs
                     give. Rows that wait for the slowest are counted; a round
                     without a draft is taken to last as long as the others
  tree_bound         the same with the student's second choices in the draft,
                     see draft_trees.py
  same_tokens        share of the answers that are those of plain
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import harness
from benchmarks.speed import batches as batches_lib
from benchmarks.speed import draft_prompts, draft_trees, peers
from benchmarks.speed import pair as pair_lib
from benchmarks.speed.draft_contestants import (
  TUNED,
  Contestant,
  Decoder,
  make_contestants,
  read_students,
)
from benchmarks.speed.draft_costs import PassCosts, Passes, make_passes
from benchmarks.speed.draft_prompts import Prompts
from benchmarks.speed.pair import Pair
from skd_jax import structs
from skd_jax.decoding import draft_lengths, draft_stats
from skd_jax.decoding.drafters import Drafter
from skd_jax.models.loading import LoadedModel

_STUDENTS = flags.DEFINE_multi_string(
  "student",
  [],
  "A Hugging Face folder, such as WORKDIR/export, or NAME=FOLDER.",
)
_SOURCES = flags.DEFINE_string(
  "sources", None, "A text file, plain or .gz, with one source per line."
)
_TEMPLATE = flags.DEFINE_string(
  "template", "{source}", "The user's turn, as in config.data.prompt."
)
_NUM_PROMPTS = flags.DEFINE_integer(
  "num_prompts", None, "How many prompts; by default 16.", lower_bound=1
)
_DRAFT_TOKENS = flags.DEFINE_integer(
  "draft_tokens", None, "G; by default 4.", lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
  "repeats", None, "How often each is timed; by default 5.", lower_bound=1
)

PEERS = ("hf_plain", "hf_assisted", "hf_assisted_same", "hf_prompt_lookup")

Answers = list[list[int]]


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the measurement; `prompt_size` is not that of --sources."""

  batches: tuple[int, ...] = (1, 4, 16)
  repeats: int = 5
  num_prompts: int = 16
  prompt_size: int = 32
  new_tokens: int = 64
  num_draft_tokens: int = 4
  tune_rows: int = 4


QUICK = Settings(
  batches=(1,),
  repeats=2,
  num_prompts=2,
  prompt_size=8,
  new_tokens=16,
  tune_rows=1,
)


def make_rows(
  pair: Pair,
  settings: Settings,
  prompts: Prompts | None = None,
  students: Mapping[str, LoadedModel] | None = None,
) -> list[harness.Row]:
  """Measures everything: one row for each `what` and batch.

  Args:
    pair: the models.
    settings: sizes.
    prompts: by default text without an end.
    students: that draft, by name. None: the pair's, and student_80pct takes
      part, for which it must have every third layer of the teacher.
  """
  prompts = prompts or draft_prompts.endless(
    pair, max(settings.num_prompts, *settings.batches), settings.prompt_size
  )
  decoder = Decoder(
    pair.teacher.config.vocab_size,
    prompts.eos_ids,
    new_tokens=settings.new_tokens,
    num_draft_tokens=settings.num_draft_tokens,
  )
  few = dataclasses.replace(prompts, rows=prompts.rows[: settings.tune_rows])
  tune_batches = few.batches(len(few.rows), settings.new_tokens)

  def rejected(contestant: Contestant) -> float:
    drafted = decoder.bind(contestant, tune_batches)()
    return 1 - _count(drafted, settings).acceptance

  contestants = make_contestants(
    pair,
    students or {"student": pair.student},
    None if students else rejected,
  )
  missing = peers.missing(peers.TRANSFORMERS)
  others = {} if missing else _make_peers(pair, prompts, settings)
  rows: list[harness.Row] = []
  for batch_size in settings.batches:
    ours = _ours(decoder, contestants, prompts, batch_size, settings)
    others_here = {
      what: functools.partial(call, batch_size)
      for what, call in others.items()
      if batch_size == 1 or what == PEERS[0]
    }
    names = ", ".join([*ours.calls, *others_here])
    print(f"batch {batch_size}: {names}", flush=True)
    rows += _race(ours, others_here, pair, batch_size, settings)
    if missing:
      print(f"NOT RUN: {', '.join(PEERS)}: {missing}", flush=True)
      absent = {"batch": batch_size, "tokens_per_s": None, "note": missing}
      rows += [{"what": what, **absent} for what in PEERS]
  return rows


@dataclasses.dataclass(frozen=True)
class _Ours:
  """calls: what decodes the prompts, by `what`; the rest by drafter."""

  calls: Mapping[str, Callable[[], Any]]
  passes: Passes
  drafters: Mapping[str, Drafter]
  batches: Sequence[structs.Batch]


def _ours(
  decoder: Decoder,
  contestants: Mapping[str, Contestant],
  prompts: Prompts,
  batch_size: int,
  settings: Settings,
) -> _Ours:
  """Returns what takes part at one batch size, once costs are known."""
  batches = prompts.batches(batch_size, settings.new_tokens)
  calls: dict[str, Callable[[], Any]] = {
    what: decoder.bind(contestant, batches)
    for what, contestant in contestants.items()
  }
  drafters = {w: c.drafter for w, c in contestants.items() if c.drafter}
  longest = [int(np.max(rollout.length)) for rollout in calls["plain"]()]
  first = int(np.mean([np.mean(batch.prompt_length) for batch in batches]))
  passes = make_passes(
    contestants["plain"].teacher,
    {what: drafter.policy for what, drafter in drafters.items()},
    batch=batches[0],
    cache_size=prompts.size + settings.new_tokens + settings.num_draft_tokens,
    slots=(first, first + int(np.mean(longest)) - 1),
    num_draft_tokens=settings.num_draft_tokens,
  )
  costs = passes.costs(harness.interleaved(passes.calls, settings.repeats))
  for what in drafters:
    seen = _count(calls[what](), settings)
    calls[f"{what}_adaptive"] = decoder.bind(
      contestants[what],
      batches,
      {
        **draft_lengths.FULL_DRAFTS,
        **costs[what].adaptation,
        **seen.expectations,
      },
    )
  return _Ours(calls, passes, drafters, batches)


def _make_peers(
  pair: Pair, prompts: Prompts, settings: Settings
) -> dict[str, Callable[[int], Answers]]:
  """Returns what transformers offers: `batch size -> answers`, by `what`."""
  teacher, student = map(peers.to_torch, (pair.teacher, pair.student))
  length = settings.num_draft_tokens

  def answers(batch_size: int, **options: Any) -> Answers:
    return peers.generate_answers(
      teacher,
      prompts.in_batches(batch_size),
      settings.new_tokens,
      prompts.eos_ids,
      **options,
    )

  options = (
    {},
    {"assistant_model": student, "draft": peers.DEFAULT_DRAFTS},
    {"assistant_model": student, "draft": peers.constant_drafts(length)},
    {"prompt_lookup_num_tokens": length},
  )
  return {
    what: functools.partial(answers, **chosen)
    for what, chosen in zip(PEERS, options, strict=True)
  }


def _race(
  ours: _Ours,
  others: Mapping[str, Callable[[], Any]],
  pair: Pair,
  batch_size: int,
  settings: Settings,
) -> list[harness.Row]:
  """Times all contestants at one batch size, and the passes, in turns."""
  results = {w: call() for w, call in {**ours.calls, **others}.items()}
  # The passes are short: first, or after torch, they would find cold caches.
  timed = harness.interleaved(
    {**ours.calls, **ours.passes.calls, **others}, settings.repeats
  )
  seconds = {what: min(times) for what, times in timed.items()}
  costs = ours.passes.costs(timed)
  plain = _answers(results["plain"])
  rows = []
  for what, result in results.items():
    answers = _answers(result)
    alone = PEERS[0] if what in PEERS else "plain"
    same = [a == b for a, b in zip(answers, plain, strict=True)]
    row = {
      "what": what,
      "batch": batch_size,
      "tokens_per_s": sum(map(len, answers)) / seconds[what],
      "speedup": seconds[alone] / seconds[what],
      # The tuned student has another teacher.
      "same_tokens": None if TUNED in what else float(np.mean(same)),
      "prompts": len(answers),
      "pair": pair.name,
    }
    of_drafter = costs.get(what.removesuffix("_adaptive"))
    if of_drafter:
      row |= _drafted(result, of_drafter, settings)
    # Predictions are those of drafts of one length.
    if what in ours.drafters:
      row |= _predicted(ours, what, result, costs[what])
    rows.append(row)
  return rows


def _drafted(
  result: Sequence[structs.Rollout], costs: PassCosts, settings: Settings
) -> harness.Row:
  """Returns the columns of a row that has a drafter of ours."""
  stats = _count(result, settings)
  return {
    "num_draft_tokens": settings.num_draft_tokens,
    "acceptance": stats.acceptance,
    "by_position": [round(x, 2) for x in stats.acceptance_by_position],
    "tokens_per_pass": stats.tokens_per_pass,
    **costs.adaptation,
  }


def _predicted(
  ours: _Ours,
  what: str,
  result: Sequence[structs.Rollout],
  costs: PassCosts,
) -> harness.Row:
  """Returns what the costs give for the rounds that were needed."""
  row = {
    "predicted_speedup": costs.speedup(
      [int(np.max(batch.length)) for batch in result],
      [int(np.max(batch.num_rounds)) for batch in result],
    )
  }
  student = ours.drafters[what].policy
  if student is not None:
    row["tree_bound"] = draft_trees.bound(student, ours.batches, result, costs)
  return row


def _count(
  rollouts: Sequence[structs.Rollout], settings: Settings
) -> draft_stats.DraftStats:
  """Counts the drafts of several batches."""
  return sum(
    (
      draft_stats.count(jax.device_get(batch), settings.num_draft_tokens)
      for batch in rollouts
    ),
    draft_stats.DraftStats(),
  )


def _answers(result: Any) -> Answers:
  """Returns the tokens of each answer, of rollouts or of a peer."""
  if not isinstance(result[0], structs.Rollout):
    return result
  return [
    row[:length].tolist()
    for batch in jax.device_get(result)
    for row, length in zip(batch.tokens, batch.length, strict=True)
  ]


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Runs what the command line asks for."""
  pair, settings = pair_lib.from_flags(quick), QUICK if quick else Settings()
  given: dict[str, Any] = {
    "num_prompts": _NUM_PROMPTS.value,
    "num_draft_tokens": _DRAFT_TOKENS.value,
    "batches": batches_lib.from_flags(),
    "repeats": _REPEATS.value,
  }
  settings = dataclasses.replace(
    settings, **{name: value for name, value in given.items() if value}
  )
  students = read_students(pair, _STUDENTS.value)
  if students:
    pair = dataclasses.replace(pair, student=next(iter(students.values())))
  prompts = None
  if _SOURCES.value:
    prompts = draft_prompts.from_file(
      _SOURCES.value, pair, _TEMPLATE.value, settings.num_prompts
    )
  print(f"{pair.name}, {settings.num_prompts} prompts")
  return make_rows(pair, settings, prompts, students or None)


if __name__ == "__main__":
  harness.run(
    "speculative_decoding",
    rows_from_flags,
    program="speed.speculative_decoding",
    result="speed/{device}/speculative_decoding.json",
  )
