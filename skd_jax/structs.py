"""The data that flows through skd_jax, and the letters of its shapes.

  Batch -> rollout -> Rollout -> train_step -> TrainState, metrics

and inside the rollout

  DecodeState -> propose -> Proposal -> verify -> Verdict -> commit -> (again)

Axis letters, used in every comment and docstring:

  B  batch (rows)            T  new tokens (response buffer)
  P  prompt buffer           S  P + T, the whole sequence buffer
  G  draft tokens per round  V  vocabulary
  L  layers                  N  key/value heads
  H  head size               D  width of the hidden state

Rows are right-padded and carry one `length` each. A slot at or past `length`
is stale by definition, so nothing is ever rolled back:

  slot      0    1    2    3    4    5    6    7
  row       p0   p1   p2   y0   y1   ?    ?    ?      length = 5
                                     ^ first stale slot: the next token
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypedDict

import jax
from flax import struct

Params = Any  # A pytree of arrays: the weights of one model.
Cache = Any  # A pytree of arrays: the key/value cache of one model.

# The source of a response token, in Rollout.source.
STUDENT = 0  # Proposed by the student and accepted by the teacher.
TEACHER = 1  # Written by the teacher: a replacement, or teacher-written data.
REFERENCE = 2  # Copied from the data set.


class Example(TypedDict):
  """One sentence pair, or question and answer, as text."""

  source: str
  target: str


@struct.dataclass
class Batch:
  """Prompts with their reference responses."""

  prompt: jax.Array  # int32 [B, P], right-padded
  prompt_length: jax.Array  # int32 [B], at least 1
  reference: jax.Array  # int32 [B, T], right-padded, EOS included
  reference_length: jax.Array  # int32 [B]; 0 marks a row that only pads
  index: jax.Array  # int32 [B], which example of its split; -1 in padding
  task: jax.Array  # int32 [B], which task of the run; 0 where there is one
  max_new_tokens: jax.Array  # int32 [B], the most its response may have


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A decoder as pure functions; the weights are an argument of each.

  apply: `(params, tokens [B, n], positions [B, n], cache) -> (hidden [B, n, D],
    cache)`. With a cache, the keys and values of the n tokens are written to
    the slots `positions`, and a query at position p sees the slots 0..p. With
    `cache=None`, a query sees the tokens of the call up to itself.
  head: `(head_params, hidden [..., D]) -> logits [..., V]` in float32, soft cap
    included. `hidden` is the output of the final norm, as returned by `apply`.
  head_params: `params -> head_params`, the part of the weights that the head
    reads (the tied embedding, or the untied head). The leading axis of its
    arrays is V, and row v of them alone decides logit v.
  init_cache: `(batch_size, num_slots) -> cache`, all zeros.
  vocab_size: V.
  hidden_size: D.
  """

  apply: Callable[
    [Params, jax.Array, jax.Array, Cache], tuple[jax.Array, Cache]
  ]
  head: Callable[[Params, jax.Array], jax.Array]
  head_params: Callable[[Params], Params]
  init_cache: Callable[[int, int], Cache]
  vocab_size: int
  hidden_size: int


@struct.dataclass
class Rollout:
  """Responses, where each token came from, and the teacher's view of them.

  position       0  1  2  3  4
  tokens         a  b  c  d  -      length = 4
  draft_tokens   a  b  x  d  -      what the student proposed
  source         S  S  T  S  -      so c replaced x
  """

  tokens: jax.Array  # int32 [B, T]; EOS is in it only if it was sampled
  length: jax.Array  # int32 [B]
  source: jax.Array  # int8 [B, T]: STUDENT, TEACHER or REFERENCE
  draft_tokens: jax.Array  # int32 [B, T]; equal to tokens where accepted
  stopped: jax.Array  # bool [B]: ended by EOS or a stop sequence, not by T
  num_rounds: jax.Array  # int32 [B]: teacher passes while the row was live
  teacher_hidden: jax.Array | None  # [B, T, D_teacher]: predicts tokens[t]


@struct.dataclass
class DecodeState:
  """The loop state: B slots that decode, and Q rows that are written.

  Without a queue Q = B and slot b holds row b. With one, a slot whose row is
  done takes the next prompt:

    slot 0   row 0 ......| row 3 ..| row 4 .......
    slot 1   row 1 ..| row 2 ............|            Q = 5, B = 2

  Slot b has read all but `last_token` of its sequence.
  """

  next_row: jax.Array  # int32 [], the first row that no slot has taken
  caches: tuple[Cache, ...]  # of each model that takes part
  # Of the slots.
  row: jax.Array  # int32 [B], which row the slot holds; Q for none
  prompt_length: jax.Array  # int32 [B]
  last_token: jax.Array  # int32 [B], the newest token; no model has read it
  length: jax.Array  # int32 [B], response tokens so far
  max_new_tokens: jax.Array  # int32 [B], the row's limit, at most T
  stop_state: jax.Array  # int32 [B], of the stop automaton
  done: jax.Array  # bool [B]
  num_rounds: jax.Array  # int32 [B]
  # Of the rows.
  rollout: Rollout


@struct.dataclass
class Proposal:
  """G drafted tokens of the student."""

  tokens: jax.Array  # int32 [B, G]
  log_prob: jax.Array  # float32 [B, G], under the student's sampling law
  hidden: jax.Array  # [B, G, D_student], what the tokens were drawn from


@struct.dataclass
class Verdict:
  """What a round emits: the first `num_tokens` of `tokens`."""

  tokens: jax.Array  # int32 [B, G]
  num_tokens: jax.Array  # int32 [B], in 1..G
  source: jax.Array  # int8 [B, G]
  draft_tokens: jax.Array  # int32 [B, G]
  teacher_hidden: jax.Array | None  # [B, G, D_teacher]


@struct.dataclass
class TrainState:
  """All that training changes; what a checkpoint holds."""

  step: jax.Array  # int32 []
  params: Params  # float32 masters
  opt_state: Any  # the optimizer's pytree
