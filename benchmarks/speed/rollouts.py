"""The rollouts that are timed, one jitted function for each mode.

Weights, prompts, keys and K are arguments, so that all replacement
rates share one compiled function. No response ends before its T tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.speed import pair as pair_lib
from benchmarks.speed import regimes as regimes_lib
from benchmarks.speed.pair import Pair
from benchmarks.speed.regimes import Regime
from skd_jax import structs
from skd_jax.decoding import acceptance, rollout, sampling, stopping
from skd_jax.decoding.policy import Policy
from skd_jax.models import forward

# At temperature 1 the every-third-layer student of SmolLM2 draws a token beyond
# its own top 25 every sixth time, whatever the teacher thinks; at 0.5, the
# paper's temperature, every eightieth time.
STUDENT_SAMPLING = sampling.Sampling(temperature=0.5)
TEACHER_SAMPLING = sampling.Sampling(temperature=0.2)

# (student params, teacher params, batch, row keys [B], K []) -> Rollout
RolloutFn = Callable[..., structs.Rollout]


@dataclasses.dataclass(frozen=True)
class Contestant:
  """A rollout that is timed."""

  call: Callable[[], Any]
  columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def make_rollout(
  pair: Pair,
  mode: str,
  *,
  max_new_tokens: int,
  num_draft_tokens: int = 1,
) -> RolloutFn:
  """Returns a jitted rollout.

  Args:
    pair: the models.
    mode: `skd`, with the rule top_k; `student` or `teacher`, which generates
      alone; `on_policy`, the student generates and the teacher reads it once.
    max_new_tokens: T.
    num_draft_tokens: G, of the mode skd.
  """
  stop_table = stopping.make_stop_table(pair.teacher.config.vocab_size, ())

  @jax.jit
  def generate(student_params, teacher_params, batch, keys, threshold):
    student = Policy(student_params, pair.student.model, STUDENT_SAMPLING)
    teacher = Policy(teacher_params, pair.teacher.model, TEACHER_SAMPLING)
    if mode == "skd":
      return rollout.rollout(
        student,
        teacher,
        batch,
        keys,
        stop_table,
        threshold,
        rule=acceptance.Rule("top_k", "sample"),
        num_draft_tokens=num_draft_tokens,
        max_new_tokens=max_new_tokens,
      )
    generated = rollout.decode(
      teacher if mode == "teacher" else student,
      batch,
      keys,
      stop_table,
      max_new_tokens=max_new_tokens,
      source=structs.TEACHER if mode == "teacher" else structs.STUDENT,
    )
    if mode == "on_policy":
      return with_teacher(pair, generated, teacher_params, batch)
    return generated

  return generate


def with_teacher(
  pair: Pair,
  generated: structs.Rollout,
  teacher_params: structs.Params,
  batch: structs.Batch,
) -> structs.Rollout:
  """Lets the teacher read responses that it has not verified."""
  hidden = forward.response_hidden(
    pair.teacher.model,
    teacher_params,
    batch.prompt,
    batch.prompt_length,
    generated.tokens,
  )
  return dataclasses.replace(generated, teacher_hidden=hidden)


def bind(
  function: RolloutFn, pair: Pair, batch: structs.Batch, top_k: int = 0
) -> Callable[[], structs.Rollout]:
  """Binds all arguments; the same prompt has the same key."""
  return functools.partial(
    function,
    pair.student.params,
    pair.teacher.params,
    batch,
    sampling.row_keys(0, 0, batch.index),
    jnp.float32(top_k),
  )


def replacement_rate(generated: structs.Rollout) -> float:
  """Returns the share of the emitted tokens that the teacher replaced."""
  length = np.asarray(generated.length)
  source = np.asarray(generated.source)
  emitted = np.arange(source.shape[1])[None] < length[:, None]
  return float(np.mean(source[emitted] == structs.TEACHER))


def fastest(
  regimes: Mapping[str, Regime],
  batch: structs.Batch,
  *,
  max_new_tokens: int,
  draft_lengths: Sequence[int],
) -> dict[str, Contestant]:
  """Returns the rollout of each regime with its fastest draft length.

  Args:
    regimes: by name; their pairs differ in the weights of the teacher alone.
    batch: the prompts.
    max_new_tokens: T.
    draft_lengths: G, to choose from.
  """
  any_regime = next(iter(regimes.values()))
  # One program of each length serves all regimes.
  programs = {
    length: make_rollout(
      any_regime.pair,
      "skd",
      num_draft_tokens=length,
      max_new_tokens=max_new_tokens,
    )
    for length in draft_lengths
  }
  harness.compile_all(
    bind(program, any_regime.pair, batch) for program in programs.values()
  )
  found = {}
  for what, regime in regimes.items():
    calls = {
      length: bind(program, regime.pair, batch, regime.top_k)
      for length, program in programs.items()
    }
    timed = {length: harness.time_once(call) for length, call in calls.items()}
    best = min(timed, key=lambda length: timed[length][0])
    generated = timed[best][1]
    rounds = np.asarray(generated.num_rounds)
    columns = {
      "num_draft_tokens": best,
      "replacement_rate": replacement_rate(generated),
      "tokens_per_round": float(np.sum(generated.length) / np.sum(rounds)),
    }
    found[what] = Contestant(calls[best], columns)
  return found


def usual_regimes(
  pair: Pair, *, num_rows: int, prompt_size: int, new_tokens: int
) -> dict[str, Regime]:
  """Returns the regimes: everything accepted, 2 % and 10 % replaced.

  Args:
    pair: to tune.
    num_rows: B of the rollouts that measure the rate.
    prompt_size: P.
    new_tokens: T.
  """
  vocab_size = pair.teacher.config.vocab_size
  batch = pair_lib.make_prompts(pair, num_rows, prompt_size)
  function = make_rollout(
    pair, "skd", num_draft_tokens=5, max_new_tokens=new_tokens
  )

  def measure(tuned: Pair) -> float:
    return replacement_rate(bind(function, tuned, batch, regimes_lib.TOP_K)())

  return {
    "skd_all_accepted": Regime(pair, vocab_size),
    "skd_2pct": regimes_lib.tune(pair, 0.02, measure),
    "skd_10pct": regimes_lib.tune(pair, 0.1, measure),
  }
