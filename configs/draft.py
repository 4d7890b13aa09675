"""A student that drafts for its teacher: speculative decoding.

python -m skd_jax.main --config=configs/draft.py            the demo
python -m skd_jax.main --config=configs/draft.py:multi30k   real data
python -m skd_jax.main --config=configs/draft.py:chains     a larger teacher
"""

import ml_collections

from configs import chains as chains_config
from configs import wmt


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
  """Returns the config of one variant."""
  variants = {"demo": demo, "multi30k": multi30k, "chains": chains}
  if variant not in variants:
    raise ValueError(
      f"configs/draft.py:{variant}: the variant must be one of {list(variants)}"
    )
  return variants[variant]()


def demo() -> ml_collections.ConfigDict:
  """The embedded corpus; no download, no accelerator.

  python -m skd_jax.main --config=configs/draft.py

  A drafter is judged by how much of what it proposes the teacher accepts, not
  by its answers: the main metric is `acceptance`, at the temperature and top-p
  with which the pair is served, and the best checkpoint is the one that has
  most of it on the validation split. `greedy_acceptance` is the same at
  temperature 0. Acceptance is 1 less the total variation distance of the two
  distributions on the teacher's own text (see skd_jax/evaluation/drafting.py),
  so --config.loss.divergence=tvd minimizes what is measured (DistillSpec, arXiv
  2310.08461, compares divergences for drafters). The forward KL bounds it, and
  has a gradient where the two have nothing in common yet.

  Rollouts are drawn as the pair is served. The method is that of the paper. In
  configs/studies/drafters.py, which has a weaker start, KD on the teacher's own
  text gave more: --method=teacher_kd.

  One CPU core beside other work: 9 minutes, 4 of them for the teacher, one
  seed. 57.9 % of the proposals are accepted, of the start's 44.4 %; greedily
  59.1 and 46.4 %.

  Afterwards: python -m skd_jax.generate --model=WORKDIR/teacher
  --draft=WORKDIR/export
  """
  config = wmt.embedded()
  config.task = "embedded German to English, a drafter"
  config.distill.update(num_steps=300, learning_rate=4e-3)
  return _for_drafting(config, evaluate_every_steps=50)


def multi30k() -> ml_collections.ConfigDict:
  """Multi30k from a ready teacher.

  python -m skd_jax.main --config=configs/draft.py:multi30k \\
    --config.data.dir=FOLDER --config.teacher.path=HF_FOLDER \\
    --workdir=workdir/draft

  2 CPU cores, at times shared: 25 minutes, one seed. With a teacher of 3.6 M
  parameters, 68.4 % of the proposals are accepted, of the start's 62.0 %;
  greedily 70.4 and 64.2 %. 10.1 % of the tokens were replaced. How fast it
  drafts: docs/results/speed.md.
  """
  config = wmt.multi30k_compare()
  config.task = "Multi30k German to English, a drafter"
  config.distill.num_steps = 1000
  return _for_drafting(config, evaluate_every_steps=100)


def chains() -> ml_collections.ConfigDict:
  """Worked arithmetic, and a teacher for which drafts pay.

  python -m skd_jax.main --config=configs/draft.py:chains

  The teacher has 14 M parameters, thirty times the student's, so that a pass of
  it takes many times what surrounds it: the pairs above are too small for that.
  What it writes is almost determined, so that a small student can know it.

  One CPU core: 33 minutes, 21 of them for the teacher, one seed. 89.9 % of the
  proposals are accepted, of the start's 81.4 %; greedily 89.7 and 83.7 %. The
  student itself solves 3.6 %, its teacher 77.8. 11.6 % of the tokens were
  replaced. How fast it drafts: docs/results/speed.md.
  """
  config = chains_config.demo()
  config.task = "chains of sums, a drafter"
  config.seeds = (0,)
  config.data.num_steps = 3
  config.data.max_new_tokens = 33
  config.data.length_multiple = 33
  config.teacher.update(
    hidden_size=512, intermediate_size=1536, num_heads=8, num_kv_heads=8
  )
  config.teacher.fit.update(num_steps=600, learning_rate=1e-3)
  return _for_drafting(config, evaluate_every_steps=55)


def _for_drafting(
  config: ml_collections.ConfigDict, evaluate_every_steps: int
) -> ml_collections.ConfigDict:
  measured = ("acceptance", "greedy_acceptance")
  config.data.metrics = (*measured, *config.data.metrics)
  config.evaluate.serving_temperature = 0.7
  config.evaluate.serving_top_p = 0.9
  config.rollout.student_temperature = config.rollout.teacher_temperature = 0.7
  config.rollout.teacher_top_p = 0.9
  config.distill.update(
    evaluate_every_steps=evaluate_every_steps,
    keep_best=1,
    best_metric="acceptance",
    result="best",
  )
  return config
