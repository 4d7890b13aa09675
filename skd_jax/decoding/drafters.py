"""What drafts for a teacher: a smaller model, or the text itself.

  ModelDrafter(policy)   what a model draws, one pass per token: a student, or
                         the teacher's first layers (early exit), which
                         models.prune_layers gives without a copy
  PromptLookup()         what followed an earlier occurrence of the last tokens:
                         names, quotations, code; costs next to nothing

Another drafter is another class with the functions of `Drafter`.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs
from skd_jax.decoding import acceptance
from skd_jax.decoding.policy import Policy
from skd_jax.decoding.rollout import propose
from skd_jax.parallel import sharding

_CHUNK = 16  # Tokens that a drafter reads at once of those that it has missed.


class Drafter(Protocol):
  """Proposes the teacher's next tokens; any proposal is safe."""

  @property
  def policy(self) -> Policy | None:
    """The model that draws the proposals, with a cache of its own; or None."""
    ...

  @property
  def rule(self) -> acceptance.Rule:
    """How a proposal is judged so that the distribution is the teacher's.

    A greedy teacher judges by AS_DRAWN, whoever proposes.
    """
    ...

  def can_draft(
    self, state: structs.DecodeState, batch: structs.Batch
  ) -> jax.Array:
    """Returns the rows for which it has a proposal, bool [B]."""
    ...

  def propose(
    self,
    state: structs.DecodeState,
    batch: structs.Batch,
    row_keys: jax.Array,
    lengths: jax.Array,
    num_draft_tokens: int,
  ) -> tuple[structs.Proposal, structs.DecodeState]:
    """Drafts; called if at least one row wants a token.

    Args:
      state: what was generated so far.
      batch: the prompts [Q, P].
      row_keys: typed PRNG keys [B].
      lengths: int32 [B], how many tokens each row wants, in 0..G; 0 where it
        cannot draft.
      num_draft_tokens: G.

    Returns:
      (Proposal of `lengths` tokens, the state with its own cache advanced).
    """
    ...


@struct.dataclass
class ModelDrafter:
  """A model that drafts: a student, or some layers of the teacher.

  policy: the model, its weights, and how it draws.
  """

  policy: Policy

  @property
  def rule(self) -> acceptance.Rule:
    """Speculative sampling."""
    return acceptance.Rule("lossless", "residual")

  def can_draft(
    self, state: structs.DecodeState, batch: structs.Batch
  ) -> jax.Array:
    """Returns True for every row, bool [B]."""
    del batch
    return jnp.ones_like(state.done)

  def propose(
    self,
    state: structs.DecodeState,
    batch: structs.Batch,
    row_keys: jax.Array,
    lengths: jax.Array,
    num_draft_tokens: int,
  ) -> tuple[structs.Proposal, structs.DecodeState]:
    """Lets the model draw, token by token; see Drafter."""
    state = self._catch_up(state, batch)
    last = state.prompt_length + state.length - 1
    # The last token of a draft that was accepted as a whole: nothing was drawn
    # after it, so the model has not read it.
    before_last = jnp.take_along_axis(
      sequences(state, batch), jnp.maximum(last - 1, 0)[:, None], axis=1
    )[:, 0]
    return propose(
      self.policy,
      state,
      row_keys,
      num_draft_tokens,
      lengths=lengths,
      before_last=before_last,
    )

  def _catch_up(
    self, state: structs.DecodeState, batch: structs.Batch
  ) -> structs.DecodeState:
    """Reads what the teacher generated alone, and the prompt if it was left.

    The last two tokens are not read here, see below.

    unread = 3, the response so far `a b c d e`, of which the teacher generated
    c, d and e alone; `a` may not have been read, `b` was not:

      slots read   a b c . .    chunks from the first unread one on; what is
                                read behind them is stale, as ever
    """
    tokens = sequences(state, batch)
    size = min(_CHUNK, tokens.shape[1])
    # The last token, and the one before it, are read by `propose`.
    end = state.prompt_length + state.length - 2
    policy = self.policy

    def read(carry):
      left, cache = carry
      start = jnp.clip(end - left, 0, tokens.shape[1] - size)
      slots = start[:, None] + jnp.arange(size)[None, :]
      chunk = jnp.take_along_axis(tokens, slots, axis=1)
      _, cache = policy.model.apply(policy.params, chunk, slots, cache)
      return left - size, cache

    _, cache = jax.lax.while_loop(
      lambda carry: jnp.any(carry[0] > 0),
      read,
      (jnp.where(state.done, 0, state.unread), state.caches[0]),
    )
    return dataclasses.replace(state, caches=(cache, *state.caches[1:]))


def _accept_as_drawn(
  inputs: acceptance.VerificationInputs, threshold: jax.Array
) -> jax.Array:
  """Accepts the token that the teacher draws itself.

  So a token t is accepted with probability q(t), and its replacement is any
  other token, with probability q / (1 - q(t)): speculative sampling from a
  draft that is certain. The response is the one that the teacher draws alone.
  """
  del threshold
  if inputs.teacher_tokens is None:
    raise ValueError("accept = 'as_drawn' needs teacher_tokens")
  return inputs.tokens == inputs.teacher_tokens()


# The teacher's own draw is emitted, whatever was proposed.
AS_DRAWN = acceptance.Rule(_accept_as_drawn, "sample")


@struct.dataclass
class PromptLookup:
  """Proposes what followed the latest earlier occurrence of the last tokens.

  Prompt lookup decoding (github.com/apoorvumang/prompt-lookup-decoding), over
  prompt and response. G = 3; `b c` occurs earlier, `e b c` does not:

    read   a  b  c  d  e  b  c        proposed  d  e  b
              ~~~~        ~~~~

  A copy that reaches the end starts over: after `x y x y` comes `x y x`.

  max_ngram: how many of the last tokens are searched for; if they do not occur
    earlier, fewer are, down to one.
  """

  max_ngram: int = struct.field(pytree_node=False, default=3)

  def __post_init__(self):
    if self.max_ngram < 1:
      raise ValueError(f"max_ngram = {self.max_ngram}: must be at least 1")

  @property
  def policy(self) -> None:
    """There is no model."""

  @property
  def rule(self) -> acceptance.Rule:
    """What is accepted was drawn by the teacher itself."""
    return AS_DRAWN

  def can_draft(
    self, state: structs.DecodeState, batch: structs.Batch
  ) -> jax.Array:
    """Returns the rows in which the last token occurs earlier, bool [B]."""
    return self._find(state, sequences(state, batch)) >= 0

  def propose(
    self,
    state: structs.DecodeState,
    batch: structs.Batch,
    row_keys: jax.Array,
    lengths: jax.Array,
    num_draft_tokens: int,
  ) -> tuple[structs.Proposal, structs.DecodeState]:
    """Copies what followed; see Drafter."""
    del row_keys  # Nothing is drawn.
    tokens = sequences(state, batch)
    last = state.prompt_length + state.length - 1
    found = jnp.maximum(self._find(state, tokens), 0)
    # Not zero in rows where nothing is found, or that hold nothing.
    period = jnp.maximum(last - found, 1)[:, None]
    at = found[:, None] + 1 + jnp.arange(num_draft_tokens)[None, :] % period
    proposed = jnp.take_along_axis(tokens, at, axis=1)
    proposal = structs.Proposal(
      tokens=proposed,
      log_prob=jnp.zeros(proposed.shape, jnp.float32),
      hidden=jnp.zeros((*proposed.shape, 0), jnp.float32),
      num_tokens=lengths,
    )
    return sharding.constrain_rows(proposal), state

  def _find(self, state: structs.DecodeState, tokens: jax.Array) -> jax.Array:
    """Finds an earlier occurrence of the last tokens.

    Args:
      state: what was generated so far.
      tokens: int32 [B, S], from `sequences`.

    Returns:
      int32 [B], the position where the occurrence ends; -1: there is none.
    """
    last = (state.prompt_length + state.length - 1)[:, None]
    positions = jnp.arange(tokens.shape[1])[None, :]
    # How many tokens up to each position are the last ones.
    same = positions < last
    num_same = jnp.zeros(tokens.shape, jnp.int32)
    for n in range(self.max_ngram):
      ending = jnp.take_along_axis(tokens, jnp.maximum(last - n, 0), axis=1)
      shifted = jnp.pad(tokens, ((0, 0), (n, 0)))[:, : tokens.shape[1]]
      same &= (shifted == ending) & (positions >= n)
      num_same += same.astype(jnp.int32)
    best = jnp.max(num_same, axis=1, keepdims=True)
    where = jnp.where((num_same == best) & (best > 0), positions, -1)
    return jnp.max(where, axis=1)


def sequences(state: structs.DecodeState, batch: structs.Batch) -> jax.Array:
  """Returns prompt and response of each slot in one piece.

  Args:
    state: what was generated so far.
    batch: the prompts [Q, P].

  Returns:
    int32 [B, S]; what follows the length is stale.
  """
  prompt, response = batch.prompt[state.row], state.rollout.tokens[state.row]
  size = prompt.shape[1] + response.shape[1]
  offset = jnp.arange(size)[None, :] - state.prompt_length[:, None]
  within = jnp.clip(offset, 0, response.shape[1] - 1)
  return jnp.where(
    offset < 0,
    jnp.pad(prompt, ((0, 0), (0, response.shape[1]))),
    jnp.take_along_axis(response, within, axis=1),
  )
