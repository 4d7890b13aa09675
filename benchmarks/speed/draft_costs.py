"""What the passes of speculative decoding cost, each timed by itself."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from skd_jax.decoding.policy import Policy

_NUM_PASSES = 8  # In the loop in which a pass is timed.


@dataclasses.dataclass(frozen=True)
class PassCosts:
  """In passes of the teacher alone, over one token of each row.

  draft: of the drafter, over one token.
  first_draft: of the drafter, over two, as it reads in the first step: it may
    not have read the token before the last.
  judge: of the teacher, over the last token and G drafted ones.
  judge_tree: of the teacher, over the last token and 2 G drafted ones.
  prompt: of the teacher, over the prompts.
  draft_prompt: of the drafter, over the prompts.
  """

  draft: float
  first_draft: float
  judge: float
  judge_tree: float
  prompt: float
  draft_prompt: float

  @property
  def adaptation(self) -> dict[str, float]:
    """The costs as `speculative_decode` takes them."""
    once = self.judge - 1 + self.first_draft - self.draft
    return {"draft_cost": self.draft, "round_cost": max(once, 0.0)}

  @property
  def of_tree(self) -> "PassCosts":
    """The costs where each place of a draft has two choices."""
    return dataclasses.replace(self, judge=self.judge_tree)

  def speedup(
    self,
    num_tokens: Sequence[int],
    num_rounds: Sequence[int],
    num_draft_tokens: int,
  ) -> float:
    """Predicts how many times as fast as with the teacher alone batches are.

    Args:
      num_tokens: of the longest response of each batch: passes of the teacher
        alone.
      num_rounds: of the row of each batch that needs most of them.
      num_draft_tokens: G.
    """
    alone = len(num_tokens) * self.prompt + sum(num_tokens)
    prompts = len(num_rounds) * (self.prompt + self.draft_prompt)
    drafts = self.first_draft + (num_draft_tokens - 1) * self.draft
    one_round = self.judge + drafts
    return alone / (prompts + sum(num_rounds) * one_round)


def measure_costs(
  teacher: Policy,
  drafters: Mapping[str, Policy | None],
  *,
  batch_size: int,
  prompt_size: int,
  new_tokens: int,
  num_draft_tokens: int,
  repeats: int,
) -> dict[str, PassCosts]:
  """Times the passes in turns.

  Args:
    teacher: the teacher.
    drafters: by name; None: it has no model.
    batch_size: B.
    prompt_size: P.
    new_tokens: T.
    num_draft_tokens: G.
    repeats: how often each pass is timed.
  """
  size = prompt_size + new_tokens + num_draft_tokens + _NUM_PASSES

  def passes(policy, num_tokens):
    return _passes(policy, batch_size, num_tokens, size)

  calls = {
    "alone": passes(teacher, 1),
    "judge": passes(teacher, num_draft_tokens + 1),
    "judge_tree": passes(teacher, 2 * num_draft_tokens + 1),
    "prompt": passes(teacher, prompt_size),
  }
  for name, policy in drafters.items():
    if policy is not None:
      calls[f"{name}: draft"] = passes(policy, 1)
      calls[f"{name}: first"] = passes(policy, 2)
      calls[f"{name}: prompt"] = passes(policy, prompt_size)
  timed = harness.interleaved(calls, repeats)
  alone = min(timed["alone"])
  costs = {what: min(seconds) / alone for what, seconds in timed.items()}
  return {
    name: PassCosts(
      draft=costs.get(f"{name}: draft", 0.0),
      first_draft=costs.get(f"{name}: first", 0.0),
      judge=costs["judge"],
      judge_tree=costs["judge_tree"],
      prompt=costs["prompt"],
      draft_prompt=costs.get(f"{name}: prompt", 0.0),
    )
    for name in drafters
  }


def _passes(
  policy: Policy, batch_size: int, num_tokens: int, size: int
) -> Callable[[], Any]:
  """Returns what runs passes of a model over n tokens a row, in a loop."""
  tokens = jnp.zeros((batch_size, num_tokens), jnp.int32)
  return functools.partial(_run_passes, policy, tokens, size=size)


@functools.partial(jax.jit, static_argnames="size")
def _run_passes(policy: Policy, tokens: jax.Array, *, size: int) -> jax.Array:
  """Passes read on from each other as far as the cache has room."""
  num_tokens, model = tokens.shape[1], policy.model
  stride = min(num_tokens, (size - num_tokens) // (_NUM_PASSES - 1))

  def one_pass(i, carry):
    tokens, cache = carry
    slots = i * stride + jnp.arange(num_tokens)
    hidden, cache = model.apply(
      policy.params, tokens, jnp.broadcast_to(slots, tokens.shape), cache
    )
    best = jnp.argmax(policy.logits(hidden), axis=-1)
    return best.astype(jnp.int32), cache

  start = tokens, model.init_cache(tokens.shape[0], size)
  return jax.lax.fori_loop(0, _NUM_PASSES, one_pass, start)[0]
