"""Ways to distil, by name: each is a few values of the config.

  SFT, SeqKD                   cross-entropy, on what data or teacher say
  supervised and on-policy KD  the divergence, on references, on what the
                               student generates, or on both (ImitKD, GKD)
  SKD and its relatives        the divergence, on interleaved responses

What no method says, such as lengths, steps and temperatures, is the same for
all of them.
"""

import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from skd_jax import config as config_lib

# What methods differ in. A method that does not name a field has this value,
# whatever the config said: two methods never differ by accident.
_COMMON: Mapping[str, Any] = {
  "rollout.mode": "skd",
  "rollout.accept": "top_k",
  "rollout.threshold": 25.0,
  "rollout.threshold_schedule": "constant",
  "rollout.threshold_decay": 0.0,
  "rollout.leg_length": 1,
  "rollout.max_interventions": 0,
  "rollout.first_tokens": 0,
  "rollout.first_tokens_schedule": "constant",
  "rollout.replace": "sample",
  "rollout.reference_share": 0.0,
  "rollout.reference_share_schedule": "constant",
  "loss.objective": "divergence",
  "loss.divergence": "forward_kl",
  "loss.corrections": "",
  "loss.weights": "uniform",
}

_PROB_FLOOR = {"rollout.accept": "prob_floor", "rollout.threshold": 0.5}
_BRIDGE = {
  "rollout.accept": "bridge",
  "rollout.threshold": 0.1,
  "rollout.replace": "residual",
}
_LEG = {
  **_PROB_FLOOR,
  "rollout.threshold": 0.1,
  "rollout.leg_length": 4,
  "rollout.max_interventions": 3,
}
_MIXTURE_ANNEALED = {
  "rollout.accept": "mixture",
  "rollout.threshold": 0.5,
  "rollout.threshold_end": 0.1,
  "rollout.threshold_schedule": "linear",
  "rollout.replace": "residual",
}
# Over the run to no intervention.
_TO_ZERO = {
  "rollout.threshold_end": 0.0,
  "rollout.threshold_schedule": "linear",
}

METHODS: Mapping[str, Mapping[str, Any]] = {
  # On the references, without the teacher.
  "sft": {"rollout.mode": "reference", "loss.objective": "cross_entropy"},
  # On what the teacher generates (arXiv 1606.07947), again at every step.
  "seq_kd": {"rollout.mode": "teacher", "loss.objective": "cross_entropy"},
  "supervised_kd": {"rollout.mode": "reference"},
  # The same texts as seq_kd, but the teacher's distribution is learned: what
  # one does without references.
  "teacher_kd": {"rollout.mode": "teacher"},
  "on_policy_kd": {"rollout.mode": "on_policy"},
  # arXiv 2009.07253, with the half of the SKD paper.
  "imit_kd": {"rollout.mode": "on_policy", "rollout.reference_share": 0.5},
  # arXiv 2306.13649; the beta of the divergence is loss.beta.
  "gkd": {
    "rollout.mode": "on_policy",
    "rollout.reference_share": 0.5,
    "loss.divergence": "jsd",
  },
  # Supervised KD for half of the run, then on-policy KD.
  "two_stage": {
    "rollout.mode": "on_policy",
    "rollout.reference_share": 1.0,
    "rollout.reference_share_end": 0.0,
    "rollout.reference_share_schedule": "step",
    "rollout.switch_at": 0.5,
  },
  # The paper (arXiv 2410.11325).
  "skd": {},
  "skd_k1": {"rollout.threshold": 1.0},
  # arXiv 2609.02401, constant and annealed; and annealed to on-policy.
  "prob_floor": _PROB_FLOOR,
  "prob_floor_annealed": {
    **_PROB_FLOOR,
    "rollout.threshold_end": 0.25,
    "rollout.threshold_schedule": "linear",
  },
  "prob_floor_to_zero": {**_PROB_FLOOR, **_TO_ZERO},
  # Exact samples of nine parts student and one part teacher.
  "mixture": {
    "rollout.accept": "mixture",
    "rollout.threshold": 0.1,
    "rollout.replace": "residual",
  },
  "mixture_annealed": _MIXTURE_ANNEALED,
  # With as much of the teacher as the student is far from it.
  "mixture_by_distance": {
    **_MIXTURE_ANNEALED,
    "rollout.threshold": 1.0,
    "rollout.threshold_end": 0.05,
    "rollout.threshold_schedule": "distance",
  },
  # IPD (arXiv 2609.37170): the mixture, annealed; cross-entropy on corrections,
  # reverse KL on the student's own tokens.
  "ipd": {
    **_MIXTURE_ANNEALED,
    "loss.divergence": "reverse_kl",
    "loss.corrections": "cross_entropy",
  },
  # TRB (arXiv 2605.31159): the geometric bridge within eps nats; eps is ours.
  "bridge": _BRIDGE,
  "bridge_to_zero": {**_BRIDGE, **_TO_ZERO},
  # SAKI (arXiv 2609.36601): the same, and cross-entropy on the teacher's top 1.
  "saki": {
    **_BRIDGE,
    **_TO_ZERO,
    "loss.corrections": "cross_entropy_top_1",
  },
  # After Relay-OPD (arXiv 2607.26057): from a rejection on the teacher
  # generates a few tokens, and not often. The numbers are ours.
  "leg": _LEG,
  "leg_to_zero": {**_LEG, **_TO_ZERO},
  # SWITCH (arXiv 2410.19503): the teacher where the two diverge, the more
  # readily the longer the response; the numbers are ours.
  "switch": {
    "rollout.accept": "divergence",
    "rollout.threshold": 0.3,
    "rollout.threshold_decay": 0.02,
  },
  "switch_to_on_policy": {
    "rollout.accept": "divergence",
    "rollout.threshold": 0.1,
    "rollout.threshold_end": math.log(2),
    "rollout.threshold_schedule": "linear",
  },
  # On-policy KD on the first tokens alone, ever more of them; after arXiv
  # 2605.31490, the numbers are ours.
  "first_tokens": {
    "rollout.mode": "on_policy",
    "rollout.first_tokens": 4,
    "rollout.first_tokens_schedule": "linear",
  },
  # The variant of the SKD paper; the mass is ours.
  "top_p": {"rollout.accept": "top_p", "rollout.threshold": 0.95},
  "skd_argmax": {"rollout.replace": "argmax"},
  "replaced_ce": {"loss.corrections": "cross_entropy"},
  # After arXiv 2510.24021, on what the student generates.
  "selec_tkd": {"rollout.mode": "on_policy", "loss.weights": "verified"},
  "teacher_confidence": {"loss.weights": "teacher_confidence"},
  # The control of `skd`: as many tokens replaced, blindly. Its threshold is the
  # rate that was measured there.
  "random": {"rollout.accept": "random"},
  # What the released code does; see acceptance.accept_released_top_k.
  "released_code": {"rollout.accept": "released_top_k"},
}

# There the student drafts by the settings of the teacher.
_AS_THE_TEACHER_DRAWS = ("released_code",)

# The methods whose threshold is the replacement rate of another one.
CONTROLS: Mapping[str, str] = {"random": "skd"}


def apply_method(
  config: ml_collections.ConfigDict,
  name: str,
  replacement_rate: float | None = None,
) -> ml_collections.ConfigDict:
  """Returns a copy of the config that distils by a method.

  Args:
    config: anything else is kept.
    name: of METHODS.
    replacement_rate: the share of replaced tokens, in [0, 1], of the run that a
      method of CONTROLS is the control of; for these methods only.

  Raises:
    ValueError: an unknown method, or a rate too much or missing.
  """
  if name not in METHODS:
    raise ValueError(f"method = {name!r}: must be one of {list(METHODS)}")
  if (name in CONTROLS) != (replacement_rate is not None):
    needs = ", ".join(f"{a} (that of {b})" for a, b in CONTROLS.items())
    raise ValueError(
      f"replacement_rate = {replacement_rate} with method = {name!r}: must be "
      f"given for {needs}, and for no other method"
    )
  changes = {**_COMMON, **METHODS[name]}
  if replacement_rate is not None:
    changes["rollout.threshold"] = replacement_rate
  if name in _AS_THE_TEACHER_DRAWS:
    for field in ("temperature", "top_p"):
      changes[f"rollout.student_{field}"] = config.rollout[f"teacher_{field}"]
  if name == "first_tokens":
    sections = config_lib.task_sections(config).values()
    longest = max(section.max_new_tokens for section in sections)
    changes["rollout.first_tokens_end"] = longest
  return change(config, changes)


def quick(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config at sizes that take about a minute in all."""
  fit = {"num_steps": 20, "batch_size": 8, "num_microbatches": 1}
  return change(
    config,
    {
      "data.max_train_examples": 500,
      "data.max_validation_examples": 8,
      "data.max_test_examples": 16,
      # One width each of prompts and responses: little to compile.
      "data.length_multiple": config.data.max_prompt_length,
      "rollout.batch_size": 0,
      **{f"teacher.fit.{name}": value for name, value in fit.items()},
      **{f"student.fit.{name}": value for name, value in fit.items()},
      **{f"distill.{name}": value for name, value in fit.items()},
      "distill.num_steps": 8,
      "distill.evaluate_every_steps": 4,
    },
  )


def change(
  config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Returns a copy of the config with other values, by dotted names."""
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(changes)
  return changed.lock()
