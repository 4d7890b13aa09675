"""Real data, few prompts: a translator that has lost a layer, on Multi30k.

python -m skd_jax.compare --study=configs/studies/pruned_translator.py \\
  --config.data.dir=FOLDER --config.teacher.path=HF_FOLDER \\
  --workdir=workdir/pruned_translator

Written before it was run, after a pilot with one seed: 28.7 BLEU of
on_policy_kd, 28.2 of teacher_kd, 28.7 of mixture_by_distance.
"""

import ml_collections

from configs import wmt
from configs.studies import few_prompts_distance
from skd_jax import grids
from skd_jax.study import Arm, Study


def get_config() -> ml_collections.ConfigDict:
  """A ready teacher of three layers; the student is its first and its last.

  Nothing heals the student before distillation. It reads 1,000 prompts, each
  six times.
  """
  config = wmt.multi30k_compare()
  config.task = "Multi30k German to English, pruned translator"
  config.seeds = (0,)
  config.student.layers_of_teacher = (0, 2)
  config.student.fit.num_steps = 0
  config.distill.update(
    num_steps=200, max_examples=1000, evaluate_every_steps=200
  )
  return config


STUDY = Study(
  name="pruned_translator",
  question=(
    "On real data, is a mixture whose share of the teacher is twice the "
    "distance of the two below no baseline, and is an interleaved response "
    "better to learn from than the reference, the teacher's or the student's?"
  ),
  regimes={"1000 prompts": {}},
  arms={**few_prompts_distance.ARMS, "skd": Arm("skd")},
  baselines=grids.BASELINES,
  seeds=10,
  metric="bleu",
  stopping=few_prompts_distance.STOPPING,
)
