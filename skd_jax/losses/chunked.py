"""The training loss, without ever holding a `[B, T, V]` tensor.

The valid tokens of the batch are gathered, and a loop walks over chunks of
them. Inside a chunk: both heads, the divergence, and at once the gradient, in
float32. A chunk leaves behind `[chunk, D]` and the gradient of the head.

  mask         1 1 1 0 0 0 | 1 1 0 0 0 0 | 1 1 1 1 1 0     3 rows, T = 6
  valid tokens 0 1 2   6 7   12 13 14 15 16                10 of 18
  chunks of 4  [0 1 2 6] [7 12 13 14] [15 16 - -]          3 steps, not 5
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs
from skd_jax.losses import token_losses
from skd_jax.parallel import sharding

_HEAD_BLOCK = 16_384  # Rows of the head whose gradient is held at once.


@struct.dataclass
class LossSums:
  """LossSums over tokens; divided once, when every part has been added."""

  loss: jax.Array  # float32 [], of weight times token loss
  weight: jax.Array  # float32 []
  tokens: jax.Array  # float32 [], how many
  kl: jax.Array  # float32 [], KL(teacher || student), in nats
  agreement: jax.Array  # float32 [], the same most probable token
  min_token_loss: jax.Array  # float32 [], a minimum, not a sum

  @classmethod
  def zero(cls) -> "LossSums":
    """Returns the sums over no token."""
    zero = jnp.float32(0)
    return cls(zero, zero, zero, zero, zero, jnp.float32(jnp.inf))

  @classmethod
  def of_tokens(
    cls, metrics: token_losses.TokenMetrics, valid: jax.Array
  ) -> "LossSums":
    """Returns the sums over the tokens where `valid`, bool [C], is True."""

    def total(x):
      return jnp.sum(jnp.where(valid, x, 0.0))

    return cls(
      loss=total(metrics.loss),
      weight=total(metrics.weight),
      tokens=total(jnp.ones_like(metrics.loss)),
      kl=total(metrics.kl),
      agreement=total(metrics.agreement),
      min_token_loss=jnp.min(jnp.where(valid, metrics.value, jnp.inf)),
    )

  def __add__(self, other: "LossSums") -> "LossSums":
    total = jax.tree.map(jnp.add, self, other)
    least = jnp.minimum(self.min_token_loss, other.min_token_loss)
    return dataclasses.replace(total, min_token_loss=least)

  def over_groups(self) -> "LossSums":
    """Returns the sums over all data-parallel groups; see sharding.by_rows."""
    return dataclasses.replace(
      sharding.sum_over_groups(self),
      min_token_loss=sharding.min_over_groups(self.min_token_loss),
    )

  def means(self) -> dict[str, jax.Array]:
    """Returns the metrics of a step: sums divided by their counts."""
    tokens = jnp.maximum(self.tokens, 1.0)
    return {
      "loss": self.loss / jnp.maximum(self.weight, 1e-6),
      "kl": self.kl / tokens,
      "agreement": self.agreement / tokens,
      "tokens": self.tokens,
      "min_token_loss": self.min_token_loss,
    }


@jax.named_scope("loss")
def chunked_loss(
  token_loss: token_losses.TokenLoss,
  student: structs.LanguageModel,
  teacher: structs.LanguageModel | None,
  chunk_size: int,
  student_head: structs.Params,
  hidden: jax.Array,
  teacher_head: structs.Params,
  inputs: token_losses.TokenInputs,
  mask: jax.Array,
) -> tuple[jax.Array, LossSums]:
  """LossSums a token loss over the valid tokens, chunk by chunk.

  Differentiable once, in `student_head` and `hidden`.

  Args:
    token_loss: the loss of a chunk of tokens.
    student: its `head` is applied.
    teacher: likewise; None for a loss without a teacher.
    chunk_size: C, tokens per step. Memory is C V floats a few times over, and
      the gradient of the head once; every step reads and writes that gradient,
      so that few steps are faster.
    student_head: the student's head weights.
    hidden: [N, D], the student's states.
    teacher_head: the teacher's head weights; not differentiated.
    inputs: fields of leading size N.
    mask: bool [N].

  Returns:
    (float32 [] sum of the loss, LossSums over the valid tokens).
  """

  def sums_fn(logits, inputs, teacher_head, valid):
    teacher_logits = None
    if teacher is not None:
      teacher_logits = teacher.head(teacher_head, inputs.teacher_hidden)
    metrics = token_loss(logits, teacher_logits, inputs)
    sums = LossSums.of_tokens(metrics, valid)
    return sums.loss, sums

  return _chunked(
    student.head,
    sums_fn,
    chunk_size,
    student_head,
    hidden,
    inputs,
    teacher_head,
    mask,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _chunked(
  head, sums_fn, chunk_size, weights, hidden, inputs, constants, mask
):
  """Walks over the chunks without gradients; see chunked_loss."""

  def walk(shared, rows):
    weights, constants = shared
    hidden, inputs, mask = rows

    def one_chunk(take, valid, carry):
      logits = head(weights, take(hidden))
      _, sums = sums_fn(logits, jax.tree.map(take, inputs), constants, valid)
      return carry + sums

    return walk_chunks(
      one_chunk, LossSums.zero(), mask, chunk_size
    ).over_groups()

  sums = sharding.by_rows(walk, out=sharding.OF_ALL)(
    (weights, constants), (hidden, inputs, mask)
  )
  return sums.loss, sums


def _chunked_forward(
  head, sums_fn, chunk_size, weights, hidden, inputs, constants, mask
):
  """Walks over the chunks and takes the gradients on the way."""

  def walk(shared, rows):
    weights, constants = shared
    hidden, inputs, mask = rows

    def one_chunk(take, valid, carry):
      sums, weights_grad, hidden_grad = carry
      states = take(hidden)
      logits, to_states = jax.vjp(functools.partial(head, weights), states)
      (_, more), logits_grad = jax.value_and_grad(sums_fn, has_aux=True)(
        logits, jax.tree.map(take, inputs), constants, valid
      )
      weights_grad = _add_head_gradient(
        weights_grad, head, weights, states, logits_grad
      )
      (states_grad,) = to_states(logits_grad)
      return sums + more, weights_grad, take.put(hidden_grad, states_grad)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), weights)
    sums, weights_grad, hidden_grad = walk_chunks(
      one_chunk,
      (LossSums.zero(), zeros, jnp.zeros_like(hidden)),
      mask,
      chunk_size,
    )
    return (
      sums.over_groups(),
      sharding.sum_over_groups(weights_grad),
      hidden_grad,
    )

  sums, weights_grad, hidden_grad = sharding.by_rows(
    walk, out=(sharding.OF_ALL, sharding.OF_ALL, sharding.OF_ROWS)
  )((weights, constants), (hidden, inputs, mask))
  weights_grad = jax.tree.map(
    lambda grad, x: grad.astype(x.dtype), weights_grad, weights
  )
  return (sums.loss, sums), (weights_grad, hidden_grad)


def _add_head_gradient(
  total: structs.Params,
  head: Callable[[structs.Params, jax.Array], jax.Array],
  weights: structs.Params,
  hidden: jax.Array,
  logits_grad: jax.Array,
) -> structs.Params:
  """Adds a chunk's gradient of the head to `total`, block by block of V.

  At once, the gradient of a chunk would be a second array of the size of the
  head. Row v of the head alone decides logit v, so a block of rows can be
  treated as a head of its own. A head that is cut along `tensor` is in blocks
  already. V = 10, blocks of 4:

    rows   0 1 2 3 | 4 5 6 7 | 6 7 8 9     the last block starts early, to fit;
    new    y y y y | y y y y | n n y y     what it repeats is not added twice
  """
  vocab_size = logits_grad.shape[-1]
  size = min(_HEAD_BLOCK, vocab_size)
  if sharding.shards_tensors():
    size = vocab_size

  def add_block(i, total):
    start = jnp.minimum(i * size, vocab_size - size)

    def block(x, axis=0):
      return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

    new = start + jnp.arange(size) >= i * size
    part = jnp.where(new[None, :], block(logits_grad, axis=1), 0.0)
    _, to_rows = jax.vjp(
      lambda rows: head(rows, hidden), jax.tree.map(block, weights)
    )
    (more,) = to_rows(part)
    return jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_slice_in_dim(
        x, block(x) + y.astype(jnp.float32), start, 0
      ),
      total,
      more,
    )

  return jax.lax.fori_loop(0, -(-vocab_size // size), add_block, total)


def _chunked_backward(head, sums_fn, chunk_size, gradients, cotangents):
  del head, sums_fn, chunk_size
  scale, _ = cotangents  # Only the loss is differentiated, not the metrics.
  weights_grad, hidden_grad = jax.tree.map(
    lambda x: x * scale.astype(x.dtype), gradients
  )
  return weights_grad, hidden_grad, None, None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


class _Take:
  """Gathers the rows of one chunk, and puts rows back where they were."""

  def __init__(self, index: jax.Array):
    self._index = index

  def __call__(self, x: jax.Array) -> jax.Array:
    return x.at[self._index].get(mode="fill", fill_value=0)

  def put(self, x: jax.Array, rows: jax.Array) -> jax.Array:
    return x.at[self._index].set(rows, mode="drop")


def walk_chunks(
  one_chunk: Callable[[Any, jax.Array, Any], Any],
  carry: Any,
  mask: jax.Array,
  chunk_size: int,
) -> Any:
  """Calls `one_chunk(take, valid, carry) -> carry` for chunks of valid tokens.

  Args:
    one_chunk: `take` gathers the chunk's rows of an array [N, ...]; valid, bool
      [C], is False where the last chunk has no more tokens.
    carry: the first carry.
    mask: bool [N], the valid tokens.
    chunk_size: C.

  Returns:
    The last carry.
  """
  num_tokens = mask.shape[0]
  chunk_size = min(chunk_size, num_tokens)
  num_slots = -(-num_tokens // chunk_size) * chunk_size
  # Valid tokens first; what is left points past the end and is dropped.
  order = jnp.nonzero(mask, size=num_slots, fill_value=num_tokens)[0]
  num_valid = jnp.sum(mask, dtype=jnp.int32)

  def body(i, carry):
    start = i * chunk_size
    index = jax.lax.dynamic_slice(order, (start,), (chunk_size,))
    return one_chunk(_Take(index), index < num_tokens, carry)

  num_chunks = (num_valid + chunk_size - 1) // chunk_size
  return jax.lax.fori_loop(0, num_chunks, body, carry)
