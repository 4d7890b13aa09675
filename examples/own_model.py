"""A Flax model of your own through `rollout` and the chunked loss."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

import skd_jax


def bigram(seed, vocab_size=50):
  """Returns the Policy of a model that sees the last token."""
  embed = nnx.Embed(vocab_size, 16, rngs=nnx.Rngs(seed))
  graphdef, state = nnx.split(embed)
  model = skd_jax.LanguageModel(
    # A model that looks back keeps its keys and values in the cache.
    apply=lambda p, tokens, at, cache: (nnx.merge(graphdef, p)(tokens), cache),
    head=lambda head_params, hidden: hidden @ head_params.T,
    head_params=lambda params: params["embedding"],
    init_cache=lambda num_rows, num_slots: jnp.zeros(num_rows),
  )
  return skd_jax.Policy(nnx.to_pure_dict(state), model)


def distill_once(student, teacher, rule, threshold, token_loss):
  """Returns (rollout, gradient, LossSums) of one batch."""
  batch = skd_jax.prompt_batch([[3, 1], [4], [1, 5, 9]], max_new_tokens=12)
  keys = skd_jax.row_keys(0, 0, batch.index)  # Seed, step, rows.
  stops = skd_jax.make_stop_table(50, eos_ids=[0])
  run = functools.partial(skd_jax.rollout, rule=rule, max_new_tokens=12)
  rollout = jax.jit(run)(student, teacher, batch, keys, stops, threshold)
  models = {"student": student.model, "teacher": teacher.model}
  head = teacher.model.head_params(teacher.params)  # Of the frozen teacher.
  grad_fn = jax.grad(skd_jax.rollout_loss, has_aux=True)
  gradient, sums = grad_fn(
    student.params, head, batch, rollout, token_loss=token_loss, **models
  )
  return rollout, gradient, sums


if __name__ == "__main__":
  pair, rule = (bigram(0), bigram(1)), skd_jax.Rule("top_k")
  loss = skd_jax.distillation_token_loss(skd_jax.forward_kl)
  print(distill_once(*pair, rule, jnp.float32(10), loss))
