"""Responses of the weights of before the last update, beside fresh ones.

python -m skd_jax.compare --study=configs/studies/staleness.py \\
  --workdir=workdir/few_prompts

Written before it was run. The regime is that of few_prompts.py, whose finished
runs of the fresh arms are taken in the same workdir.
"""

import dataclasses

from configs.studies import few_prompts
from skd_jax.study import Arm

QUESTION = (
  "Does a student learn as much from responses that are one update old, which "
  "can be generated while it trains, as from fresh ones?"
)
METHODS = ("on_policy_kd", "skd")
LAG = {"rollout.max_staleness": 1}
ARMS = {
  name: Arm(method, changes)
  for method in METHODS
  for name, changes in ((method, {}), (f"{method} lag 1", LAG))
}
STOPPING = (
  "All arms have 5 seeds; no arm is added, dropped or tuned on the test split. "
  "An arm with a lag is compared with its own method without one; the other "
  "pairs answer no question."
)
_PROMPTS = "1000 prompts"

get_config = few_prompts.get_config

STUDY = dataclasses.replace(
  few_prompts.STUDY,
  name="staleness",
  question=QUESTION,
  regimes={_PROMPTS: few_prompts.STUDY.regimes[_PROMPTS]},
  arms=ARMS,
  baselines=METHODS,
  seeds=5,
  stopping=STOPPING,
)
