"""Conversations; --config.data.dir is the folder of yours.

python -m skd_jax.main --config=configs/instructions.py \\
  --config.data.dir=FOLDER --config.teacher.init_path=FOLDER_OF_THE_TEACHER

The folder holds train.jsonl (plain or .gz), {"messages": [{"role": ...,
"content": ...}, ...]} on each line, or a data set of Hugging Face with that
column. Its last 300 examples are held out. See docs/data_formats.md.
"""

import ml_collections

from configs import _paper


def get_config(variant: str = "smollm2") -> ml_collections.ConfigDict:
  """Returns the config of one variant."""
  variants = {"smollm2": smollm2, "qwen3": qwen3}
  if variant not in variants:
    raise ValueError(
      f"configs/instructions.py:{variant}: the variant must be one of "
      f"{list(variants)}"
    )
  return variants[variant]()


def smollm2() -> ml_collections.ConfigDict:
  """SmolLM2-135M-Instruct to every third of its layers, on a CPU; not run yet.

  python -m skd_jax.main --config=configs/instructions.py \\
    --config.data.dir=FOLDER \\
    --config.teacher.init_path=FOLDER_OF_SmolLM2-135M-Instruct
  """
  config = _paper.smollm2()
  config.task = "instructions, SmolLM2-135M to its every third layer"
  _add_data(config)
  config.data.max_prompt_length = 512
  config.data.max_new_tokens = 128
  config.data.max_validation_examples = 32
  config.data.max_test_examples = 100
  return config


def qwen3() -> ml_collections.ConfigDict:
  """Qwen3 8B to 0.6B without thoughts; not run yet.

  python -m skd_jax.main --config=configs/instructions.py:qwen3 \\
    --config.data.dir=FOLDER \\
    --config.teacher.path=FOLDER_OF_Qwen3-8B \\
    --config.student.init_path=FOLDER_OF_Qwen3-0.6B
  """
  config = _paper.recipe("Qwen3 8B to 0.6B", num_steps=375)  # 3 epochs
  config.task = "Qwen3 8B to 0.6B, instructions"
  config.tokenizer.template_arguments = {"enable_thinking": False}
  _add_data(config)
  config.data.max_prompt_length = 1024
  config.data.max_new_tokens = 512
  return config


def _add_data(config: ml_collections.ConfigDict) -> None:
  config.data.kind = "messages"
  config.data.turns = "all"
  config.data.train_split = "train[:-300]"
  config.data.validation_split = "train[-300:-200]"
  config.data.test_split = "train[-200:]"
  config.data.long_prompts = "leave_out"
  config.data.metrics = ("rougeL",)
