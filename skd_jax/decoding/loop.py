"""The slots of the decode loop: filled from a queue, advanced, emptied.

B slots decode Q rows. A slot whose row is done takes the next one, inside the
compiled loop, so that short responses do not wait for long ones. What a row
reads and draws is its own (see sampling.py), so its tokens do not depend on
the slot, nor on what the other slots hold.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from skd_jax import structs
from skd_jax.decoding import legs, stopping
from skd_jax.parallel import sharding

# The models that take part, each with its weights.
Models = tuple[tuple[structs.LanguageModel, structs.Params], ...]


def init_state(
  models: Models,
  batch: structs.Batch,
  *,
  batch_size: int,
  max_new_tokens: int,
  num_draft_tokens: int,
  keep_teacher_hidden: bool,
) -> structs.DecodeState:
  """Allocates the buffers.

  Args:
    models: the student, or the student and the teacher.
    batch: the prompts [Q, P].
    batch_size: B.
    max_new_tokens: T.
    num_draft_tokens: G; a draft may run past T by up to G slots of the cache.
    keep_teacher_hidden: whether the rollout has `teacher_hidden`.

  Returns:
    DecodeState with empty responses; every slot is free.
  """
  num_rows, prompt_size = batch.prompt.shape
  cache_size = prompt_size + max_new_tokens + num_draft_tokens
  zeros = jnp.zeros(batch_size, jnp.int32)
  response = jnp.zeros((num_rows, max_new_tokens), jnp.int32)
  teacher_hidden = None
  if keep_teacher_hidden:
    teacher, params = models[-1]
    like = jax.eval_shape(
      teacher.response_hidden,
      params,
      batch.prompt,
      batch.prompt_length,
      response,
    )
    teacher_hidden = jnp.zeros(like.shape, like.dtype)
  return structs.DecodeState(
    next_row=jnp.int32(0),
    caches=tuple(
      model.init_cache(batch_size, cache_size) for model, _ in models
    ),
    row=jnp.full(batch_size, num_rows, jnp.int32),
    # A slot that never had a row writes keys and values as well: from slot
    # prompt_length - 1 of its cache, which must not be negative.
    prompt_length=jnp.ones(batch_size, jnp.int32),
    last_token=zeros,
    length=zeros,
    max_new_tokens=zeros,
    stop_state=zeros,
    done=jnp.ones(batch_size, bool),
    num_rounds=zeros,
    interventions=legs.start(batch_size),
    unread=zeros,
    rollout=structs.Rollout(
      tokens=response,
      length=jnp.zeros(num_rows, jnp.int32),
      source=response.astype(jnp.int8),
      draft_tokens=response,
      stopped=jnp.zeros(num_rows, bool),
      num_rounds=jnp.zeros(num_rows, jnp.int32),
      teacher_hidden=teacher_hidden,
    ),
  )


@jax.named_scope("refill")
def refill(
  models: Models,
  state: structs.DecodeState,
  batch: structs.Batch,
  stop_table: stopping.StopTable,
  num_refilled: int,
  first_waits: jax.Array | None,
) -> structs.DecodeState:
  """Gives the next rows to free slots, and lets the models read the prompts.

  Rows 0..2 are done, 3 is the next, B = 4, slots 0 and 2 are free, two are
  refilled:

    slot    0  1  2  3               0  1  2  3
    row     1  0  2  .   becomes     3  0  4  .      next_row = 5
    done    y  n  y  n               n  n  n  n

  Rows that only pad are done as soon as they are taken.

  Args:
    models: as in init_state.
    state: with at least min(num_refilled, rows that wait) free slots; with all
      B of them where num_refilled is B.
    batch: the prompts [Q, P].
    stop_table: where the search of each row's task starts.
    num_refilled: slots refilled at once.
    first_waits: as in `run`.
  """
  num_rows, num_slots = batch.prompt.shape[0], state.row.shape[0]
  slots = jnp.nonzero(state.done, size=num_refilled, fill_value=num_slots)[0]
  rows = state.next_row + jnp.arange(num_refilled)
  taken = (slots < num_slots) & (rows < num_rows)
  slots = jnp.where(taken, slots, num_slots)  # Out of bounds: not rollout.
  rows = jnp.minimum(rows, num_rows - 1)
  prompt, length = batch.prompt[rows], batch.prompt_length[rows]

  caches = state.caches  # What they hold of earlier rows is stale.
  if num_refilled < num_slots:
    caches = jax.tree.map(
      lambda x: jnp.zeros((num_refilled, *x.shape[1:]), x.dtype), caches
    )

  def read(n, cache):
    model, params = models[n]
    prefill = functools.partial(model.prefill, params, prompt, length)
    if n > 0 or first_waits is None:
      return prefill(cache)
    # A loop works on the cache in place, where `jax.lax.cond` would copy it.
    turns = 1 - first_waits.astype(jnp.int32)
    return jax.lax.fori_loop(0, turns, lambda _, cache: prefill(cache), cache)

  caches = tuple(read(n, cache) for n, cache in enumerate(caches))
  unread = 0 if first_waits is None else jnp.where(first_waits, length, 0)

  def put(buffer, values):
    return buffer.at[slots].set(values, mode="drop")

  if num_refilled < num_slots:
    caches = jax.tree.map(put, state.caches, caches)
  limit = jnp.minimum(batch.max_new_tokens[rows], state.rollout.tokens.shape[1])
  last_token = jnp.take_along_axis(prompt, length[:, None] - 1, axis=1)[:, 0]
  return dataclasses.replace(
    state,
    next_row=state.next_row + jnp.sum(taken, dtype=jnp.int32),
    caches=caches,
    row=put(state.row, rows),
    prompt_length=put(state.prompt_length, length),
    last_token=put(state.last_token, last_token),
    length=put(state.length, 0),
    max_new_tokens=put(state.max_new_tokens, limit),
    stop_state=put(state.stop_state, stop_table.start[batch.task_id[rows]]),
    done=put(state.done, batch.index[rows] < 0),
    num_rounds=put(state.num_rounds, 0),
    interventions=jax.tree.map(lambda x: put(x, 0), state.interventions),
    unread=put(state.unread, unread),
  )


@jax.named_scope("commit")
def commit(
  state: structs.DecodeState,
  verdict: structs.Verdict,
  stop_table: stopping.StopTable,
) -> structs.DecodeState:
  """Appends a verdict's tokens, up to EOS, a stop sequence, or the limit.

  Rows that are done stay as they are.
  """
  rollout = state.rollout
  live, stop_state = ~state.done, state.stop_state
  length, last_token = state.length, state.last_token
  emitted = []
  for g in range(verdict.tokens.shape[1]):
    token = verdict.tokens[:, g]
    emit = live & (g < verdict.num_tokens) & (length < state.max_new_tokens)
    stop_state = jnp.where(
      emit, stopping.advance(stop_table, stop_state, token), stop_state
    )
    live &= stop_state != stopping.DONE
    length += emit.astype(jnp.int32)
    last_token = jnp.where(emit, token, last_token)
    emitted.append(emit)
  emitted = jnp.stack(emitted, axis=1)

  # Emitted token g goes to position length + g of its row; the others are sent
  # out of bounds and dropped.
  at = state.length[:, None] + jnp.arange(emitted.shape[1])[None, :]
  at = jnp.where(emitted, at, rollout.tokens.shape[1])
  rows = state.row

  def put(buffer, values):
    return buffer.at[rows[:, None], at].set(values, mode="drop")

  teacher_hidden = rollout.teacher_hidden
  if teacher_hidden is not None:
    teacher_hidden = put(teacher_hidden, verdict.teacher_hidden)
  stopped = stop_state == stopping.DONE
  num_rounds = state.num_rounds + (~state.done).astype(jnp.int32)
  return dataclasses.replace(
    state,
    last_token=last_token,
    length=length,
    stop_state=stop_state,
    done=stopped | (length >= state.max_new_tokens) | state.done,
    num_rounds=num_rounds,
    interventions=verdict.interventions or state.interventions,
    rollout=structs.Rollout(
      tokens=put(rollout.tokens, verdict.tokens),
      length=rollout.length.at[rows].set(length, mode="drop"),
      source=put(rollout.source, verdict.source),
      draft_tokens=put(rollout.draft_tokens, verdict.draft_tokens),
      stopped=rollout.stopped.at[rows].set(stopped, mode="drop"),
      num_rounds=rollout.num_rounds.at[rows].set(num_rounds, mode="drop"),
      teacher_hidden=teacher_hidden,
    ),
  )


def run(
  models: Models,
  batch: structs.Batch,
  stop_table: stopping.StopTable,
  one_round: Callable[[structs.DecodeState], structs.DecodeState],
  *,
  batch_size: int | None,
  max_new_tokens: int,
  num_draft_tokens: int,
  keep_teacher_hidden: bool,
  first_waits: jax.Array | None = None,
) -> structs.Rollout:
  """Decodes every row: calls `one_round` until all are done.

  Args:
    models: as in init_state.
    batch: the prompts [Q, P].
    stop_table: EOS and stop sequences.
    one_round: advances every slot.
    batch_size: B, or None for Q.
    max_new_tokens: T.
    num_draft_tokens: G.
    keep_teacher_hidden: as in init_state.
    first_waits: bool [], whether the first model reads no prompt: it is in
      `unread`. None: every model reads them.

  Returns:
    Rollout [Q, T].

  Raises:
    ValueError: more slots than prompts, or no token to draft or to decode.
  """
  for name, value in (
    ("max_new_tokens", max_new_tokens),
    ("num_draft_tokens", num_draft_tokens),
  ):
    if value < 1:
      raise ValueError(f"{name} = {value}: must be at least 1")
  num_rows = batch.prompt.shape[0]
  batch_size = batch_size or num_rows
  if batch_size > num_rows:
    raise ValueError(
      f"batch_size = {batch_size}: must be in [1, {num_rows} prompts]"
    )
  # XLA makes three passes over the weights of a product with a single row where
  # it compiles for a GPU: a second slot costs less, and stays free if no row
  # waits for it.
  num_slots = max(batch_size, 2 if sharding.platform() == "gpu" else 1)
  state = init_state(
    models,
    batch,
    batch_size=num_slots,
    max_new_tokens=max_new_tokens,
    num_draft_tokens=num_draft_tokens,
    keep_teacher_hidden=keep_teacher_hidden,
  )

  def live(state):
    return ~jnp.all(state.done)

  def fill_slots(state, num_refilled):
    return refill(models, state, batch, stop_table, num_refilled, first_waits)

  if batch_size == num_rows:
    state = fill_slots(state, num_slots)
    return jax.lax.while_loop(live, one_round, state).rollout

  # A prompt pass over few rows costs nearly what it does over many: slots wait
  # until an eighth of them are free.
  num_refilled = max(1, batch_size // 8)

  def can_refill(state):
    waiting = num_rows - state.next_row
    free = jnp.sum(state.done, dtype=jnp.int32)
    return (waiting > 0) & (free >= jnp.minimum(waiting, num_refilled))

  def fill(state):
    return jax.lax.while_loop(
      can_refill,
      lambda state: fill_slots(state, num_refilled),
      state,
    )

  return jax.lax.while_loop(
    live, lambda state: fill(one_round(state)), fill(state)
  ).rollout
