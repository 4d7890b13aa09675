"""A student that has lost a layer, and few problems: worked arithmetic.

python -m skd_jax.compare --study=configs/studies/pruned_student.py \\
  --workdir=workdir/pruned_student

Written before it was run; what came out is in docs/results/quality.md. It was
piloted with one seed, on half as many test problems: with 1,000 problems all
arms reach the teacher, and without the layers 1 and 3 none learns in 300 steps.
"""

import ml_collections

from configs import chains
from skd_jax import grids
from skd_jax.study import Arm, Study


def get_config() -> ml_collections.ConfigDict:
  """The teacher of configs/chains.py; the student is three of its four layers.

  Nothing heals the student before distillation: it writes the form of an answer
  and solves next to nothing.
  """
  config = chains.demo()
  config.task = "chains of sums, pruned student"
  config.seeds = (0,)
  config.data.max_test_examples = 2000
  config.student.layers_of_teacher = (0, 1, 2)
  config.student.fit.num_steps = 0
  config.distill.update(
    num_steps=100, max_examples=100, evaluate_every_steps=100
  )
  return config


_REVERSE = {"loss.divergence": "reverse_kl"}
# IPD (arXiv 2609.37170) with the loss of the baselines.
MIXTURE_ANNEALED = Arm("mixture_annealed")

STUDY = Study(
  name="pruned_student",
  question=(
    "Does a student that cannot yet do what its teacher does learn more from "
    "responses that the teacher takes part in, or by another divergence?"
  ),
  regimes={"100 problems": {}},
  arms={
    **{name: Arm(name) for name in grids.BASELINES},
    # Both halves of IPD, interleaving and the loss, together and alone.
    "ipd": Arm("ipd"),
    "on_policy_reverse_kl": Arm("on_policy_kd", _REVERSE),
    "mixture_annealed": MIXTURE_ANNEALED,
    "prob_floor_to_zero": Arm("prob_floor_to_zero"),
  },
  baselines=grids.BASELINES,
  seeds=10,
  metric="accuracy",
  stopping=(
    "All arms have 10 seeds; no arm is added, dropped or tuned on the test "
    "split."
  ),
)
