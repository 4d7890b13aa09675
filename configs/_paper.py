"""The recipe of arXiv 2410.11325 for each pair of models, but for the data."""

import ml_collections

from skd_jax.config import default_config

# Teacher, student, and over how many chips of v5e each weight is cut.
PAIRS = {
  "Gemma 7B-it to 2B-it": ("google/gemma-7b-it", "google/gemma-2b-it", 8),
  "Gemma 2 9B-it to 2B-it": (
    "google/gemma-2-9b-it",
    "google/gemma-2-2b-it",
    8,
  ),
  "Qwen2 7B to 0.5B": (
    "Qwen/Qwen2-7B-Instruct",
    "Qwen/Qwen2-0.5B-Instruct",
    4,
  ),
  "Qwen3 8B to 0.6B": ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B", 4),
  "Llama 3.1 8B to 3.2 1B": (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.2-1B-Instruct",
    4,
  ),
}


def recipe(pair: str, num_steps: int) -> ml_collections.ConfigDict:
  """Returns the recipe for 1,000 prompts.

  Args:
    pair: a key of PAIRS.
    num_steps: of the teacher's fine-tuning and of distillation; 125 an epoch.
  """
  config = default_config()
  teacher, student, config.mesh.tensor = PAIRS[pair]
  config.teacher.checkpoint = teacher
  config.student.checkpoint = student
  config.data.max_train_examples = 1000
  config.data.max_validation_examples = 200
  config.data.max_test_examples = 1000
  config.data.length_multiple = 64
  for fit in (config.teacher.fit, config.student.fit, config.distill):
    fit.update(
      num_steps=num_steps,
      batch_size=8,
      learning_rate=1e-5,
      warmup_steps=0,
      weight_decay=0.0,
      beta2=0.999,
    )
  config.student.fit.num_steps = 0  # From the instruction-tuned student.
  config.teacher.remat = config.student.remat = True
  config.evaluate.batch_size = 32
  return config


def smollm2() -> ml_collections.ConfigDict:
  """Returns a recipe for a pair that 2 CPU cores can train.

  The teacher is SmolLM2-135M-Instruct, fine-tuned on the task; the student is
  every third of its 30 layers, fine-tuned for longer, as a cut model has lost
  the language.
  """
  config = default_config()
  config.teacher.checkpoint = "HuggingFaceTB/SmolLM2-135M-Instruct"
  config.student.layers_of_teacher = tuple(range(0, 30, 3))
  config.data.length_multiple = 64
  for fit in (config.teacher.fit, config.student.fit, config.distill):
    fit.update(batch_size=4, learning_rate=1e-4, log_every_steps=5)
  config.teacher.fit.num_steps = 10
  config.student.fit.update(num_steps=40, learning_rate=3e-4)
  config.distill.num_steps = 10
  # The nucleus is the most expensive part of a draw on a CPU, and at this
  # temperature it changes little.
  config.rollout.student_top_p = 1.0
  config.evaluate.batch_size = 16
  return config
