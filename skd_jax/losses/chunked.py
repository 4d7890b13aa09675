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

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs
from skd_jax.losses import token_losses
from skd_jax.parallel import sharding

NUM_LOGITS = 4  # Arrays [..., V] of float32 that are alive at once.
# What the logits of a chunk may take where the settings do not say it: a
# sixteenth of the smallest TPU, a twelfth of a GPU of 24 GiB. On a CPU, the
# logits of few tokens stay in its caches.
_CHUNK_BYTES = {"tpu": 2**30, "gpu": 2**31}
_MIN_CHUNK, _MAX_CHUNK = 256, 4096
_HEAD_BLOCK = 16_384  # Rows of the head whose gradient is held at once.


@struct.dataclass
class LossSums:
  """Sums over tokens; divided once, when every part has been added."""

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


def fitting_size(asked: int, vocab_size: int, mesh: jax.sharding.Mesh) -> int:
  """Returns how many tokens' logits should be held at once.

  A chunk reads both heads, and reads and writes the gradient of one. On a TPU
  and a GPU this takes as long as the products of hundreds of tokens: a chunk is
  as large as memory that is hardly missed. The same on all processes.

  Args:
    asked: by the settings; 0: what suits V and the devices.
    vocab_size: V.
    mesh: `tensor` divides V.
  """
  platform = mesh.devices.flat[0].platform
  if asked or platform not in _CHUNK_BYTES:
    return asked or _MIN_CHUNK
  of_token = NUM_LOGITS * 4 * -(-vocab_size // mesh.shape["tensor"])
  fitting = min(_CHUNK_BYTES[platform] // of_token, _MAX_CHUNK)
  return 2 ** (max(fitting, _MIN_CHUNK).bit_length() - 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
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
  """Sums a token loss over the valid tokens, chunk by chunk.

  Differentiable once, in `student_head` and `hidden`. The gradient of a head
  that is not trained is not taken.

  Args:
    token_loss: the loss of a chunk of tokens.
    student: its `head` is applied.
    teacher: likewise; None for a loss without a teacher.
    chunk_size: C, tokens per step. Memory is C V floats a few times over, and
      the gradient of a trained head once; every step reads and writes that
      gradient, so that few steps are faster.
    student_head: the student's head weights.
    hidden: [N, D], the student's states.
    teacher_head: the teacher's head weights; not differentiated.
    inputs: fields of leading size N.
    mask: bool [N].

  Returns:
    (float32 [] sum of the loss, LossSums over the valid tokens).
  """

  def walk(heads, rows):
    student_head, teacher_head = heads
    hidden, inputs, mask = rows
    chunks = Chunks(mask, chunk_size)

    def add_chunk(i, total):
      take, valid = chunks[i]
      logits = student.head(student_head, take(hidden))
      inputs_of_chunk = jax.tree.map(take, inputs)
      _, sums = _chunk_sums(
        logits, inputs_of_chunk, teacher_head, valid, token_loss, teacher
      )
      return total + sums

    zero = LossSums.zero()
    return jax.lax.fori_loop(0, chunks.number, add_chunk, zero).over_groups()

  sums = sharding.by_rows(walk, out=sharding.OF_ALL)(
    (student_head, teacher_head), (hidden, inputs, mask)
  )
  return sums.loss, sums


def _chunk_sums(
  student_logits: jax.Array,
  inputs: token_losses.TokenInputs,
  teacher_head: structs.Params,
  valid: jax.Array,
  token_loss: token_losses.TokenLoss,
  teacher: structs.LanguageModel | None,
) -> tuple[jax.Array, LossSums]:
  """The loss of a chunk of C tokens, of its logits [C, V], and its sums."""
  teacher_logits = None
  if teacher is not None:
    if inputs.teacher_hidden is None:
      raise ValueError("teacher_hidden = None: must be given with a teacher")
    teacher_logits = teacher.head(teacher_head, inputs.teacher_hidden)
  metrics = token_loss(student_logits, teacher_logits, inputs)
  sums = LossSums.of_tokens(metrics, valid)
  return sums.loss, sums


@jax.named_scope("loss")
def _forward(
  token_loss,
  student,
  teacher,
  chunk_size,
  student_head,
  hidden,
  teacher_head,
  inputs,
  mask,
):
  """chunked_loss, with the gradients taken on the way.

  The leaves of the arguments are `jax.custom_derivatives.CustomVJPPrimal`.
  """
  is_trained = any(x.perturbed for x in jax.tree.leaves(student_head))
  student_head, hidden, teacher_head, inputs, mask = (
    jax.custom_derivatives.custom_vjp_primal_tree_values(
      (student_head, hidden, teacher_head, inputs, mask)
    )
  )

  def walk(heads, rows):
    student_head, teacher_head = heads
    hidden, inputs, mask = rows
    chunks = Chunks(mask, chunk_size)

    def add_chunk(i, carry):
      sums, head_grad, hidden_grad = carry
      take, valid = chunks[i]
      states = take(hidden)
      logits, to_states = jax.vjp(
        functools.partial(student.head, student_head), states
      )
      (_, more), logits_grad = jax.value_and_grad(_chunk_sums, has_aux=True)(
        logits,
        jax.tree.map(take, inputs),
        teacher_head,
        valid,
        token_loss,
        teacher,
      )
      if is_trained:
        head_grad = _add_head_gradient(
          head_grad, student.head, student_head, states, logits_grad
        )
      (states_grad,) = to_states(logits_grad)
      return sums + more, head_grad, take.put(hidden_grad, states_grad)

    zeros = None
    if is_trained:
      zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.float32), student_head
      )
    sums, head_grad, hidden_grad = jax.lax.fori_loop(
      0,
      chunks.number,
      add_chunk,
      (LossSums.zero(), zeros, jnp.zeros_like(hidden)),
    )
    return (
      sums.over_groups(),
      sharding.sum_over_groups(head_grad),
      hidden_grad,
    )

  sums, head_grad, hidden_grad = sharding.by_rows(
    walk, out=(sharding.OF_ALL, sharding.OF_ALL, sharding.OF_ROWS)
  )((student_head, teacher_head), (hidden, inputs, mask))
  if is_trained:
    head_grad = jax.tree.map(
      lambda grad, x: grad.astype(x.dtype), head_grad, student_head
    )
  return (sums.loss, sums), (head_grad, hidden_grad)


def _add_head_gradient(
  total: structs.Params,
  head: Callable[[structs.Params, jax.Array], jax.Array],
  weights: structs.Params,
  hidden: jax.Array,
  logits_grad: jax.Array,
) -> structs.Params:
  """Adds a chunk's gradient of the head to `total`.

  A TPU and a GPU add to the total while they multiply. On a CPU the gradient of
  a chunk would be a second array of the size of the head: it is made block by
  block of V. Row v of the head alone decides logit v, so a block of rows can be
  treated as a head of its own. A head that is sharded over `tensor` is in
  blocks already. V = 10, blocks of 4:

    rows   0 1 2 3 | 4 5 6 7 | 6 7 8 9     the last block starts early, to fit;
    new    y y y y | y y y y | n n y y     what it repeats is not added twice
  """

  def gradient(weights, logits_grad):
    _, to_weights = jax.vjp(lambda rows: head(rows, hidden), weights)
    (found,) = to_weights(logits_grad)
    return jax.tree.map(lambda x: x.astype(jnp.float32), found)

  if sharding.shards_tensors() or sharding.platform() != "cpu":
    return jax.tree.map(jnp.add, total, gradient(weights, logits_grad))
  vocab_size = logits_grad.shape[-1]
  size = min(_HEAD_BLOCK, vocab_size)

  def add_block(i, total):
    start = jnp.minimum(i * size, vocab_size - size)

    def block(x, axis=0):
      return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

    new = start + jnp.arange(size) >= i * size
    part = jnp.where(new[None, :], block(logits_grad, axis=1), 0.0)
    more = gradient(jax.tree.map(block, weights), part)
    return jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_slice_in_dim(
        x, block(x) + y, start, 0
      ),
      total,
      more,
    )

  return jax.lax.fori_loop(0, -(-vocab_size // size), add_block, total)


def _backward(token_loss, student, teacher, chunk_size, gradients, cotangents):
  del token_loss, student, teacher, chunk_size
  scale, _ = cotangents  # Only the loss is differentiated, not the metrics.
  head_grad, hidden_grad = jax.tree.map(
    lambda x: x * scale.astype(x.dtype), gradients
  )
  return head_grad, hidden_grad, None, None, None


chunked_loss.defvjp(_forward, _backward, symbolic_zeros=True)


class Chunks:
  """The valid tokens of a mask, C at a time; the number is known in the loop.

    take, valid = chunks[i]

  `take` gathers the rows of chunk i of an array [N, ...], and `take.put` puts
  rows back; valid, bool [C], is False where the last chunk has no more tokens.
  """

  def __init__(self, mask: jax.Array, chunk_size: int):
    """Orders the tokens of `mask`, bool [N], into chunks of `chunk_size`."""
    self._num_tokens = mask.shape[0]
    self._size = min(chunk_size, self._num_tokens)
    num_slots = -(-self._num_tokens // self._size) * self._size
    # Valid tokens first; what is left points past the end and is dropped.
    self._order = jnp.nonzero(
      mask, size=num_slots, fill_value=self._num_tokens
    )[0]
    num_valid = jnp.sum(mask, dtype=jnp.int32)
    self.number = (num_valid + self._size - 1) // self._size

  def __getitem__(self, i: jax.Array) -> "tuple[_Take, jax.Array]":
    start = i * self._size
    index = jax.lax.dynamic_slice(self._order, (start,), (self._size,))
    return _Take(index), index < self._num_tokens


class _Take:
  """Gathers the rows of one chunk, and puts rows back where they were."""

  def __init__(self, index: jax.Array):
    self._index = index

  def __call__(self, x: jax.Array) -> jax.Array:
    return x.at[self._index].get(mode="fill", fill_value=0)

  def put(self, x: jax.Array, rows: jax.Array) -> jax.Array:
    return x.at[self._index].set(rows, mode="drop")
