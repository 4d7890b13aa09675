"""config.json of a Hugging Face folder <-> ModelConfig.

One table says what each family implies and which keys it reads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import ROPE_OPTIONS, ModelConfig, RopeConfig

FULL = "full_attention"
SLIDING = "sliding_attention"


@dataclasses.dataclass(frozen=True)
class _Family:
  """What a model_type implies; `defaults` fill keys that config.json omits."""

  architecture: str
  defaults: Mapping[str, Any]
  traits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  options: tuple[str, ...] = ()  # Further keys that the family reads.


_COMMON_DEFAULTS: dict[str, Any] = {
  "num_key_value_heads": None,
  "head_dim": None,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0,
  "tie_word_embeddings": False,
}
_WINDOW_KEYS = ("use_sliding_window", "sliding_window", "layer_types")
_GEMMA_KEYS = (
  "hidden_act",  # vLLM reads both.
  "hidden_activation",
  "attention_bias",
  "query_pre_attn_scalar",
  "attn_logit_softcapping",
  "final_logit_softcapping",
  "sliding_window",
  "layer_types",
)
_GEMMA_TRAITS = {"unit_offset_norm": True, "scale_embeddings": True}
_GEMMA_DEFAULTS = {
  "head_dim": 256,
  "hidden_act": "gelu_pytorch_tanh",
  "tie_word_embeddings": True,
  "max_position_embeddings": 8192,
}
_QWEN_DEFAULTS = {
  "max_position_embeddings": 32768,
  "use_sliding_window": False,
  "sliding_window": 4096,
  "max_window_layers": 28,
}

_FAMILIES: dict[str, _Family] = {
  "llama": _Family(
    "LlamaForCausalLM",
    {"max_position_embeddings": 2048},
    options=("hidden_act", "attention_bias", "mlp_bias"),
  ),
  "mistral": _Family(
    "MistralForCausalLM",
    {
      "max_position_embeddings": 131072,
      "num_key_value_heads": 8,
      "sliding_window": 4096,
    },
    options=("hidden_act", "sliding_window"),
  ),
  "qwen2": _Family(
    "Qwen2ForCausalLM",
    _QWEN_DEFAULTS,
    {"attention_bias": True},
    ("hidden_act", *_WINDOW_KEYS),
  ),
  "qwen3": _Family(
    "Qwen3ForCausalLM",
    {**_QWEN_DEFAULTS, "head_dim": 128},
    {"qk_norm": True},
    ("hidden_act", "attention_bias", *_WINDOW_KEYS),
  ),
  "gemma": _Family(
    "GemmaForCausalLM",
    {**_GEMMA_DEFAULTS, "num_key_value_heads": 16},
    _GEMMA_TRAITS,
    ("hidden_activation", "hidden_act", "attention_bias"),
  ),
  "gemma2": _Family(
    "Gemma2ForCausalLM",
    {
      **_GEMMA_DEFAULTS,
      "num_key_value_heads": 4,
      "query_pre_attn_scalar": 256,
      "sliding_window": 4096,
      "sliding_window_pattern": 2,
      "attn_logit_softcapping": 50.0,
      "final_logit_softcapping": 30.0,
    },
    {**_GEMMA_TRAITS, "sandwich_norm": True},
    _GEMMA_KEYS,
  ),
  "gemma3_text": _Family(
    "Gemma3ForCausalLM",
    {
      **_GEMMA_DEFAULTS,
      # The published 4b and larger omit these.
      "vocab_size": 262208,
      "num_attention_heads": 8,
      "num_key_value_heads": 4,
      "max_position_embeddings": 131072,
      "query_pre_attn_scalar": 256,
      "sliding_window": 4096,
      "sliding_window_pattern": 6,
      "rope_theta": 1000000.0,
      "rope_local_base_freq": 10000.0,
    },
    {**_GEMMA_TRAITS, "sandwich_norm": True, "qk_norm": True},
    _GEMMA_KEYS,
  ),
}

_ACTIVATION_OF_HF = {
  "silu": "silu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "gelu": "gelu",
}
_HF_OF_ACTIVATION = {
  "silu": "silu",
  "gelu_tanh": "gelu_pytorch_tanh",
  "gelu": "gelu",
}


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
  if model_type not in _FAMILIES:
    raise ValueError(
      f"model_type = {model_type!r} is not supported; "
      f"use one of {', '.join(_FAMILIES)} or gemma3"
    )
  family = _FAMILIES[model_type]
  hf = {**_COMMON_DEFAULTS, **family.defaults, **hf_config}
  _reject_unsupported(hf)
  heads = _required(hf, "num_attention_heads")
  hidden_size = _required(hf, "hidden_size")
  options: dict[str, Any] = dict(family.traits)
  if "attention_bias" in family.options:
    bias = bool(hf.get("attention_bias", False))
    options.update(attention_bias=bias, attention_output_bias=bias)
  if "mlp_bias" in family.options:
    options["mlp_bias"] = bool(hf.get("mlp_bias", False))
  if "query_pre_attn_scalar" in family.options:
    options["query_pre_attn_scalar"] = hf["query_pre_attn_scalar"]
    options["attention_soft_cap"] = hf.get("attn_logit_softcapping")
    options["final_soft_cap"] = hf.get("final_logit_softcapping")
  rope, local_rope = _ropes_from_hf(hf)
  return ModelConfig(
    vocab_size=_required(hf, "vocab_size"),
    hidden_size=hidden_size,
    intermediate_size=_required(hf, "intermediate_size"),
    num_layers=_required(hf, "num_hidden_layers"),
    num_heads=heads,
    num_kv_heads=hf["num_key_value_heads"] or heads,
    head_dim=hf["head_dim"] or hidden_size // heads,
    model_type=model_type,
    max_position_embeddings=hf["max_position_embeddings"],
    norm_eps=hf["rms_norm_eps"],
    activation=_activation_from_hf(hf, family),
    tie_embeddings=hf["tie_word_embeddings"],
    layer_windows=_windows_from_hf(hf, family),
    rope=rope,
    local_rope=local_rope,
    **options,
  )


def model_config_to_hf(config: ModelConfig) -> dict[str, Any]:
  """The contents of config.json, without token ids and without dtype.

  Raises:
    ValueError: the family `config.model_type` cannot express these options;
      the message names the fields.
  """
  if config.model_type not in _FAMILIES:
    raise ValueError(
      f"model_type = {config.model_type!r}: must be one of "
      f"{', '.join(_FAMILIES)}"
    )
  family = _FAMILIES[config.model_type]
  activation = _HF_OF_ACTIVATION[config.activation]
  window = next((w for w in config.layer_windows if w is not None), None)
  has_window = window is not None
  if not has_window and family.options == _GEMMA_KEYS:
    # transformers makes the mask of a window also where no layer has one.
    window = family.defaults["sliding_window"]
  scalar = config.query_pre_attn_scalar
  values = {
    "hidden_act": activation,
    "hidden_activation": activation,
    "attention_bias": config.attention_bias,
    "mlp_bias": config.mlp_bias,
    "query_pre_attn_scalar": config.head_dim if scalar is None else scalar,
    "attn_logit_softcapping": config.attention_soft_cap,
    "final_logit_softcapping": config.final_soft_cap,
    "sliding_window": window,
    "use_sliding_window": has_window,
    "layer_types": [
      FULL if config.window(i) is None else SLIDING
      for i in range(config.num_layers)
    ],
  }
  hf = {
    "architectures": [family.architecture],
    "model_type": config.model_type,
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
    **_ropes_to_hf(config),
    **{key: values[key] for key in family.options},
  }
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


def _required(hf: Mapping[str, Any], key: str) -> int:
  if hf.get(key) is None:
    raise ValueError(f"{key} is missing from config.json")
  return hf[key]


def _reject_unsupported(hf: Mapping[str, Any]) -> None:
  for key in (
    "use_bidirectional_attention",
    "num_experts",
    "num_local_experts",
  ):
    if hf.get(key):
      raise ValueError(f"{key}={hf[key]!r} is not supported")
  cap = hf.get("attn_logit_softcapping")
  if hf["model_type"] == "gemma3_text" and cap is not None:
    raise ValueError(
      f"attn_logit_softcapping = {cap!r} is not supported for gemma3_text, "
      "of which transformers ignores it: must be null"
    )
  if (hf.get("partial_rotary_factor") or 1.0) != 1.0:
    raise ValueError(
      f"partial_rotary_factor = {hf['partial_rotary_factor']} is not supported"
    )


def _activation_from_hf(hf: Mapping[str, Any], family: _Family) -> str:
  name = hf.get("hidden_act")
  if "hidden_activation" in family.options:
    name = hf.get("hidden_activation") or name
  if hf["model_type"] == "gemma" and name == "gelu":
    name = "gelu_pytorch_tanh"  # The first Gemma 1 files say gelu, mean tanh.
  if name not in _ACTIVATION_OF_HF:
    raise ValueError(
      f"hidden_act = {name!r} is not supported; "
      f"use one of {', '.join(_ACTIVATION_OF_HF)}"
    )
  return _ACTIVATION_OF_HF[name]


def _windows_from_hf(
  hf: Mapping[str, Any], family: _Family
) -> tuple[int | None, ...]:
  """One window a layer, or () where every layer sees everything."""
  window = hf.get("sliding_window")
  num_layers = _required(hf, "num_hidden_layers")
  if "sliding_window" not in family.options or window is None:
    return ()
  if "use_sliding_window" in family.options and not hf["use_sliding_window"]:
    return ()
  layer_types = hf.get("layer_types")
  if "layer_types" not in family.options:
    layer_types = [SLIDING] * num_layers
  elif layer_types is None and "max_window_layers" in hf:
    full = hf["max_window_layers"]
    layer_types = [FULL if i < full else SLIDING for i in range(num_layers)]
  elif layer_types is None:
    # Pattern 3: sliding, sliding, full, sliding, sliding, full, ...
    pattern = hf["sliding_window_pattern"]
    layer_types = [
      SLIDING if (i + 1) % pattern else FULL for i in range(num_layers)
    ]
  unknown = sorted(set(layer_types) - {FULL, SLIDING})
  if unknown:
    raise ValueError(f"layer_types has {unknown}; use {FULL} or {SLIDING}")
  windows = tuple(window if t == SLIDING else None for t in layer_types)
  return () if all(w is None for w in windows) else windows


def _ropes_from_hf(
  hf: Mapping[str, Any],
) -> tuple[RopeConfig, RopeConfig | None]:
  """The rotary embedding of full layers, and that of windowed layers."""
  theta = hf["rope_theta"]
  parameters = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
  if hf["model_type"] != "gemma3_text":
    return _rope_from_hf(parameters, theta), None
  nested = hf.get("rope_parameters") or {FULL: hf.get("rope_scaling")}
  return (
    _rope_from_hf(nested.get(FULL) or {}, theta),
    _rope_from_hf(nested.get(SLIDING) or {}, hf["rope_local_base_freq"]),
  )


def _rope_from_hf(parameters: Mapping[str, Any], theta: float) -> RopeConfig:
  kind = parameters.get("rope_type", parameters.get("type", "default"))
  if kind not in ROPE_OPTIONS:
    raise ValueError(
      f"rope_type = {kind!r} is not supported; "
      f"use one of {', '.join(ROPE_OPTIONS)}"
    )
  given = {k: v for k, v in parameters.items() if v is not None}
  theta = given.get("rope_theta", theta)
  if given.get("partial_rotary_factor", 1.0) != 1.0:
    raise ValueError(
      f"partial_rotary_factor = {given['partial_rotary_factor']} is not "
      "supported"
    )
  ignored = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
  unknown = sorted(set(given) - ignored - set(ROPE_OPTIONS[kind]))
  if unknown and kind != "default":
    raise ValueError(f"rope_type = {kind!r} with {unknown} is not supported")
  options = {k: given[k] for k in ROPE_OPTIONS[kind] if k in given}
  if kind != "default":
    needed = {"linear": ("factor",), "yarn": ROPE_OPTIONS["yarn"][:2]}
    for key in needed.get(kind, ROPE_OPTIONS[kind]):
      if key not in options:
        raise ValueError(f"rope_type = {kind!r} needs {key}")
  return RopeConfig(rope_theta=theta, rope_type=kind, **options)


def _rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
  keys = ("rope_theta", "rope_type", *ROPE_OPTIONS[rope.rope_type])
  values = {key: getattr(rope, key) for key in keys}
  return {key: value for key, value in values.items() if value is not None}


def _ropes_to_hf(config: ModelConfig) -> dict[str, Any]:
  """The keys of transformers 5, and those that 4 reads instead."""
  rope = _rope_to_hf(config.rope)
  is_scaled = config.rope.rope_type != "default"
  older = {
    "rope_theta": config.rope.rope_theta,
    "rope_scaling": rope if is_scaled else None,
  }
  if config.local_rope is None:
    return {"rope_parameters": rope, **older}
  local = _rope_to_hf(config.local_rope)
  older["rope_local_base_freq"] = config.local_rope.rope_theta
  return {"rope_parameters": {FULL: rope, SLIDING: local}, **older}
