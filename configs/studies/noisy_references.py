"""References with wrong steps: worked arithmetic, a pruned student.

python -m skd_jax.compare --study=configs/studies/noisy_references.py \\
  --workdir=workdir/noisy_references

Written before it was run. The teacher has learned from references without
noise: only those of the distillation set are wrong.
"""

from configs.studies import pruned_student
from skd_jax import grids
from skd_jax.study import Arm, Study

get_config = pruned_student.get_config


def _regime(noise: float) -> dict[str, float]:
  return {"data.noise": noise}


STUDY = Study(
  name="noisy_references",
  question=(
    "How much do methods lose that learn from references, where a part of the "
    "steps in the references is wrong?"
  ),
  regimes={
    "right": _regime(0.0),
    "5 % wrong": _regime(0.05),
    "20 % wrong": _regime(0.2),
  },
  arms={name: Arm(name) for name in (*grids.BASELINES, "sft", "skd", "ipd")},
  baselines=grids.BASELINES,
  seeds=5,
  metric="accuracy",
  stopping=(
    "All arms have 5 seeds in every regime; no arm is added, dropped or tuned "
    "on the test split."
  ),
)
