"""Mathematics with boxed answers; --config.data.dir is the folder of problems.

python -m skd_jax.main --config=configs/math.py \\
  --config.data.dir=FOLDER --config.teacher.path=FOLDER_OF_THE_TEACHER \\
  --config.student.init_path=FOLDER_OF_THE_STUDENT

The folder holds train.jsonl and test.jsonl (plain or .gz), or parquet with
--config.data.kind=parquet, with `problem` and `solution`, which has its answer
in \\boxed{}, as MATH (arXiv 2103.03874) has them. The metric `math` needs the
extra of that name.
"""

import ml_collections

from configs import _paper


def get_config(variant: str = "qwen") -> ml_collections.ConfigDict:
  """Returns the config of one variant."""
  variants = {"qwen": qwen, "gemma": gemma}
  if variant not in variants:
    raise ValueError(
      f"configs/math.py:{variant}: the variant must be one of {list(variants)}"
    )
  return variants[variant]()


def qwen() -> ml_collections.ConfigDict:
  """Qwen2 7B to 0.5B with the lengths and epochs of the paper; not run yet.

  Its data and its prompt are not those of the paper.
  """
  return _of_the_paper("Qwen2 7B to 0.5B")


def gemma() -> ml_collections.ConfigDict:
  """Gemma 7B-it to 2B-it, the same; not run yet."""
  return _of_the_paper("Gemma 7B-it to 2B-it")


def _of_the_paper(pair: str) -> ml_collections.ConfigDict:
  config = _paper.recipe(pair, num_steps=375)  # 3 epochs
  config.task = f"{pair}, mathematics"
  config.data.kind = "jsonl"
  config.data.source_field = "problem"
  config.data.target_field = "solution"
  config.data.train_split = "train[:-200]"
  config.data.validation_split = "train[-200:]"
  config.data.prompt = (
    "{source}\n\nReason step by step, and put the final answer in \\boxed{}."
  )
  config.data.max_prompt_length = 1024
  config.data.max_new_tokens = 1024
  config.data.long_prompts = "leave_out"
  config.data.metrics = ("math",)
  return config
