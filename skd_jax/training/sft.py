"""Supervised fine-tuning (SFT): cross-entropy on the references."""

import jax

from skd_jax.training import generation
from skd_jax.training.loop import TrainLoop
from skd_jax.training.timing import timed
from skd_jax.training.train_step import TrainFns


def fine_tune(loop: TrainLoop, train: TrainFns) -> None:
  """Trains on the references of each batch of the loop, to its end.

  Args:
    loop: of a state of `train`; its `state` and `totals` are the result.
    train: from make_train_fns, without a teacher.
  """
  for _, batch in loop:
    seconds: dict[str, float] = {}
    with timed(seconds, "train"):
      rollout = generation.reference_rollout(batch)
      state, metrics = jax.block_until_ready(
        train.step(loop.state, None, batch, rollout)
      )
    loop.record(state, metrics, seconds, inputs=(batch, rollout))
