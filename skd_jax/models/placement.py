"""Where the weights of a decoder are placed; see parallel/sharding.py."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from skd_jax import structs
from skd_jax.models.architecture import param_shapes
from skd_jax.models.config import ModelConfig
from skd_jax.parallel import sharding

# The dimensions of each weight, by the end of its name. The others, norms and
# the biases of what is written into the residual stream, are on every device.
_WEIGHTS: Mapping[str, tuple[str | None, ...]] = {
  "embedding": ("vocab", "width"),
  "position_embedding": (None, "width"),
  "lm_head": ("vocab", "width"),
  "query.kernel": ("width", "heads"),
  "key.kernel": ("width", "kv_heads"),
  "value.kernel": ("width", "kv_heads"),
  "out.kernel": ("heads", "width"),
  "query.bias": ("heads",),
  "key.bias": ("kv_heads",),
  "value.bias": ("kv_heads",),
  "gate.kernel": ("width", "mlp"),
  "up.kernel": ("width", "mlp"),
  "down.kernel": ("mlp", "width"),
  "gate.bias": ("mlp",),
  "up.bias": ("mlp",),
  "router.kernel": ("width", None),
  # Not along the experts: see experts.py.
  "expert_gate.kernel": (None, "width", "expert_mlp"),
  "expert_up.kernel": (None, "width", "expert_mlp"),
  "expert_down.kernel": (None, "expert_mlp", "width"),
}


def _sizes(config: ModelConfig) -> dict[str, int]:
  """What must be divisible: whole heads go to a device."""
  return {
    "vocab": config.vocab_rows,
    "heads": config.num_heads,
    "kv_heads": config.num_kv_heads,
    "mlp": config.intermediate_size,
    "expert_mlp": config.expert_size,
    "width": config.hidden_size,
  }


def usable_rules(
  config: ModelConfig, mesh: jax.sharding.Mesh, rules: sharding.Rules
) -> tuple[sharding.Rules, list[str]]:
  """Returns the rules that divide a model, and why the others do not.

  A dimension that is not divisible stays whole on every device. So do query
  heads whose groups would be torn, see ModelConfig.divides_heads.

  Args:
    config: of the model.
    mesh: the mesh.
    rules: TRAINED or FROZEN.

  Returns:
    (rules, one line for each dimension that is kept whole).
  """
  usable, kept = dict(rules), []
  for name, size in _sizes(config).items():
    parts = math.prod(mesh.shape[axis] for axis in rules[name])
    torn = name == "heads" and not config.divides_heads(parts)
    if size % parts or torn:
      usable[name] = ()
      axes = " * ".join(f"mesh.{axis}" for axis in rules[name])
      kept.append(f"{name} = {size} is not divisible by {axes} = {parts}")
  return usable, kept


def kinds_of(path: Sequence[Any]) -> tuple[str | None, ...]:
  """Returns the kind of each dimension of the weight at a path of the tree.

  None for one that is not divided; empty for a weight that every device has
  whole.
  """
  keys = [str(key.key) for key in path]
  return _WEIGHTS.get(keys[-1]) or _WEIGHTS.get(".".join(keys[-2:]), ())


def param_shardings(
  config: ModelConfig, mesh: jax.sharding.Mesh, rules: sharding.Rules
) -> structs.Params:
  """Returns the sharding of each weight.

  Args:
    config: of the model.
    mesh: the mesh.
    rules: from usable_rules.

  Returns:
    A tree of jax.sharding.NamedSharding, as param_shapes.
  """

  def of(path, leaf):
    del leaf
    kinds = kinds_of(path)
    spec = jax.sharding.PartitionSpec(
      *((kind and rules[kind]) or None for kind in kinds)
    )
    return jax.sharding.NamedSharding(mesh, spec)

  return jax.tree.map_with_path(of, param_shapes(config))
