"""A model that generates: its weights, and how its tokens are drawn."""

import jax
from flax import struct

from skd_jax import structs
from skd_jax.decoding import sampling as sampling_lib
from skd_jax.parallel import sharding


@struct.dataclass
class Policy:
  """A model, its weights, and how its tokens are drawn."""

  params: structs.Params
  model: structs.LanguageModel = struct.field(pytree_node=False)
  sampling: sampling_lib.Sampling = struct.field(
    pytree_node=False, default=sampling_lib.Sampling()
  )

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Applies the head: [..., D] -> float32 [..., V]."""
    logits = self.model.head(self.model.head_params(self.params), hidden)
    inner = [None] * (logits.ndim - 2)
    # Each device computes the logits of its part of V, and then has those of
    # its rows: the logits are moved, not the head.
    logits = sharding.constrain(logits, "row", *inner, "vocab")
    return sharding.constrain(logits, "spread_row", *inner, None)
