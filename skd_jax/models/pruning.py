"""A model with fewer layers, which a student can start from.

  layers of the model   0  1  2  3  4  5
  keep = (0, 3, 5)      0        1     2   layers of the pruned one

DistilBERT (arXiv 1910.01108) starts as every second layer of its teacher; after
the deeper layers are dropped, a short fine-tuning heals the rest (arXiv
2403.17887).
"""

import dataclasses
import numbers
from collections.abc import Sequence

import jax

from skd_jax.models import architecture
from skd_jax.models.config import ModelConfig
from skd_jax.models.loading import LoadedModel


def check_layers(
  keep: Sequence[int], num_layers: int, *, name: str = "keep"
) -> None:
  """Checks that these are layers of a model, in increasing order.

  Args:
    keep: the numbers, from 0.
    num_layers: L of the model.
    name: what the message calls them.

  Raises:
    ValueError: they are not, or there are none.
  """
  whole = all(isinstance(layer, numbers.Integral) for layer in keep)
  increasing = whole and list(keep) == sorted(set(keep))
  if not keep or not increasing or keep[0] < 0 or keep[-1] >= num_layers:
    raise ValueError(
      f"{name} = {keep}: must be increasing layer numbers in [0, "
      f"{num_layers - 1}], one or more"
    )


def prune_layers(
  model: LoadedModel, keep: Sequence[int], *, remat: bool = False
) -> LoadedModel:
  """Drops all layers of a model but some.

  Embedding, final norm and head stay, and each layer keeps its own window and
  rotary embedding.

  Args:
    model: from `load_model` or `init_model`; it stays as it is.
    keep: the layers that stay, increasing, from 0.
    remat: see load_model.

  Returns:
    The model of len(keep) layers, which computes in the dtype of `model`. Its
    arrays are those of `model`, not copies: nothing writes into an array of
    JAX, and a large teacher would not fit twice.

  Raises:
    ValueError: `keep` is empty, not increasing, or names no layer of the model.
  """
  keep = tuple(keep)
  check_layers(keep, model.config.num_layers)
  config = _config_of_layers(model.config, keep)
  layers = model.params["layers"]
  kept = {str(i): layers[str(layer)] for i, layer in enumerate(keep)}
  # The functions of a model hold its dtype; the cache shows it.
  cache = jax.eval_shape(lambda: model.model.init_cache(1, 1))
  dtype = jax.tree.leaves(cache)[0].dtype
  return LoadedModel(
    config,
    architecture.create(config, dtype=dtype, remat=remat),
    {**model.params, "layers": kept},
  )


def _config_of_layers(config: ModelConfig, keep: Sequence[int]) -> ModelConfig:
  windows = tuple(config.window(layer) for layer in keep)
  if all(window is None for window in windows):
    windows = ()  # As config.json is read, where no layer has a window.
  return dataclasses.replace(
    config,
    num_layers=len(keep),
    layer_windows=windows,
    dense_layers=tuple(
      i for i, layer in enumerate(keep) if layer in config.dense_layers
    ),
    dense_attention_layers=tuple(
      i
      for i, layer in enumerate(keep)
      if layer in config.dense_attention_layers
    ),
  )
