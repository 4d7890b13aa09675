"""Few prompts, many epochs: the regime of the SKD paper, on embedded data.

python -m skd_jax.compare --study=configs/studies/few_prompts.py \\
  --workdir=workdir/few_prompts

Written before it was run; what came out is in docs/results/quality.md.
"""

import ml_collections

from configs import wmt
from skd_jax import grids
from skd_jax.study import Arm, Study


def get_config() -> ml_collections.ConfigDict:
  """The embedded corpus, and a larger test set.

  The start has read 11,200 pairs of the corpus once, drawn from all of it: it
  stands for a pretrained student, which a model of this size that has seen the
  distillation set alone cannot (0.3 BLEU before distillation, and 4 after it
  with any method: a pilot).
  """
  config = wmt.embedded_compare()
  config.task = "embedded German to English, few prompts"
  config.seeds = (0,)
  config.data.max_validation_examples = 256
  config.data.max_test_examples = 1000
  config.distill.update(
    num_steps=400, max_examples=1000, evaluate_every_steps=400
  )
  return config


def _regime(num_prompts: int, num_steps: int) -> dict[str, int]:
  """About 13 epochs of distillation."""
  return {
    "distill.max_examples": num_prompts,
    "distill.num_steps": num_steps,
    "distill.evaluate_every_steps": num_steps,
  }


STUDY = Study(
  name="few_prompts",
  question=(
    "With few prompts and many epochs, is a response that student and teacher "
    "generate together better to learn from than the reference, the teacher's "
    "or the student's own?"
  ),
  regimes={
    "1000 prompts": _regime(1000, 400),
    "300 prompts": _regime(300, 120),
    "3000 prompts": _regime(3000, 1200),
  },
  arms={
    name: Arm(name)
    for name in (
      *grids.BASELINES,
      "skd",
      "prob_floor_to_zero",
      "bridge_to_zero",
      "saki",
      "ipd",
    )
  },
  baselines=grids.BASELINES,
  seeds=10,
  metric="bleu",
  stopping=(
    "All arms have 10 seeds in every regime; no arm is added, dropped or tuned "
    "on the test split. The rule that is recommended has the best mean rank by "
    "the last validation score over the regimes of all studies."
  ),
)
