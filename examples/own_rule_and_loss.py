"""An acceptance rule and a token loss of your own."""

import jax
import jax.numpy as jnp
from own_model import bigram, distill_once

import skd_jax


def accept_near_best(inputs, threshold):
  """Accepts a token whose logit is within `threshold` of the teacher's best.

  inputs is a decoding.acceptance.VerificationInputs; returns bool [B, G].
  """
  own = jnp.take_along_axis(
    inputs.teacher_logits, inputs.tokens[..., None], axis=-1
  )[..., 0]
  return own >= jnp.max(inputs.teacher_logits, axis=-1) - threshold


def entropy_weighted_kl(teacher, student):
  """Forward KL, weighted by the teacher's entropy; logits [..., V] to [...]."""
  log_probs = jax.nn.log_softmax(teacher)
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return entropy * skd_jax.forward_kl(teacher, student)


if __name__ == "__main__":
  rule = skd_jax.Rule(accept_near_best, replace="sample")
  loss = skd_jax.distillation_token_loss(entropy_weighted_kl)
  rollout, _, sums = distill_once(
    bigram(0), bigram(1), rule, jnp.float32(0.5), loss
  )
  replaced = rollout.source == 1  # structs.TEACHER
  print(f"{int(replaced.sum())} replaced, loss {float(sums.means()['loss'])}")
