"""The rollout: propose, verify, commit, until every row is done.

One round, G = 4, the row's response so far `a b`, nothing read of `b` yet:

  student reads   b  c  d  e      proposes  c  d  e  f
  teacher reads   b  c  d  e      judges    c  d  e  f     one pass
  accepted?                                 y  y  n  -
  emitted                                   c  d  E        E is the teacher's

The next round starts from E, which no model has read yet. The slots that held
the keys and values of `e` are stale (they are at or past the length) and will
be overwritten before anything looks at them, so nothing is rolled back. A fully
accepted block adds no token of the teacher's: that would not be the student's
proposal.

The reading order of SKD (arXiv 2410.11325, algorithm 1): `rollout`, then
`propose`, `verify` (verification.py), and `commit` and the loop (loop.py).
"""

import dataclasses

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import acceptance, loop, stopping
from skd_jax.decoding import sampling as sampling_lib
from skd_jax.decoding.policy import Policy
from skd_jax.decoding.verification import verify
from skd_jax.parallel import sharding


def rollout(
  student: Policy,
  teacher: Policy,
  batch: structs.Batch,
  row_keys: jax.Array,
  stop_table: stopping.StopTable,
  threshold: jax.Array,
  *,
  max_new_tokens: int,
  rule: acceptance.Rule = acceptance.Rule(),
  num_draft_tokens: int = 5,
  batch_size: int | None = None,
) -> structs.Rollout:
  """Generates one interleaved response per prompt; pure, to be jitted.

  The same row key gives the same tokens for every `num_draft_tokens`, every
  batch around the row and every device count (float rounding aside), because
  a draw is keyed by (row key, role, position in the response).

  Args:
    student: proposes.
    teacher: verifies, and replaces what it rejects.
    batch: the prompts [Q, P]; its references are not looked at.
    row_keys: typed PRNG keys [Q].
    stop_table: EOS and stop sequences.
    threshold: float32 [], the parameter of the acceptance rule.
    max_new_tokens: T, the length of the response buffer. A row whose own limit
      in the batch is smaller ends there.
    rule: the acceptance rule and the replacement.
    num_draft_tokens: G, tokens drafted before one teacher pass.
    batch_size: B, rows that are decoded at once; the others wait for a free
      slot. None: all of them, B = Q.

  Returns:
    Rollout [Q, T] with `teacher_hidden`: the states that the verification
    computed at every emitted position, so that training needs no second
    teacher pass.
  """

  def one_round(state):
    keys = row_keys[state.row]
    proposal, state = propose(student, state, keys, num_draft_tokens)
    verdict, state = verify(
      student, teacher, state, proposal, keys, threshold, rule
    )
    return loop.commit(state, verdict, stop_table)

  return loop.run(
    ((student.model, student.params), (teacher.model, teacher.params)),
    batch,
    stop_table,
    one_round,
    batch_size=batch_size,
    max_new_tokens=max_new_tokens,
    num_draft_tokens=num_draft_tokens,
    keep_teacher_hidden=True,
  )


def decode(
  policy: Policy,
  batch: structs.Batch,
  row_keys: jax.Array,
  stop_table: stopping.StopTable,
  *,
  max_new_tokens: int,
  batch_size: int | None = None,
  source: int = structs.STUDENT,
  keep_hidden: bool = False,
) -> structs.Rollout:
  """Generates one response per prompt with one model; pure, to be jitted.

  A student generates here what it generates under `rollout` when everything is
  accepted: the draws have the same keys.

  Args:
    policy: the model that generates.
    batch: the prompts [Q, P].
    row_keys: typed PRNG keys [Q].
    stop_table: EOS and stop sequences.
    max_new_tokens: T; see rollout.
    batch_size: B, as in `rollout`.
    source: what to record as the source of every token; also the role of the
      draws: STUDENT as the student's proposals, TEACHER as its replacements.
    keep_hidden: whether the rollout has, as its `teacher_hidden`, the states
      that this model drew its tokens from.

  Returns:
    Rollout [Q, T].
  """

  def one_round(state):
    verdict, state = generate_token(
      policy, state, row_keys[state.row], source, keep_hidden=keep_hidden
    )
    return loop.commit(state, verdict, stop_table)

  return loop.run(
    ((policy.model, policy.params),),
    batch,
    stop_table,
    one_round,
    batch_size=batch_size,
    max_new_tokens=max_new_tokens,
    num_draft_tokens=1,
    keep_teacher_hidden=keep_hidden,
  )


def generate_token(
  policy: Policy,
  state: structs.DecodeState,
  row_keys: jax.Array,
  source: int,
  *,
  keep_hidden: bool = False,
) -> tuple[structs.Verdict, structs.DecodeState]:
  """Lets one model generate the next token of each row.

  Args:
    policy: the model; its cache is the first of the state.
    state: what was generated so far.
    row_keys: typed PRNG keys [B].
    source: as in `decode`.
    keep_hidden: as in `decode`.

  Returns:
    (Verdict of one token, the state with the cache advanced).
  """
  role = {
    structs.STUDENT: sampling_lib.STUDENT_DRAW,
    structs.TEACHER: sampling_lib.TEACHER_DRAW,
  }[source]
  proposal, state = propose(policy, state, row_keys, 1, role)
  verdict = structs.Verdict(
    tokens=proposal.tokens,
    num_tokens=jnp.ones_like(state.length),
    source=jnp.full(proposal.tokens.shape, source, jnp.int8),
    draft_tokens=proposal.tokens,
    teacher_hidden=proposal.hidden if keep_hidden else None,
  )
  return verdict, state


@jax.named_scope("propose")
def propose(
  policy: Policy,
  state: structs.DecodeState,
  row_keys: jax.Array,
  num_draft_tokens: int,
  role: int = sampling_lib.STUDENT_DRAW,
  *,
  lengths: jax.Array | None = None,
  before_last: jax.Array | None = None,
) -> tuple[structs.Proposal, structs.DecodeState]:
  """Lets the student draft up to G tokens after the last one.

  Step g reads the token at slot prompt_length - 1 + length + g (the last token
  for g = 0, then its own drafts) and draws the response token length + g. No
  more steps are taken than some row has tokens left before its limit: what
  would follow is zero, and never emitted.

  Args:
    policy: the student; its cache is the first of the state.
    state: what was generated so far.
    row_keys: typed PRNG keys [B].
    num_draft_tokens: G.
    role: of the draws.
    lengths: int32 [B], how many tokens of each row are wanted; at least 1 of
      some row. None: G of all.
    before_last: int32 [B], the tokens before the last ones, where the student
      may not have read them; it reads both at once.

  Returns:
    (Proposal, the state with the student's cache advanced; the length is not).
  """
  first = state.prompt_length - 1 + state.length
  is_alone = first == 0

  def draft(g, tokens, slots, cache):
    hidden, cache = policy.model.apply(policy.params, tokens, slots, cache)
    if tokens.shape[1] == 2:
      hidden = jnp.where(is_alone[:, None, None], hidden[:, :1], hidden)
    hidden = hidden[:, -1]
    token, log_prob = sampling_lib.draw(
      policy.logits(hidden),
      policy.sampling,
      sampling_lib.draw_uniform(row_keys, role, state.length + g),
    )
    drafted = structs.Proposal(token, log_prob, hidden)
    return sharding.constrain_rows(drafted), cache

  def step(g, carry, before=None):
    token, cache, drafted = carry
    tokens, slots = [token], [first + g]
    if before is not None:
      # A row of one token has none before it: it reads the token twice, and the
      # second, in slot 1, is stale.
      tokens = [jnp.where(is_alone, token, before), token]
      slots = [jnp.maximum(first - 1, 0), jnp.maximum(first, 1)]
    tokens, slots = jnp.stack(tokens, axis=1), jnp.stack(slots, axis=1)
    new, cache = draft(g, tokens, slots, cache)
    drafted = jax.tree.map(lambda x, y: x.at[g].set(y), drafted, new)
    return new.tokens, cache, drafted

  token, cache = state.last_token, state.caches[0]
  one, _ = jax.eval_shape(draft, 0, token[:, None], first[:, None], cache)
  drafted = jax.tree.map(
    lambda x: jnp.zeros((num_draft_tokens, *x.shape), x.dtype), one
  )
  num_steps = num_draft_tokens
  if num_draft_tokens > 1:
    left = jnp.where(state.done, 0, state.max_new_tokens - state.length)
    if lengths is not None:
      left = jnp.minimum(left, lengths)
    num_steps = jnp.minimum(num_draft_tokens, jnp.max(left))
  carry, taken = (token, cache, drafted), 0
  if before_last is not None:
    carry, taken = step(0, carry, before_last), 1
  _, cache, drafted = jax.lax.fori_loop(taken, num_steps, step, carry)
  proposal = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), drafted)
  proposal = dataclasses.replace(proposal, num_tokens=lengths)
  return proposal, dataclasses.replace(state, caches=(cache, *state.caches[1:]))
