"""The mixture rule where the few-prompts study has been run.

python -m skd_jax.compare --study=configs/studies/few_prompts_mixture.py \\
  --workdir=workdir/few_prompts

Written after few_prompts.py was run, and while pruned_student.py was: there the
mixture of IPD, with the loss of the baselines, led after two seeds. The regime
is that of few_prompts.py, whose finished runs of the baselines are taken in
the same workdir. What came out is in docs/results/quality.md.
"""

import ml_collections

from configs.studies import few_prompts
from configs.studies.pruned_student import MIXTURE_ANNEALED
from skd_jax import grids
from skd_jax.study import Arm, Study


def get_config() -> ml_collections.ConfigDict:
  """The config of few_prompts.py."""
  return few_prompts.get_config()


_PROMPTS = "1000 prompts"

STUDY = Study(
  name="few_prompts_mixture",
  question=(
    "Does exact sampling from a mixture of student and teacher, with ever less "
    "of the teacher, help where the student is weak and not pruned?"
  ),
  regimes={_PROMPTS: few_prompts.STUDY.regimes[_PROMPTS]},
  arms={
    **{name: Arm(name) for name in grids.BASELINES},
    "mixture_annealed": MIXTURE_ANNEALED,
  },
  baselines=grids.BASELINES,
  seeds=10,
  metric="bleu",
  stopping=(
    "All arms have 10 seeds; no arm is added, dropped or tuned on the test "
    "split."
  ),
)
