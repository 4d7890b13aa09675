"""Pruned models compute what their layers compute, and keep their windows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from tests.models.test_decoder import create, plain_logits, tokens_of
from tests.models.test_huggingface import reference_logits, torch_modules
from tests.toy_models import GEMMA, LLAMA, QWEN3_MOE, noisy_params

# The windows of the layers that stay tell them apart.
# Files of Gemma 3 have no soft cap on attention.
DEEP_GEMMA = dataclasses.replace(
  GEMMA,
  num_layers=5,
  layer_windows=(3, None, 3, 3, None),
  attention_soft_cap=None,
)
DEEP_LLAMA = dataclasses.replace(LLAMA, num_layers=4)


def loaded(config, **options):
  model = create(config, **options)
  return models.LoadedModel(config, model, noisy_params(config))


def silenced(params, layers):
  """Weights in which some layers add nothing to the residual stream."""
  silent = [["layers", str(layer)] for layer in layers]

  def silence(path, x):
    names = [entry.key for entry in path]
    writes = {"out", "down", "expert_down"} & {*names}
    return 0 * x if names[:2] in silent and writes else x

  return jax.tree.map_with_path(silence, params)


@pytest.mark.parametrize(
  ("config", "keep"),
  [
    (DEEP_LLAMA, (0, 3)),
    (DEEP_GEMMA, (0, 1, 3)),
    (DEEP_GEMMA, (1, 4)),
    (QWEN3_MOE, (1, 2)),
  ],
  ids=["llama", "gemma", "gemma_without_windows", "experts"],
)
def test_pruned_model_is_the_whole_one_with_the_other_layers_silent(
  config, keep
):
  whole = loaded(config)
  pruned = models.prune_layers(whole, keep)
  others = set(range(config.num_layers)) - set(keep)
  tokens = tokens_of(config, (2, 9))
  want = plain_logits(whole.model, silenced(whole.params, others), tokens)
  assert np.std(want) > 0.1
  got = plain_logits(pruned.model, pruned.params, tokens)
  np.testing.assert_allclose(got, want, atol=2e-5)
  assert len(pruned.model.init_cache(1, 1)) == len(keep)


@pytest.mark.parametrize("keep", [(1, 2, 3), (1, 4)])
def test_transformers_computes_the_same_from_the_exported_folder(
  keep, tmp_path
):
  _, transformers = torch_modules()
  # Its Gemma 3 has no cap on the scores, and no fraction as the scale.
  config = dataclasses.replace(DEEP_GEMMA, query_pre_attn_scalar=7)
  pruned = models.prune_layers(loaded(config), keep)
  models.save_model(tmp_path / "m", pruned)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "m", dtype="float32", attn_implementation="eager"
  )
  assert theirs.config.num_hidden_layers == len(keep)
  tokens = tokens_of(config, (2, 9))
  np.testing.assert_allclose(
    plain_logits(pruned.model, pruned.params, tokens),
    reference_logits(theirs, tokens),
    atol=1e-4,
  )


def test_layers_keep_their_windows_and_the_rest_stays():
  whole = loaded(DEEP_GEMMA)
  pruned = models.prune_layers(whole, (0, 1, 3))
  assert pruned.config == dataclasses.replace(
    DEEP_GEMMA, num_layers=3, layer_windows=(3, None, 3)
  )
  ropes = [pruned.config.layer_rope(layer) for layer in range(3)]
  assert ropes == [GEMMA.local_rope, GEMMA.rope, GEMMA.local_rope]
  without = models.prune_layers(whole, (1, 4)).config
  assert without == dataclasses.replace(
    DEEP_GEMMA, num_layers=2, layer_windows=()
  )
  # Which transformers asks for all the same.
  assert models.model_config_to_hf(without)["sliding_window"] > 0


def test_arrays_are_those_of_the_model_which_stays_as_it_is():
  whole = loaded(DEEP_LLAMA)
  pruned = models.prune_layers(whole, np.array([1, 3]))
  assert list(whole.params["layers"]) == ["0", "1", "2", "3"]
  assert list(pruned.params["layers"]) == ["0", "1"]
  for new, old in (("0", "1"), ("1", "3")):
    ours = jax.tree.leaves(pruned.params["layers"][new])
    theirs = jax.tree.leaves(whole.params["layers"][old])
    assert all(x is y for x, y in zip(ours, theirs, strict=True))
  for name in ("embedding", "lm_head", "final_norm"):
    assert pruned.params[name] is whole.params[name]


def test_dtype_stays_and_layers_are_computed_twice_only_where_asked_for():
  whole = loaded(DEEP_LLAMA, dtype=jnp.bfloat16)
  tokens, positions = jnp.ones((1, 4), jnp.int32), jnp.arange(4)[None]
  for remat in (False, True):
    pruned = models.prune_layers(whole, (2,), remat=remat)
    assert pruned.model.init_cache(1, 1)[0]["k"].dtype == jnp.bfloat16
    program = jax.make_jaxpr(
      lambda params, apply=pruned.model.apply: apply(
        params, tokens, positions, None
      )
    )(pruned.params)
    assert ("remat" in str(program)) == remat


def test_pruned_folder_loads_again_bit_for_bit(tmp_path):
  pruned = models.prune_layers(loaded(DEEP_GEMMA), (2, 4))
  models.save_model(tmp_path / "m", pruned)
  again = models.load_model(tmp_path / "m", dtype="float32")
  assert again.config == pruned.config
  jax.tree.map(np.testing.assert_array_equal, again.params, pruned.params)


@pytest.mark.parametrize(
  "keep", [(), (0, 4), (-1, 2), (2, 1), (0, 2, 2), (0.0, 2.0), ("0", "2")]
)
def test_what_is_no_increasing_list_of_layers_is_refused(keep):
  with pytest.raises(ValueError) as caught:
    models.prune_layers(loaded(DEEP_LLAMA), keep)
  assert str(caught.value) == (
    f"keep = {keep}: must be increasing layer numbers in [0, 3], one or more"
  )
