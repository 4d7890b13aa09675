"""The rotary embedding in config.json, in the layouts of transformers 4 and 5.

transformers 5 has `rope_parameters`; 4 has `rope_theta` and `rope_scaling`.
"""

from collections.abc import Mapping
from typing import Any

from skd_jax.models.config import ROPE_OPTIONS, ModelConfig, RopeConfig
from skd_jax.models.families.options import Option

_KINDS = ("default", "linear", "llama3", "yarn")


def rope_from_hf(
  parameters: Mapping[str, Any],
  theta: float,
  kinds: tuple[str, ...] = _KINDS,
) -> RopeConfig:
  """Reads `rope_parameters` or `rope_scaling`.

  Args:
    parameters: empty where nothing is scaled.
    theta: where the parameters have none.
    kinds: those of the family.

  Raises:
    ValueError: a kind or an option that is not supported, or one is missing.
  """
  kind = parameters.get("rope_type", parameters.get("type", "default"))
  if kind not in kinds:
    raise ValueError(
      f"rope_type = {kind!r} is not supported; use one of {', '.join(kinds)}"
    )
  given = {k: v for k, v in parameters.items() if v is not None}
  theta = given.get("rope_theta", theta)
  ignored = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
  unknown = sorted(set(given) - ignored - set(ROPE_OPTIONS[kind]))
  if unknown and kind != "default":
    raise ValueError(f"rope_type = {kind!r} with {unknown} is not supported")
  options: dict[str, Any] = {
    k: given[k] for k in ROPE_OPTIONS[kind] if k in given
  }
  options = {
    k: tuple(v) if isinstance(v, list) else v for k, v in options.items()
  }
  if kind != "default":
    needed = {"linear": ("factor",), "yarn": ROPE_OPTIONS["yarn"][:2]}
    for key in needed.get(kind, ROPE_OPTIONS[kind]):
      if key not in options:
        raise ValueError(f"rope_type = {kind!r} needs {key}")
  return RopeConfig(rope_theta=theta, rope_type=kind, **options)


def rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
  """Returns `rope_parameters`."""
  keys = ("rope_theta", "rope_type", *ROPE_OPTIONS[rope.rope_type])
  values = {key: getattr(rope, key) for key in keys}
  return {key: value for key, value in values.items() if value is not None}


def older_keys(rope: RopeConfig) -> dict[str, Any]:
  """Returns what transformers 4 reads instead."""
  is_scaled = rope.rope_type != "default"
  return {
    "rope_theta": rope.rope_theta,
    "rope_scaling": rope_to_hf(rope) if is_scaled else None,
  }


def parameters_of(hf: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns `rope_parameters`, or what older files have instead."""
  return hf.get("rope_parameters") or hf.get("rope_scaling") or {}


def reject_partial(*places: Mapping[str, Any]) -> None:
  """Raises ValueError where only a part of each head is rotated."""
  for place in places:
    part = place.get("partial_rotary_factor")
    if (part or 1.0) != 1.0:
      raise ValueError(f"partial_rotary_factor = {part} is not supported")


def _read(hf: Mapping[str, Any]) -> dict[str, Any]:
  parameters = parameters_of(hf)
  reject_partial(hf, parameters)
  return {"rope": rope_from_hf(parameters, hf["rope_theta"])}


def _write(config: ModelConfig) -> dict[str, Any]:
  return {
    "rope_parameters": rope_to_hf(config.rope),
    **older_keys(config.rope),
  }


# Of all layers alike.
ROPE = Option(_read, _write)
