"""The answers of a model to a batch of prompts."""

import functools

import jax

from skd_jax import structs
from skd_jax.decoding import rollout as rollout_lib
from skd_jax.decoding import sampling as sampling_lib
from skd_jax.decoding import stopping
from skd_jax.decoding.policy import Policy
from skd_jax.parallel import sharding


@functools.partial(
  jax.jit, static_argnames=("model", "sampling", "max_new_tokens")
)
def answer(
  params: structs.Params,
  batch: structs.Batch,
  *,
  stop_table: stopping.StopTable,
  model: structs.LanguageModel,
  sampling: sampling_lib.Sampling,
  max_new_tokens: int,
) -> structs.Rollout:
  """Returns a model's answers to a batch; jitted.

  One compilation for each model, sampling and width of the prompts: several
  weights of the same model share it. The answer to an example is the same each
  time.

  Args:
    params: the weights.
    batch: the prompts.
    stop_table: what ends an answer.
    model: the model.
    sampling: how its tokens are drawn.
    max_new_tokens: the most tokens of an answer.
  """

  def decode(shared, batch):
    params, stop_table = shared
    return rollout_lib.decode(
      Policy(params, model, sampling),
      batch,
      sampling_lib.row_keys(0, 0, batch.index),
      stop_table,
      max_new_tokens=max_new_tokens,
    )

  return sharding.by_rows(decode)((params, stop_table), batch)
