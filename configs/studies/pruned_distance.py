"""A mixture by distance, where the student has lost a layer.

python -m skd_jax.compare --study=configs/studies/pruned_distance.py \\
  --workdir=workdir/pruned_student

Written before it was run, after two seeds of a pilot of the rule: 77.9 and
81.2 %, beside 75.6 and 78.2 of on_policy_kd and 71.1 and 71.4 of teacher_kd.
The regime is that of pruned_student.py, whose finished runs of the baselines
are taken in the same workdir.
"""

import ml_collections

from configs.studies import pruned_student
from skd_jax import grids
from skd_jax.study import Arm, Study


def get_config() -> ml_collections.ConfigDict:
  """The config of pruned_student.py."""
  return pruned_student.get_config()


_REGIME = "100 problems"

STUDY = Study(
  name="pruned_distance",
  question=(
    "The studies before found that one student learns most from its teacher's "
    "text and another from its own. Is a mixture whose share of the teacher is "
    "twice the distance of the two below no baseline in either?"
  ),
  regimes={_REGIME: pruned_student.STUDY.regimes[_REGIME]},
  arms={
    **{name: Arm(name) for name in grids.BASELINES},
    "mixture_by_distance": Arm("mixture_by_distance"),
  },
  baselines=grids.BASELINES,
  seeds=10,
  metric="accuracy",
  stopping=(
    "All arms have 10 seeds; no arm is added, dropped or tuned on the test "
    "split."
  ),
)
