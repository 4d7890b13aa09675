"""How much does each way to distil improve a student as a drafter?

python -m skd_jax.compare --study=configs/studies/drafters.py \\
  --workdir=workdir/drafters

Written before it was run.
"""

import ml_collections

from configs import draft
from skd_jax.study import Arm, Study


def get_config() -> ml_collections.ConfigDict:
  """The demo of configs/draft.py, about a minute of training a run.

  The teacher is that of configs/wmt.py:embedded_compare, the start has the 700
  steps of SFT that it has there.
  """
  config = draft.demo()
  config.task = "embedded German to English, drafters"
  config.seeds = (0,)
  config.data.max_validation_examples = 128
  config.distill.update(
    num_steps=200,
    learning_rate=2e-3,
    evaluate_every_steps=100,
    keep_best=0,
    best_metric="",
    result="last",  # All have trained for as long.
  )
  return config


STUDY = Study(
  name="drafters",
  question=(
    "By how much does each method raise the share of a student's proposals "
    "that its teacher accepts, over the student that SFT leaves and over as "
    "much more SFT?"
  ),
  regimes={"": {}},
  arms={
    # The student before distillation, as a baseline.
    "start": Arm("sft", {"distill.num_steps": 0}),
    **{
      name: Arm(name)
      for name in (
        "sft",
        "supervised_kd",
        "teacher_kd",
        "on_policy_kd",
        "skd",
        "mixture_annealed",
      )
    },
  },
  baselines=("sft", "start"),
  seeds=5,
  metric="acceptance",
  stopping=(
    "All arms have 5 seeds; no arm is added, dropped or tuned on the test "
    "split. The paper's claim is that skd is above start."
  ),
)
