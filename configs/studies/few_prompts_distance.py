"""A mixture by distance, where the student knows little of the language.

python -m skd_jax.compare --study=configs/studies/few_prompts_distance.py \\
  --workdir=workdir/few_prompts

Written before it was run, after one seed of a pilot of the rule: 16.3 BLEU,
beside 16.6 of teacher_kd and 14.6 of on_policy_kd. The regime is that of
few_prompts.py, whose finished runs of the baselines are taken in the same
workdir.
"""

import dataclasses

from configs.studies import few_prompts
from skd_jax import grids
from skd_jax.study import Arm

QUESTION = (
  "The studies before found that one student learns most from its teacher's "
  "text and another from its own. Is a mixture whose share of the teacher is "
  "twice the distance of the two below no baseline in either?"
)
ARMS = {name: Arm(name) for name in (*grids.BASELINES, "mixture_by_distance")}
STOPPING = (
  "All arms have 10 seeds; no arm is added, dropped or tuned on the test split."
)
_PROMPTS = "1000 prompts"

get_config = few_prompts.get_config

STUDY = dataclasses.replace(
  few_prompts.STUDY,
  name="few_prompts_distance",
  question=QUESTION,
  regimes={_PROMPTS: few_prompts.STUDY.regimes[_PROMPTS]},
  arms=ARMS,
  stopping=STOPPING,
)
