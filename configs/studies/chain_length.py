"""Length as the axis: worked arithmetic of 2, 4 and 8 steps, a pruned student.

python -m skd_jax.compare --study=configs/studies/chain_length.py \\
  --workdir=workdir/chain_length

Written before it was run, after a pilot with one seed: with four steps, 50 % of
on_policy_kd and 67 % of the same at temperature 1. One teacher has learned
chains of 2 to 8 steps. A step starts from the result before it, so that an
answer of H steps is right only if none of its results is wrong.

After two seeds two arms were dropped for time: `teacher_kd`, as the teacher
solves 99.8 % and so writes the references, with the same score to the digit in
three runs of five; and `mixture_by_distance warm`, which ended 0.1 to 6.5
points below `on_policy_kd warm`.
"""

import ml_collections

from configs.studies import pruned_student
from skd_jax.study import Arm, Study

_LENGTHS = (2, 4, 8)  # H.
_BASELINES = ("on_policy_kd", "supervised_kd")
# The student draws from its own distribution, not from one half as warm.
_WARM = {"rollout.student_temperature": 1.0}


def _sizes(num_steps: int) -> dict[str, int]:
  """What chains of H steps need: see configs/chains.py."""
  max_new_tokens = 8 * num_steps + 10
  return {
    "data.num_steps": num_steps,
    "data.max_prompt_length": 2 * num_steps + 6,
    "data.max_new_tokens": max_new_tokens,
    "data.length_multiple": max_new_tokens,
  }


def get_config() -> ml_collections.ConfigDict:
  """The pruned student of pruned_student.py, its teacher of all lengths."""
  config = pruned_student.get_config()
  config.task = "chains of sums of several lengths, pruned student"
  config.update_from_flattened_dict(_sizes(max(_LENGTHS)))
  config.data.min_steps = 2
  config.teacher.fit.num_steps = 3000
  return config


STUDY = Study(
  name="chain_length",
  question=(
    "Does what a student should learn from depend on how long its answers are, "
    "where one wrong step makes all that follow wrong, and how warm it draws?"
  ),
  regimes={
    f"{num_steps} steps": {**_sizes(num_steps), "data.min_steps": 0}
    for num_steps in _LENGTHS
  },
  arms={
    **{name: Arm(name) for name in (*_BASELINES, "skd", "mixture_by_distance")},
    **{f"{name} warm": Arm(name, _WARM) for name in ("on_policy_kd", "skd")},
  },
  baselines=_BASELINES,
  seeds=10,
  metric="accuracy",
  stopping=(
    "All arms have 10 seeds in every regime; no further arm is added, dropped "
    "or tuned on the test split."
  ),
)
