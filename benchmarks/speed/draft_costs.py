"""What the passes of speculative decoding cost, each timed by itself."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skd_jax import structs
from skd_jax.decoding.policy import Policy

_NUM_PASSES = 16  # Or rounds, in the loop that is timed.


@dataclasses.dataclass(frozen=True)
class PassCosts:
  """In passes of the teacher alone, over one token of each row.

  num_draft_tokens: G.
  draft: of the drafter, over one token.
  one_round: G passes of the drafter, the first over two tokens, as it may not
    have read the one before the last, and one of the teacher over G + 1. They
    follow each other as in decoding: what one model reads drives the weights of
    the other from the caches of a processor.
  second_choices: how much longer the teacher takes for G more tokens.
  prompt: of the teacher, over the prompts.
  draft_prompt: of the drafter, over the prompts.
  """

  num_draft_tokens: int
  draft: float
  one_round: float
  second_choices: float
  prompt: float
  draft_prompt: float

  @property
  def adaptation(self) -> dict[str, float]:
    """The costs as `speculative_decode` takes them."""
    once = self.one_round - 1 - self.num_draft_tokens * self.draft
    return {"draft_cost": self.draft, "round_cost": max(once, 0.0)}

  @property
  def of_tree(self) -> "PassCosts":
    """The costs where each place of a draft has two choices."""
    longer = self.one_round + self.second_choices
    return dataclasses.replace(self, one_round=longer)

  def speedup(
    self, num_tokens: Sequence[int], num_rounds: Sequence[int]
  ) -> float:
    """Predicts how many times as fast as with the teacher alone batches are.

    Args:
      num_tokens: of the longest response of each batch: passes of the teacher
        alone.
      num_rounds: of the row of each batch that needs most of them.
    """
    alone = len(num_tokens) * self.prompt + sum(num_tokens)
    prompts = len(num_rounds) * (self.prompt + self.draft_prompt)
    return alone / (prompts + sum(num_rounds) * self.one_round)


@dataclasses.dataclass(frozen=True)
class Passes:
  """What is to be timed, and what the times come to.

  calls: `passes: WHAT` -> runs it, _NUM_PASSES times, or a prompt once.
  drafters: whose costs these are.
  num_draft_tokens: G.
  """

  calls: Mapping[str, Callable[[], Any]]
  drafters: Sequence[str]
  num_draft_tokens: int

  def costs(
    self, seconds: Mapping[str, Sequence[float]]
  ) -> dict[str, PassCosts]:
    """Returns the costs, by drafter.

    Args:
      seconds: of each call, and maybe of others.
    """
    alone = min(seconds[_name("alone")]) / _NUM_PASSES

    def cost(what, num_passes=_NUM_PASSES):
      timed = seconds.get(_name(what))
      return min(timed) / num_passes / alone if timed else None

    judge = cost("judge")
    return {
      name: PassCosts(
        num_draft_tokens=self.num_draft_tokens,
        draft=cost(f"{name}, draft") or 0.0,
        one_round=cost(f"{name}, round") or judge,
        second_choices=max(cost("judge_tree") - judge, 0.0),
        prompt=cost("prompt", 1),
        draft_prompt=cost(f"{name}, prompt", 1) or 0.0,
      )
      for name in self.drafters
    }


def _name(what: str) -> str:
  """Of a call; not that of a contestant."""
  return f"passes: {what}"


def make_passes(
  teacher: Policy,
  drafters: Mapping[str, Policy | None],
  *,
  batch: structs.Batch,
  cache_size: int,
  slots: tuple[int, int],
  num_draft_tokens: int,
) -> Passes:
  """Returns the passes of a teacher and its drafters.

  A pass costs more, the more slots of its cache are in use.

  Args:
    teacher: the teacher.
    drafters: by name; None: it has no model.
    batch: the prompts [B, P].
    cache_size: slots of the caches; what is read beyond them is not kept.
    slots: in use before the first pass over a response, and before the last.
    num_draft_tokens: G.
  """
  first_slots = np.linspace(*slots, _NUM_PASSES).astype(np.int32)

  def tokens(num_tokens):
    return jnp.zeros((batch.prompt.shape[0], num_tokens), jnp.int32)

  def passes(policy, num_tokens):
    return functools.partial(
      _run_passes, policy, tokens(num_tokens), first_slots, size=cache_size
    )

  def prompts(policy):
    return functools.partial(_read_prompts, policy, batch, size=cache_size)

  calls = {
    "alone": passes(teacher, 1),
    "judge": passes(teacher, num_draft_tokens + 1),
    "judge_tree": passes(teacher, 2 * num_draft_tokens + 1),
    "prompt": prompts(teacher),
  }
  for name, policy in drafters.items():
    if policy is not None:
      calls[f"{name}, draft"] = passes(policy, 1)
      calls[f"{name}, prompt"] = prompts(policy)
      calls[f"{name}, round"] = functools.partial(
        _run_rounds,
        policy,
        teacher,
        tokens(num_draft_tokens + 1),
        first_slots,
        size=cache_size,
      )
  named = {_name(what): call for what, call in calls.items()}
  return Passes(named, tuple(drafters), num_draft_tokens)


def _read(
  policy: Policy,
  tokens: jax.Array,
  first: jax.Array,
  cache: structs.Cache,
) -> tuple[jax.Array, structs.Cache]:
  """One pass; returns the likeliest followers, int32 [B, n], and the cache."""
  slots = jnp.broadcast_to(first + jnp.arange(tokens.shape[1]), tokens.shape)
  hidden, cache = policy.model.apply(policy.params, tokens, slots, cache)
  best = jnp.argmax(policy.logits(hidden), axis=-1)
  return best.astype(jnp.int32), cache


@functools.partial(jax.jit, static_argnames="size")
def _read_prompts(
  policy: Policy, batch: structs.Batch, *, size: int
) -> structs.Cache:
  """Reads prompts; the head takes no part."""
  return policy.model.prefill(
    policy.params,
    batch.prompt,
    batch.prompt_length,
    policy.model.init_cache(batch.prompt.shape[0], size),
  )


@functools.partial(jax.jit, static_argnames="size")
def _run_passes(
  policy: Policy, tokens: jax.Array, first_slots: jax.Array, *, size: int
) -> jax.Array:
  """Runs passes over n tokens a row, [B, n], one after the other."""

  def one_pass(i, carry):
    tokens, cache = carry
    return _read(policy, tokens, first_slots[i], cache)

  start = tokens, policy.model.init_cache(tokens.shape[0], size)
  return jax.lax.fori_loop(0, _NUM_PASSES, one_pass, start)[0]


@functools.partial(jax.jit, static_argnames="size")
def _run_rounds(
  drafter: Policy,
  teacher: Policy,
  tokens: jax.Array,
  first_slots: jax.Array,
  *,
  size: int,
) -> jax.Array:
  """Runs rounds of the passes of both models, on [B, G + 1] tokens."""

  def one_round(i, carry):
    tokens, draft_cache, cache = carry
    first = first_slots[i]
    drafted, draft_cache = _read(drafter, tokens[:, :2], first, draft_cache)

    def draft(g, carry):
      tokens, cache = carry
      last = jax.lax.dynamic_slice_in_dim(tokens, g, 1, axis=1)
      new, cache = _read(drafter, last, first + g, cache)
      return tokens.at[:, g + 1].set(new[:, 0]), cache

    tokens = tokens.at[:, 1].set(drafted[:, -1])
    tokens, draft_cache = jax.lax.fori_loop(
      1, tokens.shape[1] - 1, draft, (tokens, draft_cache)
    )
    tokens, cache = _read(teacher, tokens, first, cache)
    return tokens, draft_cache, cache

  policies = drafter, teacher
  caches = (p.model.init_cache(tokens.shape[0], size) for p in policies)
  return jax.lax.fori_loop(0, _NUM_PASSES, one_round, (tokens, *caches))[0]
