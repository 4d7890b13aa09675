"""Is IPD above on-policy KD? Worked arithmetic, a pruned student, new seeds.

python -m skd_jax.compare --study=configs/studies/pruned_confirmed.py \\
  --workdir=workdir/pruned_student

Written before it was run; it was level, see docs/results/quality.md.
pruned_student.py has ipd 1.6 points above the best baseline, on_policy_kd, with
10 seeds (p = 0.13), and in each regime of noisy_references.py it is above it by
2. One test, on seeds that neither has,
decides. Teacher and student are those of pruned_student.py, and are taken from
its workdir where they are there.
"""

import dataclasses

from configs.studies import pruned_student
from skd_jax import grids
from skd_jax.study import Arm

get_config = pruned_student.get_config

STUDY = dataclasses.replace(
  pruned_student.STUDY,
  name="pruned_confirmed",
  question="Is IPD above all baselines where the student has lost a layer?",
  arms={name: Arm(name) for name in (*grids.BASELINES, "ipd")},
  seeds=16,
  first_seed=10,
  stopping=(
    "All arms have 16 seeds; no arm is added, dropped or tuned on the test "
    "split. IPD is above all baselines if p < 0.01 against each, by seeds."
  ),
)
