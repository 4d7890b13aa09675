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
  if learned is None:
    return model.response_hidden(params, prompt, prompt_length, tokens)
  # The prompt, one token, and the response are the row.
  row = jnp.concatenate([prompt, tokens[:, :-1]], axis=1)
  positions = packed_positions(learned[:, : row.shape[1] - 1])
  return model.apply(params, row, positions, None, packed=True)[0]


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
