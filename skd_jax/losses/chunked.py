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
from skd_jax.decoding import acceptance
from skd_jax.losses import divergence as divergence_lib
from skd_jax.parallel import sharding

_HEAD_BLOCK = 16_384  # Rows of the head whose gradient is held at once.

WEIGHTS = (
  "uniform",
  "accepted_only",
  "teacher_confidence",
  "replaced_ce",
  "verified",
)


@struct.dataclass
class Sums:
  """Sums over tokens; divided once, when every part has been added."""

  loss: jax.Array  # float32 [], of weight times token loss
  weight: jax.Array  # float32 []
  tokens: jax.Array  # float32 [], how many
  kl: jax.Array  # float32 [], KL(teacher || student), in nats
  agreement: jax.Array  # float32 [], the same most probable token
  least: jax.Array  # float32 [], the least token loss (a minimum, not a sum)

  @classmethod
  def zero(cls) -> "Sums":
    """Returns the sums over no token."""
    zero = jnp.float32(0)
    return cls(zero, zero, zero, zero, zero, jnp.float32(jnp.inf))

  def __add__(self, other: "Sums") -> "Sums":
    total = jax.tree.map(jnp.add, self, other)
    return dataclasses.replace(
      total, least=jnp.minimum(self.least, other.least)
    )

  def over_groups(self) -> "Sums":
    """Returns the sums over all groups of devices; see sharding.by_rows."""
    return dataclasses.replace(
      sharding.sum_over_groups(self),
      least=sharding.least_of_groups(self.least),
    )

  def means(self) -> dict[str, jax.Array]:
    """Returns the metrics of a step: sums divided by their counts."""
    tokens = jnp.maximum(self.tokens, 1.0)
    return {
      "loss": self.loss / jnp.maximum(self.weight, 1e-6),
      "kl": self.kl / tokens,
      "agreement": self.agreement / tokens,
      "tokens": self.tokens,
      "least_token_loss": self.least,
    }


@struct.dataclass
class TokenInputs:
  """What the loss of a token looks at, beside the student's hidden state."""

  tokens: jax.Array  # int32 [N]
  source: jax.Array  # int8 [N]
  teacher_hidden: jax.Array | None  # [N, D_teacher]


# (student logits [C, V], teacher logits [C, V] or None, TokenInputs [C])
#   -> Sums of shape [C] (`least` is the token loss)
TokenLoss = Callable[[jax.Array, jax.Array | None, TokenInputs], Sums]


def cross_entropy(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """-log q(token): float [..., V], int32 [...] -> float32 [...]."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def supervised_token_loss(
  student: jax.Array, teacher: jax.Array | None, inputs: TokenInputs
) -> Sums:
  """Cross-entropy on the tokens as they are: SFT, and SeqKD."""
  del teacher
  value = cross_entropy(student, inputs.tokens)
  return Sums(
    loss=value,
    weight=jnp.ones_like(value),
    tokens=jnp.ones_like(value),
    kl=jnp.zeros_like(value),
    agreement=_as_float(jnp.argmax(student, -1) == inputs.tokens),
    least=value,
  )


def distillation_token_loss(
  divergence: divergence_lib.Divergence,
  weights: str,
  *,
  verified_k: int = 25,
  unverified_weight: float = 0.1,
) -> TokenLoss:
  """Builds the loss of SKD and of every other distillation method.

  Args:
    divergence: from divergence.py.
    weights: `uniform`; `accepted_only` (the student's accepted tokens alone);
      `teacher_confidence` (weight max_v p_v); `replaced_ce` (cross-entropy on
      the tokens that the teacher replaced, the divergence elsewhere);
      `verified` (see the next two, after arXiv 2510.24021: the loss counts
      less where the teacher does not verify the token, whoever wrote it. The
      paper verifies what the student proposes; on what the student writes that
      is the same token).
    verified_k: a token is verified among so many of the teacher's best. This
      number and the next are ours, not the paper's.
    unverified_weight: of the others.

  Raises:
    ValueError: an unknown `weights`.
  """
  if weights not in WEIGHTS:
    raise ValueError(
      f"loss.weights = {weights!r}: must be one of {list(WEIGHTS)}"
    )

  def token_loss(student, teacher, inputs):
    value = divergence(teacher, student)
    weight = jnp.ones_like(value)
    replaced = inputs.source == structs.TEACHER
    if weights == "accepted_only":
      weight = _as_float(inputs.source == structs.STUDENT)
    elif weights == "teacher_confidence":
      weight = jnp.max(jax.nn.softmax(teacher), axis=-1)
    elif weights == "verified":
      rank = acceptance.token_rank(teacher, inputs.tokens)
      weight = _as_float(jnp.where(rank < verified_k, 1.0, unverified_weight))
    elif weights == "replaced_ce":
      hard = cross_entropy(student, inputs.tokens)
      value = jnp.where(replaced, hard, value)
    return Sums(
      loss=weight * value,
      weight=weight,
      tokens=jnp.ones_like(value),
      kl=divergence_lib.forward_kl(teacher, student),
      agreement=_as_float(
        acceptance.token_rank(student, jnp.argmax(teacher, axis=-1)) == 0
      ),
      least=value,
    )

  return token_loss


@jax.named_scope("loss")
def chunked_loss(
  token_loss: TokenLoss,
  student: structs.LanguageModel,
  teacher: structs.LanguageModel | None,
  chunk_size: int,
  student_head: structs.Params,
  hidden: jax.Array,
  teacher_head: structs.Params,
  inputs: TokenInputs,
  mask: jax.Array,
) -> tuple[jax.Array, Sums]:
  """Sums a token loss over the valid tokens, chunk by chunk.

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
    (float32 [] sum of the loss, Sums over the valid tokens).
  """

  def sums_fn(logits, inputs, teacher_head, valid):
    teacher_logits = None
    if teacher is not None:
      teacher_logits = teacher.head(teacher_head, inputs.teacher_hidden)
    sums = token_loss(logits, teacher_logits, inputs)
    least = jnp.min(jnp.where(valid, sums.least, jnp.inf))
    sums = jax.tree.map(lambda x: jnp.sum(jnp.where(valid, x, 0.0)), sums)
    return sums.loss, dataclasses.replace(sums, least=least)

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

    return walk_chunks(one_chunk, Sums.zero(), mask, chunk_size).over_groups()

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
      one_chunk, (Sums.zero(), zeros, jnp.zeros_like(hidden)), mask, chunk_size
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


def _as_float(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32)
