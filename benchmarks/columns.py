"""The columns of the README's tables; the rest is in the JSON.

Rollout speed is a table of one row a `what` and one column a batch.
"""

COLUMNS = {
  "step_cost": (
    "what",
    "seconds",
    "limit_seconds",
    "ratio_to_on_policy",
    "replacement_rate",
    "num_draft_tokens",
  ),
  "method_cost": (
    "what",
    "seconds",
    "ratio_to_on_policy_kd",
    "generate",
    "verify",
    "train",
    "replacement_rate",
  ),
  "loss_memory": (
    "vocab",
    "length",
    "memory_ratio",
    "time_ratio",
    "plain_gib",
    "chunked_gib",
  ),
  "products": ("rows", "layout", "gflop_per_s", "gb_per_s"),
  "scaling": ("what", "value", "seconds", "tokens_per_s", "compile_seconds"),
  "tpu_plan": (
    "config",
    "slice",
    "mesh",
    "batch",
    "microbatches",
    "teacher_gib",
    "student_gib",
    "optimizer_gib",
    "caches_gib",
    "peak_gib",
    "hbm_gib",
    "step_s",
    "bound",
  ),
  "scaling_sheet": (
    "chip",
    "chips",
    "mesh",
    "batch",
    "step_s",
    "tokens_per_s",
    "dollars_per_m_tokens",
    "bound",
  ),
}
