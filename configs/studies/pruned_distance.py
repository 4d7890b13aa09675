"""A mixture by distance, where the student has lost a layer.

python -m skd_jax.compare --study=configs/studies/pruned_distance.py \\
  --workdir=workdir/pruned_student

Written before it was run, after two seeds of a pilot of the rule: 77.9 and
81.2 %, beside 75.6 and 78.2 of on_policy_kd and 71.1 and 71.4 of teacher_kd.
The regime is that of pruned_student.py, whose finished runs of the baselines
are taken in the same workdir.
"""

import dataclasses

from configs.studies import few_prompts_distance, pruned_student

get_config = pruned_student.get_config

STUDY = dataclasses.replace(
  pruned_student.STUDY,
  name="pruned_distance",
  question=few_prompts_distance.QUESTION,
  arms=few_prompts_distance.ARMS,
  stopping=few_prompts_distance.STOPPING,
)
