"""config.json of a Hugging Face folder <-> ModelConfig.

What each family says there is in families/.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import ModelConfig
from skd_jax.models.families import FAMILIES
from skd_jax.models.families.options import COMMON_DEFAULTS

_UNSUPPORTED = (
  "use_bidirectional_attention",
  "num_experts",
  "num_local_experts",
  "n_shared_experts",
  "shared_expert_intermediate_size",
)


def model_config_from_hf(hf_config: Mapping[str, Any]) -> ModelConfig:
  """Reads the contents of a Hugging Face config.json.

  Understands the layouts of transformers 4 (`rope_theta`, `rope_scaling`,
  `sliding_window_pattern`) and 5 (`rope_parameters`, `layer_types`). Of a
  multimodal `gemma3`, only the `text_config` is read: images are not supported.

  Args:
    hf_config: config.json as a mapping.

  Returns:
    The config of the decoder.

  Raises:
    ValueError: an unknown model_type, a missing key, or an option that the
      decoder does not implement; the message names it.
  """
  if hf_config.get("quantization_config"):
    raise ValueError(
      "quantization_config is not supported; use the unquantized checkpoint"
    )
  if hf_config.get("model_type") == "gemma3":
    hf_config = {"model_type": "gemma3_text", **hf_config["text_config"]}
  model_type = hf_config.get("model_type")
  if model_type not in FAMILIES:
    raise ValueError(
      f"model_type = {model_type!r} is not supported; "
      f"use one of {', '.join(FAMILIES)} or gemma3"
    )
  family = FAMILIES[model_type]
  hf = {**COMMON_DEFAULTS, **family.defaults, **hf_config}
  for key in _UNSUPPORTED:
    if hf.get(key) and key not in family.defaults:
      raise ValueError(f"{key}={hf[key]!r} is not supported")
  fields: dict[str, Any] = {"model_type": model_type, **family.traits}
  for option in family.options:
    fields.update(option.read(hf))
  return family.config_class(**fields)


def model_config_to_hf(config: ModelConfig) -> dict[str, Any]:
  """The contents of config.json, without token ids and without dtype.

  Raises:
    ValueError: the family `config.model_type` cannot express these options;
      the message names the fields.
  """
  if config.model_type not in FAMILIES:
    raise ValueError(
      f"model_type = {config.model_type!r}: must be one of "
      f"{', '.join(FAMILIES)}"
    )
  family = FAMILIES[config.model_type]
  hf: dict[str, Any] = {
    "architectures": [family.architecture],
    "model_type": config.model_type,
  }
  for option in family.options:
    hf.update(option.write(config))
  again = model_config_from_hf(hf)
  changed = [
    field.name
    for field in dataclasses.fields(config)
    if getattr(again, field.name) != getattr(config, field.name)
  ]
  if changed:
    raise ValueError(
      f"model_type = {config.model_type!r} cannot express these fields: "
      + ", ".join(f"{name}={getattr(config, name)!r}" for name in changed)
    )
  return hf
