"""Adapters in the files of PEFT, and whole weights of a model that has them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from skd_jax import models
from skd_jax.models import lora
from tests import damage
from tests.models.test_lora import CONFIG, RANK, add, changed, logits
from tests.toy_models import noisy_params


@pytest.fixture(scope="module")
def params():
  return changed(add(noisy_params(CONFIG)))


@pytest.fixture
def folder(params, tmp_path):
  models.save_adapters(tmp_path / "a", CONFIG, params, base="org/base")
  return tmp_path / "a"


def test_files_are_those_of_peft(params, folder):
  config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
  assert config["peft_type"] == "LORA"
  assert config["task_type"] == "CAUSAL_LM"
  assert config["base_model_name_or_path"] == "org/base"
  assert (config["r"], config["lora_alpha"]) == (RANK, 6.0)
  assert config["target_modules"] == ["down_proj", "q_proj"]
  tensors = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
  names = [
    f"base_model.model.model.layers.{layer}.{module}.lora_{part}.weight"
    for layer in range(CONFIG.num_layers)
    for module in ("self_attn.q_proj", "mlp.down_proj")
    for part in "AB"
  ]
  assert sorted(tensors) == sorted(names)
  # PEFT: W [out, in] + lora_alpha / r * B [out, r] A [r, in].
  a, b = (
    tensors[f"base_model.model.model.layers.1.mlp.down_proj.lora_{p}.weight"]
    for p in "AB"
  )
  assert (a.shape, b.shape) == ((RANK, 40), (24, RANK))
  kernel = params["layers"]["1"]["mlp"]["down"]["kernel"]
  merged = np.asarray(kernel.kernel).T + 6.0 / RANK * b @ a
  np.testing.assert_allclose(lora.merge(kernel), merged.T, rtol=1e-4, atol=1e-6)


def test_adapters_come_back_bit_for_bit_into_the_same_weights(params, folder):
  base = add(noisy_params(CONFIG), seed=7)
  read = models.load_adapters(folder, CONFIG, base)
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert read["embedding"] is base["embedding"]


def test_adapters_of_another_shape_are_named(folder):
  other = models.add_adapters(
    CONFIG,
    noisy_params(CONFIG),
    rank=2,
    alpha=6.0,
    targets=("q_proj", "down_proj"),
    seed=0,
  )
  with pytest.raises(ValueError) as caught:
    models.load_adapters(folder, CONFIG, other)
  assert str(caught.value) == (
    f"{folder}: base_model.model.model.layers.0.mlp.down_proj.lora_A.weight "
    "has shape (3, 40), must be (2, 40)"
  )
  with pytest.raises(
    ValueError, match=r"q_proj.lora_A.weight has shape .* None"
  ):
    models.load_adapters(
      folder, CONFIG, add(noisy_params(CONFIG), ("down_proj",))
    )


def test_adapters_of_another_scale_are_refused(folder):
  other = models.add_adapters(
    CONFIG,
    noisy_params(CONFIG),
    rank=RANK,
    alpha=3.0,
    targets=("q_proj", "down_proj"),
    seed=0,
  )
  with pytest.raises(ValueError, match=r"lora_alpha / r is 2\.0, must be 1\.0"):
    models.load_adapters(folder, CONFIG, other)


def test_adapters_without_their_scale_are_refused(folder, params):
  (folder / "skd_jax_manifest.json").unlink()
  (folder / "adapter_config.json").write_text("{}")
  with pytest.raises(ValueError, match="names no lora_alpha and r"):
    models.load_adapters(folder, CONFIG, params)


def test_damaged_adapters_are_not_read(params, folder):
  damage.KINDS["flipped"](folder / "adapter_model.safetensors")
  with pytest.raises(
    ValueError, match=r"adapter_model\.safetensors: its content"
  ):
    models.load_adapters(folder, CONFIG, params)


def test_exported_weights_are_merged(params, tmp_path):
  models.save(tmp_path / "merged", CONFIG, params)
  read = models.load_model(tmp_path / "merged", dtype="float32")
  assert read.config == CONFIG
  np.testing.assert_allclose(
    logits(read.params), logits(params), rtol=1e-4, atol=1e-5
  )
  base = noisy_params(CONFIG)
  jax.tree.map(
    np.testing.assert_array_equal,
    read.params["layers"]["0"]["mlp"]["up"],
    base["layers"]["0"]["mlp"]["up"],
  )


def test_export_of_bfloat16_weights_does_not_round_the_sum(params, tmp_path):
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), noisy_params(CONFIG))
  adapted = changed(add(half))
  models.save(tmp_path / "merged", CONFIG, adapted)
  read = models.load_params(tmp_path / "merged", CONFIG)
  kernel = read["layers"]["0"]["attention"]["query"]["kernel"]
  wanted = adapted["layers"]["0"]["attention"]["query"]["kernel"]
  np.testing.assert_array_equal(kernel, lora.merge(wanted))
  assert np.any(kernel != kernel.astype(jnp.bfloat16))
