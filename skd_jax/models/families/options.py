"""What config.json says, one thing at a time: read, and written back.

A family is a tuple of these; see llama.py for the smallest one.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from skd_jax.models.config import ModelConfig
from skd_jax.models.families.names import FUSED_SUFFIX, LLAMA, Names

FULL = "full_attention"
SLIDING = "sliding_attention"


class Option(NamedTuple):
  """One thing that config.json says.

  read: `config.json -> fields of ModelConfig`; keys that the file omits have
    the defaults of the family.
  write: `ModelConfig -> keys of config.json`.
  """

  read: Callable[[Mapping[str, Any]], dict[str, Any]]
  write: Callable[[ModelConfig], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Family:
  """One model_type of config.json.

  architecture: the class of transformers.
  options: what the file says; SIZES first, and a later one has the last word.
  defaults: of keys that the file may omit, as in transformers.
  traits: fields of ModelConfig that the family implies.
  names: of its tensors.
  fused_names: of the tensors in files that have all experts of a layer in one.
  ungated: those that are other where the MLP has no gate.
  transposed: whether a kernel is [out, in] in the files, as torch.nn.Linear.
  groups: of the tensors that hold their arrays in parts, by name, the field of
    ModelConfig that counts these; see hf_names.py.
  config_class: EncoderDecoderConfig where there is an encoder.
  """

  architecture: str
  options: tuple[Option, ...]
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  traits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  names: Names = dataclasses.field(default_factory=lambda: LLAMA)
  ungated: Names = dataclasses.field(default_factory=dict)
  transposed: bool = True
  groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
  fused_names: Names | None = None
  config_class: type[ModelConfig] = ModelConfig

  def names_of(self, config: ModelConfig) -> Names:
    """The names of the tensors of a model, as it is written."""
    return {**self.names, **({} if config.gated_mlp else self.ungated)}

  def names_in(self, config: ModelConfig, tensors: Collection[str]) -> Names:
    """The names that the tensors of a file have."""
    is_fused = any(name.endswith(FUSED_SUFFIX) for name in tensors)
    if self.fused_names and is_fused:
      return self.fused_names
    return self.names_of(config)


COMMON_DEFAULTS: dict[str, Any] = {
  "num_key_value_heads": None,
  "head_dim": None,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0,
  "tie_word_embeddings": False,
}

_ACTIVATION_OF_HF = {
  "silu": "silu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "gelu": "gelu",
  "quick_gelu": "quick_gelu",
  "relu": "relu",
}
_HF_OF_ACTIVATION = {
  "silu": "silu",
  "gelu_tanh": "gelu_pytorch_tanh",
  "gelu": "gelu",
  "quick_gelu": "quick_gelu",
  "relu": "relu",
}


def required(hf: Mapping[str, Any], key: str) -> int:
  """Returns the value of a key.

  Raises:
    ValueError: config.json has none.
  """
  if hf.get(key) is None:
    raise ValueError(f"{key} is missing from config.json")
  return hf[key]


def _read_sizes(hf: Mapping[str, Any]) -> dict[str, Any]:
  heads = required(hf, "num_attention_heads")
  hidden_size = required(hf, "hidden_size")
  return {
    "vocab_size": required(hf, "vocab_size"),
    "hidden_size": hidden_size,
    "intermediate_size": required(hf, "intermediate_size"),
    "num_layers": required(hf, "num_hidden_layers"),
    "num_heads": heads,
    "num_kv_heads": hf["num_key_value_heads"] or heads,
    "head_dim": hf["head_dim"] or hidden_size // heads,
    "max_position_embeddings": hf["max_position_embeddings"],
    "norm_eps": hf["rms_norm_eps"],
    "tie_embeddings": hf["tie_word_embeddings"],
  }


def _write_sizes(config: ModelConfig) -> dict[str, Any]:
  return {
    "vocab_size": config.vocab_size,
    "hidden_size": config.hidden_size,
    "intermediate_size": config.intermediate_size,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "max_position_embeddings": config.max_position_embeddings,
    "rms_norm_eps": config.norm_eps,
    "tie_word_embeddings": config.tie_embeddings,
  }


SIZES = Option(_read_sizes, _write_sizes)


def activation_from_hf(name: Any, key: str = "hidden_act") -> str:
  """Returns our name of an activation.

  Raises:
    ValueError: it is not supported; the message has the key.
  """
  if name not in _ACTIVATION_OF_HF:
    raise ValueError(
      f"{key} = {name!r} is not supported; "
      f"use one of {', '.join(_ACTIVATION_OF_HF)}"
    )
  return _ACTIVATION_OF_HF[name]


def activation_to_hf(config: ModelConfig) -> str:
  """Returns the name that transformers has for the activation."""
  return _HF_OF_ACTIVATION[config.activation]


ACTIVATION = Option(
  lambda hf: {"activation": activation_from_hf(hf["hidden_act"])},
  lambda config: {"hidden_act": activation_to_hf(config)},
)


def _read_attention_bias(hf: Mapping[str, Any]) -> dict[str, Any]:
  bias = bool(hf.get("attention_bias", False))
  return {"attention_bias": bias, "attention_output_bias": bias}


ATTENTION_BIAS = Option(
  _read_attention_bias,
  lambda config: {"attention_bias": config.attention_bias},
)
MLP_BIAS = Option(
  lambda hf: {"mlp_bias": bool(hf.get("mlp_bias", False))},
  lambda config: {"mlp_bias": config.mlp_bias},
)


def windows(
  layer_types: Sequence[str], window: int | None
) -> tuple[int | None, ...]:
  """Returns one window a layer, or () where every layer sees everything.

  Args:
    layer_types: FULL or SLIDING for each layer.
    window: of the sliding ones; None: they see everything as well.

  Raises:
    ValueError: another type of layer.
  """
  if window is None:
    return ()
  unknown = sorted(set(layer_types) - {FULL, SLIDING})
  if unknown:
    raise ValueError(f"layer_types has {unknown}; use {FULL} or {SLIDING}")
  each = tuple(window if t == SLIDING else None for t in layer_types)
  return () if all(w is None for w in each) else each


def the_window(config: ModelConfig) -> int | None:
  """Returns the window of the layers that have one; None where none has."""
  return next((w for w in config.layer_windows if w is not None), None)


def layer_types(config: ModelConfig) -> list[str]:
  """Returns FULL or SLIDING for each layer."""
  return [
    FULL if config.window(i) is None else SLIDING
    for i in range(config.num_layers)
  ]


def _read_window(hf: Mapping[str, Any]) -> dict[str, Any]:
  sliding = [SLIDING] * hf["num_hidden_layers"]
  return {"layer_windows": windows(sliding, hf["sliding_window"])}


# Of all layers alike.
WINDOW = Option(
  _read_window, lambda config: {"sliding_window": the_window(config)}
)
