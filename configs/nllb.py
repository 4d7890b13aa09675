"""NLLB-200, German to English: an encoder in front of the decoder.

python -m skd_jax.main --config=configs/nllb.py \\
  --config.teacher.path=FOLDER_OF_nllb-200-3.3B \\
  --config.student.init_path=FOLDER_OF_nllb-200-distilled-600M

The hub has their weights as pytorch_model.bin; `from_pretrained(FOLDER)` and
`save_pretrained(FOLDER)` of transformers write the safetensors that are read
here. Another pair of languages is two lines of template_arguments, by the codes
of NLLB, beside the data.
"""

import ml_collections

from skd_jax.config import default_config


def get_config(variant: str = "large") -> ml_collections.ConfigDict:
  """Returns the config of one variant."""
  variants = {"large": large, "embedded": embedded}
  if variant not in variants:
    raise ValueError(
      f"configs/nllb.py:{variant}: the variant must be one of {list(variants)}"
    )
  return variants[variant]()


def large() -> ml_collections.ConfigDict:
  """NLLB-200 3.3B to the distilled 600M on WMT16 from TFDS, over 4 chips.

  Not run yet; --config.mesh.tensor=1 for one device. On a v5e-4 (16 GB chips)
  the TPU compiler gives 6.0 of 15.8 GiB per chip:

    python -m benchmarks.tpu.plan --config=configs/nllb.py --topology=v5e:2x2

  The teacher has translated all its life, so it is not fine-tuned here, and the
  student starts as it is. 10 epochs of 1,000 sentences; sampling, learning rate
  and rule are those of the paper for Gemma (configs/wmt.py:gemma).
  """
  config = default_config()
  config.task = "NLLB-200 3.3B to 600M, WMT16 German to English"
  config.teacher.checkpoint = "facebook/nllb-200-3.3B"
  config.student.checkpoint = "facebook/nllb-200-distilled-600M"
  config.student.fit.num_steps = 0
  config.mesh.tensor = 4
  _add_languages(config)
  config.data.kind = "tfds"
  config.data.name = "wmt16_translate/de-en"
  config.data.max_train_examples = 1000
  config.data.max_validation_examples = 200
  config.data.max_test_examples = 1000
  config.data.max_prompt_length = 256
  config.data.max_new_tokens = 256
  config.data.long_prompts = "leave_out"
  config.data.length_multiple = 64
  config.distill.update(
    num_steps=1250,
    batch_size=8,
    learning_rate=1e-5,
    warmup_steps=0,
    weight_decay=0.0,
    beta2=0.999,
  )
  config.student.remat = True
  config.evaluate.batch_size = 32
  return config


def embedded() -> ml_collections.ConfigDict:
  """The embedded corpus and the distilled pair, 1.3B to 600M; not run yet.

  With random weights of any size it has run. No download but that of the pair:

  python -m skd_jax.main --config=configs/nllb.py:embedded \\
    --config.teacher.init_path=FOLDER_OF_nllb-200-distilled-1.3B \\
    --config.student.init_path=FOLDER_OF_nllb-200-distilled-600M
  """
  config = default_config()
  config.task = "NLLB-200 1.3B to 600M, embedded German to English"
  config.teacher.checkpoint = "facebook/nllb-200-distilled-1.3B"
  config.student.checkpoint = "facebook/nllb-200-distilled-600M"
  _add_languages(config)
  config.data.max_validation_examples = 128
  config.data.max_test_examples = 200
  config.teacher.fit.update(batch_size=16, num_steps=200, learning_rate=1e-4)
  config.student.fit.update(batch_size=16, num_steps=200, learning_rate=1e-4)
  config.distill.update(batch_size=16, num_steps=100, learning_rate=1e-4)
  # The nucleus is the most expensive part of a draw on a CPU, and at this
  # temperature it changes little.
  config.rollout.student_top_p = 1.0
  return config


def _add_languages(config: ml_collections.ConfigDict) -> None:
  config.tokenizer.template_arguments = {
    "source_language": "deu_Latn",
    "target_language": "eng_Latn",
  }
