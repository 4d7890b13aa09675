"""The hidden states that predict a response that is there already.

One forward pass over prompt and response: of the student, to train it; of the
teacher, for responses that it has not verified (references, and what the
student or the teacher generated alone).
"""

import jax
import jax.numpy as jnp

from skd_jax import structs


@jax.named_scope("hidden")
def response_hidden(
  model: structs.LanguageModel,
  params: structs.Params,
  prompt: jax.Array,
  prompt_length: jax.Array,
  tokens: jax.Array,
  learned: jax.Array | None = None,
) -> jax.Array:
  """Runs a model over prompt and response and keeps the predicting states.

  prompt_length = 2, T = 3:

    slot        0   1   2   3   4
    sequence    p0  p1  y0  y1  y2
    predicts        y0  y1  y2          slots prompt_length - 1 + t

  Args:
    model: the model.
    params: its weights.
    prompt: int32 [B, P], right-padded.
    prompt_length: int32 [B].
    tokens: int32 [B, T], right-padded.
    learned: of a packed batch, as in structs.Batch; its prompts have one token.

  Returns:
    [B, T, D]; entry t predicts tokens[:, t].
  """
  prompt_size, new_size = prompt.shape[1], tokens.shape[1]
  # The last response token predicts nothing that is trained.
  slots = jnp.arange(prompt_size + new_size - 1)[None, :]
  start = prompt_length[:, None]
  from_prompt = jnp.take_along_axis(
    prompt, jnp.minimum(slots, prompt_size - 1), axis=1
  )
  from_response = jnp.take_along_axis(
    tokens, jnp.clip(slots - start, 0, new_size - 1), axis=1
  )
  sequence = jnp.where(slots < start, from_prompt, from_response)
  if learned is None:
    positions = jnp.broadcast_to(slots, sequence.shape)
    hidden, _ = model.apply(params, sequence, positions, None)
  else:
    positions = packed_positions(learned[:, : new_size - 1])
    hidden, _ = model.apply(params, sequence, positions, None, packed=True)
  predicting = start - 1 + jnp.arange(new_size)[None, :]
  return jnp.take_along_axis(hidden, predicting[..., None], axis=1)


def packed_positions(learned: jax.Array) -> jax.Array:
  """Returns the position of each token in its example.

    slot        0   1   2   3   4   5   6   7   8
    sequence    a   a   A   A   b   B   B   -   -
    learned         .   x   x   .   x   x   .   .
    position    0   1   2   3   0   1   2   0   1

  Args:
    learned: bool [B, n - 1], of slots 1 to n - 1; see structs.Batch.

  Returns:
    int32 [B, n]. Padding is an example of its own.
  """
  after = jnp.pad(learned, ((0, 0), (1, 0)))
  before = jnp.pad(after, ((0, 0), (1, 0)))[:, :-1]
  slots = jnp.arange(after.shape[1])[None, :]
  first = jnp.where(before & ~after, slots, 0)
  return slots - jax.lax.cummax(first, axis=1)
