"""The shapes of published checkpoints, so that they can be planned for unread.

For each name on the Hugging Face hub, the fields of its config.json that a
decoder depends on, and how many token ids its tokenizer has. The head may be
padded beyond them (Qwen2: 152064 rows for 151646 tokens); a run keeps the rows
that both tokenizers know (model_store.common_vocab_size).

tests/benchmarks/test_published_shapes.py holds the numbers of parameters
against those that the makers publish.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from skd_jax import models

_GEMMA = {"vocab_size": 256_000, "head_dim": 256, "num_tokens": 256_000}
_QWEN2 = {"rope_theta": 1e6, "num_tokens": 151_646}
_QWEN3 = {
  "model_type": "qwen3",
  "vocab_size": 151_936,
  "head_dim": 128,
  "num_key_value_heads": 8,
  "rope_theta": 1e6,
  "max_position_embeddings": 40_960,
  "num_tokens": 151_669,
}
_LLAMA = {
  "model_type": "llama",
  "vocab_size": 128_256,
  "num_attention_heads": 32,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-5,
  "rope_theta": 500_000.0,
  "max_position_embeddings": 131_072,
  "num_tokens": 128_256,
}


def _llama3_rope(factor: float) -> dict[str, Any]:
  return {
    "rope_type": "llama3",
    "factor": factor,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
  }


def _sizes(
  hidden: int, wide: int, layers: int, heads: int | None = None
) -> dict[str, int]:
  sizes = {
    "hidden_size": hidden,
    "intermediate_size": wide,
    "num_hidden_layers": layers,
  }
  return sizes if heads is None else sizes | {"num_attention_heads": heads}


_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
  "google/gemma-7b-it": {
    "model_type": "gemma",
    **_GEMMA,
    **_sizes(3072, 24_576, 28, 16),
    "num_key_value_heads": 16,
  },
  "google/gemma-2b-it": {
    "model_type": "gemma",
    **_GEMMA,
    **_sizes(2048, 16_384, 18, 8),
    "num_key_value_heads": 1,
  },
  "google/gemma-2-9b-it": {
    "model_type": "gemma2",
    **_GEMMA,
    **_sizes(3584, 14_336, 42, 16),
    "num_key_value_heads": 8,
  },
  "google/gemma-2-2b-it": {
    "model_type": "gemma2",
    **_GEMMA,
    **_sizes(2304, 9216, 26, 8),
    "num_key_value_heads": 4,
  },
  "Qwen/Qwen2-7B-Instruct": {
    "model_type": "qwen2",
    "vocab_size": 152_064,
    **_QWEN2,
    **_sizes(3584, 18_944, 28, 28),
    "num_key_value_heads": 4,
  },
  "Qwen/Qwen2-0.5B-Instruct": {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    **_QWEN2,
    **_sizes(896, 4864, 24, 14),
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
  },
  "Qwen/Qwen3-8B": {**_QWEN3, **_sizes(4096, 12_288, 36, 32)},
  "Qwen/Qwen3-0.6B": {
    **_QWEN3,
    **_sizes(1024, 3072, 28, 16),
    "tie_word_embeddings": True,
  },
  "meta-llama/Llama-3.1-8B-Instruct": {
    **_LLAMA,
    **_sizes(4096, 14_336, 32),
    "rope_scaling": _llama3_rope(8.0),
  },
  "meta-llama/Llama-3.2-1B-Instruct": {
    **_LLAMA,
    **_sizes(2048, 8192, 16),
    "tie_word_embeddings": True,
    "rope_scaling": _llama3_rope(32.0),
  },
}
NAMES = tuple(_PUBLISHED)


@dataclasses.dataclass(frozen=True)
class Published:
  """A published checkpoint."""

  config: models.ModelConfig  # As its config.json says.
  num_tokens: int  # Ids that its tokenizer gives out.


def load(name: str) -> Published:
  """Returns the shape of a checkpoint.

  Args:
    name: on the Hugging Face hub, one of NAMES.

  Raises:
    ValueError: it is none of them.
  """
  if name not in _PUBLISHED:
    raise ValueError(f"checkpoint = {name!r}: must be one of {list(NAMES)}")
  fields = dict(_PUBLISHED[name])
  num_tokens = fields.pop("num_tokens")
  return Published(models.model_config_from_hf(fields), num_tokens)


def load_pair(
  teacher: str, student: str
) -> tuple[models.ModelConfig, models.ModelConfig]:
  """Returns teacher and student, cut to the vocabulary that both know.

  As model_store.common_vocab_size does for what is on disk.
  """
  found = load(teacher), load(student)
  rows = min(
    *(model.num_tokens for model in found),
    *(model.config.vocab_size for model in found),
  )
  of_teacher, of_student = (
    dataclasses.replace(model.config, vocab_size=rows) for model in found
  )
  return of_teacher, of_student


def num_params(config: models.ModelConfig) -> int:
  """Counts the weights of a model; a tied head counts once."""
  return sum(x.size for x in jax.tree.leaves(models.param_shapes(config)))
