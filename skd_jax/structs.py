"""The data that flows through skd_jax, and the letters of its shapes.

  Batch -> rollout -> Rollout -> train_step -> TrainState, metrics

and inside the rollout

  DecodeState -> propose -> Proposal -> verify -> Verdict -> commit -> DecodeState

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
                                     ^ first stale slot; the next token goes here
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
    reads (the tied embedding, or the untied head).
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
