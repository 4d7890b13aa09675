"""Prompts as token ids to a Batch, without references."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from skd_jax import structs

_PROMPT_MULTIPLE = 32  # Prompt buffers are rounded up to this.


def prompt_batch(
  prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> structs.Batch:
  """Returns a Batch [B, P] of prompts as token ids, without references.

  Args:
    prompts: of any lengths, at least one token each; row b has index b. For an
      encoder-decoder more than the `decoder_prompt_size` of its config, those
      that its decoder starts from.
    max_new_tokens: the most tokens of a response.

  Raises:
    ValueError: there is no prompt, or one has no tokens.
  """
  if not prompts or not all(len(ids) for ids in prompts):
    raise ValueError(
      "prompts: must be at least one, each of at least one token"
    )
  arrays = {row: np.asarray(ids, np.int32) for row, ids in enumerate(prompts)}
  longest = max(len(ids) for ids in prompts)
  return make_prompt_batch(arrays, len(prompts), longest, max_new_tokens)


def make_prompt_batch(
  prompts: Mapping[int, np.ndarray],
  batch_size: int,
  limit: int,
  max_new_tokens: int,
) -> structs.Batch:
  """Right-pads prompts to a Batch of `batch_size` rows without references.

  Args:
    prompts: int32 ids by the number of their line, which becomes the index of
      their row; at most batch_size of them. Lines count from 0.
    batch_size: B; rows without a prompt have index -1.
    limit: the most tokens of a prompt.
    max_new_tokens: the most tokens of an answer.

  Raises:
    ValueError: a prompt is longer than the limit.
  """
  for line, ids in prompts.items():
    if len(ids) > limit:
      raise ValueError(
        f"line {line + 1}: the prompt has {len(ids)} tokens; at most "
        f"{limit} leave room for max_new_tokens = {max_new_tokens}"
      )
  longest = max(len(ids) for ids in prompts.values())
  width = min(-(-longest // _PROMPT_MULTIPLE) * _PROMPT_MULTIPLE, limit)
  prompt = np.zeros((batch_size, width), np.int32)
  length = np.ones(batch_size, np.int32)
  index = np.full(batch_size, -1, np.int32)
  for row, (line, ids) in enumerate(prompts.items()):
    prompt[row, : len(ids)] = ids
    length[row] = len(ids)
    index[row] = line
  return structs.Batch(
    prompt=jnp.asarray(prompt),
    prompt_length=jnp.asarray(length),
    reference=jnp.zeros((batch_size, 1), jnp.int32),
    reference_length=jnp.zeros(batch_size, jnp.int32),
    index=jnp.asarray(index),
    task_id=jnp.zeros(batch_size, jnp.int32),
    max_new_tokens=jnp.full(batch_size, max_new_tokens, jnp.int32),
  )
