"""The hidden states that predict a response that is there already.

One forward pass over prompt and response: of the student, to train it; of the
teacher, for responses that it has not verified (references, and what the
student or the teacher generated alone).
"""

import jax

from skd_jax import structs


@jax.named_scope("hidden")
def response_hidden(
  model: structs.LanguageModel,
  params: structs.Params,
  prompt: jax.Array,
  prompt_length: jax.Array,
  tokens: jax.Array,
) -> jax.Array:
  """Runs a model over prompt and response and keeps the predicting states.

  Args:
    model: the model.
    params: its weights.
    prompt: int32 [B, P], right-padded.
    prompt_length: int32 [B].
    tokens: int32 [B, T], right-padded.

  Returns:
    [B, T, D]; entry t predicts tokens[:, t].
  """
  return model.response_hidden(params, prompt, prompt_length, tokens)
