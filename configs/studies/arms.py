"""The arms that the studies share: baselines, SKD, its relatives, controls."""

from skd_jax.study import Arm

ARMS = {
  name: Arm(name)
  for name in (
    "sft",
    "supervised_kd",
    "teacher_kd",
    "on_policy_kd",
    "imit_kd",
    "skd",
    "prob_floor_to_zero",
    "bridge",
    "bridge_to_zero",
    "saki",
    "ipd",
    "leg_to_zero",
    "switch_to_on_policy",
    "first_tokens",
  )
} | {
  "teacher_confidence": Arm("teacher_confidence"),
  "teacher_confidence on-policy": Arm(
    "teacher_confidence", {"rollout.mode": "on_policy"}
  ),
  # Blind replacement: as many tokens as skd replaces, and as many as it
  # changes.
  "random": Arm("random", control_of="skd"),
  "random as many changed": Arm("random", control_of="skd", same="changed"),
}
