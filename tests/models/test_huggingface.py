"""Hugging Face folders in and out, against transformers where torch is here."""

import dataclasses
import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from skd_jax import models
from skd_jax.reporting import manifest
from tests.models.test_decoder import cached_logits, plain_logits, tokens_of
from tests.toy_models import (
  GEMMA,
  GPT2,
  LLAMA,
  MIXTRAL,
  OLMO,
  PHI,
  QWEN3_MOE,
  noisy_params,
)

# A soft cap on attention is none of Gemma 3.
GEMMA3 = dataclasses.replace(GEMMA, attention_soft_cap=None)
INDEX = "model.safetensors.index.json"
SIZES = {
  "vocab_size": 53,
  "hidden_size": 24,
  "intermediate_size": 36,
  "num_hidden_layers": 2,
  "num_attention_heads": 6,
  "num_key_value_heads": 2,
  "head_dim": 10,
  "max_position_embeddings": 64,
}
LLAMA3_ROPE = {
  "rope_type": "llama3",
  "rope_theta": 500.0,
  "factor": 4.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
GEMMA_CAPS = {
  "query_pre_attn_scalar": 7,
  "attn_logit_softcapping": 3.0,
  "final_logit_softcapping": 2.0,
}
GPT2_SIZES = {
  "num_key_value_heads": None,
  "head_dim": None,
  "intermediate_size": None,
}


def longrope(context, num_pairs):
  """Keys of Phi, with long factors that no test should see."""
  return {
    "original_max_position_embeddings": context,
    "rope_parameters": {
      "rope_type": "longrope",
      "rope_theta": 100.0,
      "short_factor": [1.0 + 0.2 * i for i in range(num_pairs)],
      "long_factor": [1.5 + 0.7 * i for i in range(num_pairs)],
    },
  }


# Name: model_type and what differs from SIZES. Sequences have 18 tokens.
FAMILIES = {
  "llama": ("llama", {"head_dim": None}),
  "llama_biased_tied": (
    "llama",
    {
      "attention_bias": True,
      "mlp_bias": True,
      "tie_word_embeddings": True,
      "rope_parameters": LLAMA3_ROPE,
    },
  ),
  "llama_linear": (
    "llama",
    {
      "hidden_act": "gelu",
      "rope_parameters": {
        "rope_type": "linear",
        "rope_theta": 100.0,
        "factor": 2.5,
      },
    },
  ),
  "mistral": ("mistral", {"sliding_window": 5}),
  "mistral_full": ("mistral", {"sliding_window": None}),
  "qwen2": ("qwen2", {"head_dim": None, "tie_word_embeddings": True}),
  "qwen2_yarn": (
    "qwen2",
    {
      "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
      },
    },
  ),
  "qwen2_window": (
    "qwen2",
    {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
  ),
  "qwen3": ("qwen3", {"attention_bias": True}),
  "gemma": ("gemma", {"num_key_value_heads": 1}),
  "gemma2": ("gemma2", {"sliding_window": 5, **GEMMA_CAPS}),
  "gemma3": (
    "gemma3_text",
    {
      "sliding_window": 5,
      "sliding_window_pattern": 2,
      "query_pre_attn_scalar": 7,
      "rope_parameters": {
        "full_attention": {
          "rope_type": "linear",
          "rope_theta": 1000.0,
          "factor": 8.0,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
      },
    },
  ),
  "gemma3_untied": (
    "gemma3_text",
    {
      "sliding_window": 5,
      "tie_word_embeddings": False,
      "final_logit_softcapping": 2.0,
    },
  ),
  "olmo2": ("olmo2", {}),
  "olmo2_biased": ("olmo2", {"attention_bias": True, "head_dim": None}),
  "phi3": ("phi3", {"head_dim": None, "sliding_window": 5}),
  "phi3_longrope": ("phi3", {"head_dim": None, **longrope(32, 2)}),
  "phi4_mini": (
    "phi3",
    {
      "head_dim": None,
      "hidden_size": 48,
      "partial_rotary_factor": 0.75,
      "tie_word_embeddings": True,
      **longrope(32, 3),
    },
  ),
  "mixtral": ("mixtral", {"num_local_experts": 5, "sliding_window": 5}),
  "qwen3_moe": (
    "qwen3_moe",
    {
      "num_hidden_layers": 4,
      "num_experts": 7,
      "num_experts_per_tok": 3,
      "moe_intermediate_size": 12,
      "decoder_sparse_step": 2,
      "mlp_only_layers": [1],
      "use_sliding_window": True,
      "sliding_window": 5,
    },
  ),
  "qwen3_moe_normalized": (
    "qwen3_moe",
    {
      "attention_bias": True,
      "tie_word_embeddings": True,
      "num_experts": 4,
      "num_experts_per_tok": 2,
      "moe_intermediate_size": 20,
      "norm_topk_prob": True,
    },
  ),
  "gpt2": ("gpt2", GPT2_SIZES),
  "gpt2_untied": (
    "gpt2",
    {**GPT2_SIZES, "n_inner": 30, "tie_word_embeddings": False},
  ),
}


def torch_modules():
  """torch and transformers, or a skip that says what is not tested."""
  reason = "needs torch: compares with the models of transformers"
  torch = pytest.importorskip("torch", reason=reason)
  return torch, pytest.importorskip("transformers", reason=reason)


def reference_model(family):
  """A small model of transformers in which no weight is trivially 0 or 1."""
  torch, transformers = torch_modules()
  model_type, changes = FAMILIES[family]
  dropped = {k for k in SIZES if k in changes and changes[k] is None}
  sizes = {k: v for k, v in {**SIZES, **changes}.items() if k not in dropped}
  config = transformers.AutoConfig.for_model(
    model_type,
    **sizes,
    attn_implementation="eager",
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
  )
  torch.manual_seed(0)
  model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      noise = torch.randn_like(weight)
      if "norm" in name:
        weight.add_(0.3 * noise)
      elif name.endswith("bias"):
        weight.copy_(0.3 * noise)
      else:
        weight.copy_(0.25 * noise)
  return model


def reference_logits(model, tokens):
  import torch

  with torch.no_grad():
    return model(torch.tensor(np.asarray(tokens)).long()).logits.numpy()


def load(folder, **kwargs):
  config = models.load_config(folder)
  return models.create(config), models.load_params(folder, config, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_match_transformers_both_ways(family, tmp_path):
  reference = reference_model(family)
  reference.save_pretrained(tmp_path / "in")
  config = models.load_config(tmp_path / "in")
  model, params = load(tmp_path / "in")
  tokens = tokens_of(config, (3, 18))
  want = reference_logits(reference, tokens)
  assert np.std(want) > 0.1
  # test_decoder.py shows that the logits without a cache are the same.
  got = cached_logits(model, params, tokens, [4, 5, 1], [1, 5, 1, 5])
  for b, row in enumerate(got):
    np.testing.assert_allclose(row, want[b, : len(row)], atol=1e-4)

  models.save(tmp_path / "out", config, params, eos_token_id=2)
  assert models.load_config(tmp_path / "out") == config
  import transformers

  again = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "out", dtype="float32", attn_implementation="eager"
  )
  assert type(again) is type(reference)
  assert again.config.eos_token_id == 2
  np.testing.assert_allclose(reference_logits(again, tokens), want, atol=1e-6)


@pytest.mark.parametrize(
  "model_type", sorted({f[0] for f in FAMILIES.values()})
)
def test_omitted_keys_mean_what_transformers_means(model_type):
  _, transformers = torch_modules()
  config = transformers.AutoConfig.for_model(model_type)
  needed = SIZES.keys() - {
    "head_dim",
    "num_key_value_heads",
    "max_position_embeddings",
  }
  if model_type == "gpt2":
    needed = {"vocab_size", "n_embd", "n_layer", "n_head"}
  sizes = {key: getattr(config, key) for key in needed}
  omitted = models.model_config_from_hf({"model_type": model_type, **sizes})
  assert omitted == models.model_config_from_hf(config.to_dict())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files_load(dtype, tmp_path):
  torch, transformers = torch_modules()
  narrow = reference_model("llama").to(getattr(torch, dtype))
  narrow.save_pretrained(tmp_path)
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, dtype="float32"
  )
  model, params = load(tmp_path)
  tokens = tokens_of(models.load_config(tmp_path), (2, 8))
  want = reference_logits(reference, tokens)
  np.testing.assert_allclose(
    plain_logits(model, params, tokens), want, atol=1e-4
  )
  narrow = models.load_params(
    tmp_path, models.load_config(tmp_path), param_dtype=jnp.bfloat16
  )
  assert {x.dtype for x in jax.tree.leaves(narrow)} == {jnp.dtype("bfloat16")}


def test_text_part_of_an_image_model_loads(tmp_path, caplog):
  reference = reference_model("gemma3")
  reference.save_pretrained(tmp_path)
  path = tmp_path / "model.safetensors"
  tensors = {
    f"language_model.{name}": value
    for name, value in safetensors.numpy.load_file(path).items()
  }
  tensors["vision_tower.patch"] = np.zeros((2, 2), np.float32)
  safetensors.numpy.save_file(tensors, path)
  text = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(
    json.dumps({"model_type": "gemma3", "text_config": text, "vision": {}})
  )
  model, params = load(tmp_path)
  tokens = tokens_of(models.load_config(tmp_path), (2, 9))
  np.testing.assert_allclose(
    plain_logits(model, params, tokens),
    reference_logits(reference, tokens),
    atol=1e-4,
  )


# What follows needs no torch.


@pytest.mark.parametrize(
  "config",
  [LLAMA, GEMMA3, OLMO, PHI, MIXTRAL, QWEN3_MOE, GPT2],
  ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 10_000])
def test_export_loads_again_bit_for_bit(config, max_shard_bytes, tmp_path):
  params = noisy_params(config)
  models.save(tmp_path / "m", config, params, max_shard_bytes=max_shard_bytes)
  shards = [f for f in os.listdir(tmp_path / "m") if f.endswith("safetensors")]
  assert (len(shards) > 1) == (max_shard_bytes == 10_000)
  assert models.load_config(tmp_path / "m") == config
  again = models.load_params(tmp_path / "m", config)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_bfloat16_export_rounds_once(tmp_path):
  params = noisy_params(LLAMA)
  models.save(tmp_path / "m", LLAMA, params, dtype="bfloat16")
  again = models.load_params(tmp_path / "m", LLAMA)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(
      a, np.asarray(b).astype(ml_dtypes.bfloat16).astype(np.float32)
    ),
    again,
    params,
  )


def test_padded_vocabulary_is_cut_to_the_first_rows(tmp_path):
  params = noisy_params(LLAMA)
  models.save(tmp_path / "m", LLAMA, params)
  cut = models.load_params(tmp_path / "m", LLAMA, vocab_size=50)
  for name in ("embedding", "lm_head"):
    np.testing.assert_array_equal(cut[name], params[name][:50])
  model = models.create(dataclasses.replace(LLAMA, vocab_size=50))
  tokens = tokens_of(dataclasses.replace(LLAMA, vocab_size=50), (1, 4))
  whole = plain_logits(models.create(LLAMA), params, tokens)
  np.testing.assert_allclose(
    plain_logits(model, cut, tokens), whole[..., :50], atol=1e-6
  )
  with pytest.raises(ValueError, match="vocab_size = 62 is more than the 61"):
    models.load_params(tmp_path / "m", LLAMA, vocab_size=62)


def test_each_device_gets_its_slice(tmp_path):
  params = noisy_params(LLAMA)
  models.save(tmp_path / "m", LLAMA, params)
  devices = jax.devices()[: 2 if len(jax.devices()) > 1 else 1]
  mesh = jax.make_mesh((len(devices),), ("model",), devices=devices)

  def place(axis):
    spec = [None, None]
    spec[axis] = "model"
    return jax.NamedSharding(mesh, jax.P(*spec))

  shardings = jax.tree.map(
    lambda x: (
      place(1)
      if x.ndim == 2 and x.shape[1] % 2 == 0
      else jax.NamedSharding(mesh, jax.P())
    ),
    models.param_shapes(LLAMA),
  )
  shardings["embedding"] = place(0)
  again = models.load_params(
    tmp_path / "m", LLAMA, shardings=shardings, vocab_size=60
  )
  assert again["embedding"].sharding == shardings["embedding"]
  np.testing.assert_array_equal(again["embedding"], params["embedding"][:60])
  jax.tree.map(np.testing.assert_array_equal, again["layers"], params["layers"])


def test_killed_export_leaves_the_old_one(tmp_path):
  params = noisy_params(LLAMA)
  models.save(tmp_path / "m", LLAMA, params)

  def fail(folder):
    assert os.path.exists(os.path.join(folder, "model.safetensors"))
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    models.save(tmp_path / "m", GEMMA3, noisy_params(GEMMA3), write_more=fail)
  assert models.load_config(tmp_path / "m") == LLAMA
  models.load_params(tmp_path / "m", LLAMA)
  assert os.listdir(tmp_path) == ["m"]


def test_export_replaces_an_export_but_never_other_files(tmp_path):
  params = noisy_params(LLAMA)
  models.save(tmp_path / "m", LLAMA, params, max_shard_bytes=10_000)
  models.save(
    tmp_path / "m",
    LLAMA,
    params,
    eos_token_id=[2, 3],
    write_more=lambda folder: open(f"{folder}/tokenizer.json", "w").close(),
  )
  assert sorted(os.listdir(tmp_path / "m")) == [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    manifest.NAME,
    "tokenizer.json",
  ]
  # Nor does it matter which file of an export is lost.
  (tmp_path / "m" / "config.json").unlink()
  models.save(tmp_path / "m", LLAMA, params, eos_token_id=[2, 3])
  config = json.loads((tmp_path / "m" / "config.json").read_text())
  assert config["eos_token_id"] == [2, 3]


@pytest.mark.parametrize("name", ["notes.txt", "config.json"])
def test_export_into_a_folder_of_something_else_is_refused(name, tmp_path):
  folder = tmp_path / "project"
  (folder / "src").mkdir(parents=True)
  (folder / name).write_text('{"name": "an app"}')
  with pytest.raises(ValueError, match="no earlier export"):
    models.save(folder, LLAMA, noisy_params(LLAMA))
  assert sorted(os.listdir(folder)) == sorted([name, "src"])


def test_export_through_a_link_replaces_what_it_leads_to(tmp_path):
  (tmp_path / "disk").mkdir()
  link = tmp_path / "export"
  link.symlink_to(tmp_path / "disk" / "export")
  params = noisy_params(LLAMA)
  for _ in range(3):
    models.save(link, LLAMA, params)
  assert link.is_symlink()
  assert os.listdir(tmp_path / "disk") == ["export"]
  assert sorted(os.listdir(tmp_path)) == ["disk", "export"]


def test_export_over_a_file_is_refused_before_anything_is_written(tmp_path):
  path = tmp_path / "export"
  path.write_text("kept")
  with pytest.raises(ValueError, match="must be a folder, and is a file"):
    models.save(path, LLAMA, noisy_params(LLAMA))
  assert path.read_text() == "kept"
  assert os.listdir(tmp_path) == ["export"]


def test_export_over_a_mount_point_is_refused(tmp_path, monkeypatch):
  (tmp_path / "export").mkdir()
  monkeypatch.setattr(os.path, "ismount", lambda path: True)
  with pytest.raises(ValueError, match="must not be a mount point"):
    models.save(tmp_path / "export", LLAMA, noisy_params(LLAMA))


def test_an_export_killed_between_two_renames_is_put_back(tmp_path):
  params = noisy_params(LLAMA)
  models.save(tmp_path / "m", LLAMA, params)
  (tmp_path / "m").rename(tmp_path / ".m.old")
  with pytest.raises(OSError, match="full"):
    models.save(tmp_path / "m", LLAMA, params, write_more=fill_disk)
  models.load_params(tmp_path / "m", LLAMA)


def fill_disk(folder):
  raise OSError(f"{folder}: full")


def published(name):
  """Excerpts of the layouts found in published config.json files."""
  sizes = {k: v for k, v in SIZES.items() if k != "head_dim"}
  return {
    "llama_3_2": {
      **sizes,
      "model_type": "llama",
      "rope_theta": 500.0,
      "rope_scaling": {**LLAMA3_ROPE, "rope_theta": None},
    },
    "llama_2": {**sizes, "model_type": "llama", "rope_scaling": None},
    "linear_old": {
      **sizes,
      "model_type": "llama",
      "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "gemma_1": {
      **SIZES,
      "model_type": "gemma",
      "hidden_act": "gelu",
      "hidden_activation": None,
    },
    "gemma_3": {
      "model_type": "gemma3",
      "vision_config": {"hidden_size": 1152},
      "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
      },
    },
    "qwen2_5": {
      **sizes,
      "model_type": "qwen2",
      "rope_theta": 1e6,
      "sliding_window": 32768,
      "use_sliding_window": False,
      "max_window_layers": 2,
    },
  }[name]


def test_both_rope_layouts_read_alike():
  old = models.model_config_from_hf(published("llama_3_2"))
  new = {**published("llama_3_2"), "rope_parameters": LLAMA3_ROPE}
  del new["rope_theta"], new["rope_scaling"]
  assert models.model_config_from_hf(new) == old
  assert old.rope == models.RopeConfig(**LLAMA3_ROPE)
  linear = models.model_config_from_hf(published("linear_old"))
  assert linear.rope == models.RopeConfig(rope_type="linear", factor=2.0)
  plain = models.model_config_from_hf(published("llama_2"))
  assert plain.rope == models.RopeConfig()


def test_published_layouts_read_as_meant():
  gemma = models.model_config_from_hf(published("gemma_1"))
  assert (gemma.activation, gemma.tie_embeddings) == ("gelu_tanh", True)
  qwen = models.model_config_from_hf(published("qwen2_5"))
  assert qwen.layer_windows == ()
  assert (qwen.attention_bias, qwen.attention_output_bias) == (True, False)
  gemma = models.model_config_from_hf(published("gemma_3"))
  assert gemma.model_type == "gemma3_text"
  assert (gemma.num_heads, gemma.num_kv_heads, gemma.head_dim) == (8, 4, 256)
  assert gemma.layer_windows[:7] == (1024,) * 5 + (None, 1024)
  assert (gemma.layer_rope(0).rope_theta, gemma.layer_rope(0).factor) == (
    10000.0,
    1.0,
  )
  assert (gemma.layer_rope(5).rope_theta, gemma.layer_rope(5).factor) == (
    1000000.0,
    8.0,
  )
  assert hash(gemma) == hash(models.model_config_from_hf(published("gemma_3")))


@pytest.mark.parametrize(
  "name", ["llama_3_2", "linear_old", "gemma_1", "gemma_3", "qwen2_5"]
)
def test_config_survives_export(name):
  config = models.model_config_from_hf(published(name))
  hf = json.loads(json.dumps(models.model_config_to_hf(config)))
  assert models.model_config_from_hf(hf) == config


YARN_ROPE = {
  "rope_type": "yarn",
  "rope_theta": 1000.0,
  "factor": 4.0,
  "original_max_position_embeddings": 16,
  "beta_fast": 16.0,
  "beta_slow": 2.0,
  "attention_factor": 1.5,
  "truncate": False,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.5}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 500.0}


@pytest.mark.parametrize(
  "rope",
  [PLAIN_ROPE, LINEAR_ROPE, LLAMA3_ROPE, YARN_ROPE],
  ids=lambda rope: rope["rope_type"],
)
def test_export_has_the_rope_keys_of_transformers_4_as_well(rope):
  config = dataclasses.replace(LLAMA, rope=models.RopeConfig(**rope))
  hf = json.loads(json.dumps(models.model_config_to_hf(config)))
  assert hf["rope_parameters"] == rope
  assert hf["rope_theta"] == rope["rope_theta"]
  assert hf["rope_scaling"] == (None if rope is PLAIN_ROPE else rope)
  assert models.model_config_from_hf(hf) == config
  del hf["rope_parameters"]
  assert models.model_config_from_hf(hf) == config


@pytest.mark.parametrize("rope", [PLAIN_ROPE, LINEAR_ROPE])
def test_export_of_gemma_3_has_both_thetas(rope):
  config = dataclasses.replace(
    GEMMA3,
    rope=models.RopeConfig(**rope),
    local_rope=models.RopeConfig(rope_theta=50.0),
  )
  hf = json.loads(json.dumps(models.model_config_to_hf(config)))
  assert (hf["rope_theta"], hf["rope_local_base_freq"]) == (
    rope["rope_theta"],
    50.0,
  )
  assert hf["rope_scaling"] == (None if rope is PLAIN_ROPE else rope)
  assert models.model_config_from_hf(hf) == config
  del hf["rope_parameters"]
  assert models.model_config_from_hf(hf) == config


def test_soft_cap_on_the_attention_of_gemma_3_is_refused():
  hf = published("gemma_3")
  hf["text_config"]["attn_logit_softcapping"] = 50.0
  message = r"attn_logit_softcapping = 50\.0 is not supported for gemma3_text"
  with pytest.raises(ValueError, match=message):
    models.model_config_from_hf(hf)
  with pytest.raises(ValueError, match=r"attn_logit_softcapping = 3\.0"):
    models.model_config_to_hf(GEMMA)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "mamba"}, "model_type = 'mamba' is not supported"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"num_local_experts": 8}, "num_local_experts=8"),
    ({"model_type": "qwen2_moe"}, "model_type = 'qwen2_moe' is not supported"),
    ({"model_type": "deepseek_v3"}, "model_type = 'deepseek_v3' is not"),
    (
      {"model_type": "mixtral", "n_shared_experts": 1},
      "n_shared_experts=1 is not supported",
    ),
    (
      {"model_type": "qwen3_moe", "num_experts_per_tok": 200},
      r"experts_per_token = 200: must be in \[1, 128\]",
    ),
    ({"hidden_act": "tanh"}, "hidden_act = 'tanh'"),
    ({"hidden_size": None}, "hidden_size is missing"),
    (
      {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
      "rope_type = 'dynamic' is not supported",
    ),
    ({"rope_scaling": {"rope_type": "linear"}}, "needs factor"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
  ],
)
def test_unsupported_config_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    models.model_config_from_hf({**published("llama_2"), **change})


PHI_HF = {
  "model_type": "phi3",
  **{k: v for k, v in SIZES.items() if k != "head_dim"},
  **longrope(16, 2),
}
GPT2_HF = {"model_type": "gpt2", "vocab_size": 53, "n_embd": 24} | {
  "n_layer": 2,
  "n_head": 6,
}


@pytest.mark.parametrize(
  ("hf", "message"),
  [
    (
      {**PHI_HF, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
      "rope_type = 'linear' is not supported; use one of default, longrope",
    ),
    (
      {
        **PHI_HF,
        "rope_parameters": {**PHI_HF["rope_parameters"], "factor": 9.0},
      },
      r"factor = 9\.0 is not supported for phi3: must be .* = 4\.0",
    ),
    ({**PHI_HF, **longrope(16, 3)}, "short_factor has 3 numbers: must have"),
    (
      {**published("llama_2"), **longrope(16, 3)},
      "rope_type = 'longrope' is not supported; use one of default, linear",
    ),
    (
      {**GPT2_HF, "scale_attn_by_inverse_layer_idx": True},
      "scale_attn_by_inverse_layer_idx = True is not supported: must be False",
    ),
    (
      {**GPT2_HF, "activation_function": "tanh"},
      "activation_function = 'tanh' is not supported",
    ),
    ({**GPT2_HF, "n_embd": None}, "n_embd is missing"),
  ],
)
def test_unsupported_variant_of_a_family_is_named(hf, message):
  with pytest.raises(ValueError, match=message):
    models.model_config_from_hf(hf)


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_older_names_of_longrope_read_alike(kind):
  new = models.model_config_from_hf(PHI_HF)
  factors = dict(PHI_HF["rope_parameters"])
  theta = factors.pop("rope_theta")
  del factors["rope_type"]
  old = {**PHI_HF, "rope_scaling": {"type": kind, **factors}}
  del old["rope_parameters"]
  assert models.model_config_from_hf({**old, "rope_theta": theta}) == new
  assert (new.rope.factor, new.max_position_embeddings) == (4.0, 16)
  old["rope_scaling"]["factor"] = 4.0
  assert models.model_config_from_hf({**old, "rope_theta": theta}) == new
  again = models.model_config_to_hf(new)
  assert again["max_position_embeddings"] == 64


def test_published_layout_of_gpt2_loads(tmp_path):
  params = noisy_params(GPT2)
  models.save(tmp_path / "m", GPT2, params)
  (tmp_path / "m" / manifest.NAME).unlink()
  path = tmp_path / "m" / "model.safetensors"
  # Without the prefix, and with the causal masks.
  tensors = {
    name.removeprefix("transformer."): value
    for name, value in safetensors.numpy.load_file(path).items()
  }
  tensors["h.0.attn.bias"] = np.ones((1, 1, 32, 32), np.float32)
  safetensors.numpy.save_file(tensors, path)
  again = models.load_params(tmp_path / "m", GPT2)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_fused_tensors_are_read_slice_by_slice(tmp_path, monkeypatch):
  params = noisy_params(PHI)
  models.save(tmp_path / "m", PHI, params)

  def halves(shape, sharding, part):
    del sharding
    middle = shape[-1] // 2
    rest = (slice(None),) * (len(shape) - 1)
    return np.concatenate(
      [
        part((*rest, slice(None, middle))),
        part((*rest, slice(middle, None))),
      ],
      axis=-1,
    )

  monkeypatch.setattr(jax, "make_array_from_callback", halves)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda x: device, params)
  again = models.load_params(tmp_path / "m", PHI, shardings=shardings)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_fused_tensor_of_another_width_is_named(tmp_path):
  models.save(tmp_path / "m", PHI, noisy_params(PHI))
  other = dataclasses.replace(PHI, num_kv_heads=3)
  message = r"qkv_proj\.weight has shape \(160, 24\), .* needs \(192, 24\)"
  with pytest.raises(ValueError, match=message):
    models.load_params(tmp_path / "m", other)


def test_options_that_a_family_cannot_express_are_named():
  config = dataclasses.replace(LLAMA, qk_norm=True, final_soft_cap=3.0)
  with pytest.raises(ValueError, match=r"qk_norm=True, final_soft_cap=3\.0"):
    models.model_config_to_hf(config)


def published_experts(config, params):
  """Each expert of layer 1, as tensors of published files, from E arrays."""
  mlp = params["layers"]["1"]["mlp"]
  prefix, names = {
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2")),
    "qwen3_moe": ("mlp", ("gate_proj", "up_proj", "down_proj")),
  }[config.model_type]
  found = {f"model.layers.1.{prefix}.gate.weight": mlp["router"]["kernel"].T}
  for ours, name in zip(
    ("expert_gate", "expert_up", "expert_down"), names, strict=True
  ):
    for e, kernel in enumerate(mlp[ours]["kernel"]):
      found[f"model.layers.1.{prefix}.experts.{e}.{name}.weight"] = kernel.T
  return found


@pytest.mark.parametrize(
  "config", [MIXTRAL, QWEN3_MOE], ids=lambda config: config.model_type
)
def test_each_expert_is_exported_by_its_published_name(config, tmp_path):
  params = noisy_params(config)
  models.save(tmp_path / "m", config, params)
  tensors = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
  wanted = published_experts(config, params)
  for name, value in wanted.items():
    np.testing.assert_array_equal(tensors[name], value, err_msg=name)
  assert {
    name
    for name in tensors
    if name.startswith("model.layers.1.") and "experts" in name
  } <= wanted.keys()


@pytest.mark.parametrize(
  "config", [MIXTRAL, QWEN3_MOE], ids=lambda config: config.model_type
)
def test_experts_that_share_a_tensor_are_read(config, tmp_path):
  params = noisy_params(config)
  models.save(tmp_path / "m", config, params)
  (tmp_path / "m" / manifest.NAME).unlink()
  path = tmp_path / "m" / "model.safetensors"
  # As transformers 5 writes them without save_original_format.
  tensors = {
    name: value
    for name, value in safetensors.numpy.load_file(path).items()
    if "experts" not in name and "moe.gate" not in name
  }
  for i, layer in params["layers"].items():
    if "router" in layer["mlp"]:
      kernels = {k: np.asarray(v["kernel"]) for k, v in layer["mlp"].items()}
      gate_up = np.concatenate(
        [kernels["expert_gate"], kernels["expert_up"]], axis=-1
      )
      prefix = f"model.layers.{i}.mlp"
      for name, value in (
        ("gate.weight", kernels["router"].T),
        ("experts.gate_up_proj", gate_up.swapaxes(1, 2)),
        ("experts.down_proj", kernels["expert_down"].swapaxes(1, 2)),
      ):
        tensors[f"{prefix}.{name}"] = np.ascontiguousarray(value)
  safetensors.numpy.save_file(tensors, path)
  again = models.load_params(tmp_path / "m", config)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_slices_of_experts_are_read_alone(tmp_path, monkeypatch):
  params = noisy_params(MIXTRAL)
  models.save(tmp_path / "m", MIXTRAL, params)

  def last_two_thirds(shape, sharding, part):
    del sharding
    start = [size // 3 for size in shape]
    return part(tuple(slice(s, None) for s in start))

  monkeypatch.setattr(jax, "make_array_from_callback", last_two_thirds)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda x: device, params)
  again = models.load_params(tmp_path / "m", MIXTRAL, shardings=shardings)
  for name in ("expert_gate", "expert_down"):
    whole, found = (
      tree["layers"]["1"]["mlp"][name]["kernel"] for tree in (params, again)
    )
    at = tuple(slice(size // 3, None) for size in whole.shape)
    np.testing.assert_array_equal(found, whole[at])


def test_missing_expert_is_named(tmp_path):
  models.save(tmp_path / "m", MIXTRAL, noisy_params(MIXTRAL))
  more = dataclasses.replace(MIXTRAL, num_experts=4)
  name = r"model\.layers\.0\.block_sparse_moe\.experts\.3\.w1\.weight"
  with pytest.raises(ValueError, match=f"missing tensors: {name}"):
    models.load_params(tmp_path / "m", more)


def test_missing_pieces_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="model folder"):
    models.load_config(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match=r"/config\.json: no such file"):
    models.load_config(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"\.safetensors: no such file"):
    models.load_params(tmp_path, LLAMA)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="not valid JSON"):
    models.load_config(tmp_path)
  (tmp_path / "config.json").write_text('{"model_type": "llam`"}')
  with pytest.raises(
    ValueError, match=r"config\.json: model_type = 'llam`' is"
  ):
    models.load_config(tmp_path)
  (tmp_path / "model.safetensors").write_bytes(b"broken")
  with pytest.raises(ValueError, match="not a safetensors file"):
    models.load_params(tmp_path, LLAMA)


@pytest.fixture
def shards(tmp_path):
  """A folder of two shards, whose weights are all zero."""
  params = jax.tree.map(jnp.zeros_like, noisy_params(LLAMA))
  models.save(tmp_path / "m", LLAMA, params, max_shard_bytes=30_000)
  assert (tmp_path / "m" / INDEX).exists()
  (tmp_path / "m" / manifest.NAME).unlink()  # As a folder of the hub.
  return tmp_path / "m"


def change_index(folder, **changes):
  index = json.loads((folder / INDEX).read_text())
  (folder / INDEX).write_text(json.dumps(index | changes))


def test_single_file_comes_before_shards(shards, tmp_path):
  params = noisy_params(LLAMA)
  models.save(tmp_path / "single", LLAMA, params)
  shutil.copy(tmp_path / "single" / "model.safetensors", shards)
  again = models.load_params(shards, LLAMA)
  jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("how", ["above", "absolute", "pickle", "number"])
def test_index_names_files_of_its_folder_alone(shards, how):
  first = sorted(shards.glob("*.safetensors"))[0]
  outside = shards.parent / first.name
  first.rename(outside)
  (shards / "pytorch_model.bin").write_bytes(b"never read")
  name = {
    "above": f"../{first.name}",
    "absolute": str(outside),
    "pickle": "pytorch_model.bin",
    "number": 5,
  }[how]
  change_index(shards, weight_map={"model.norm.weight": name})
  with pytest.raises(ValueError, match=re.escape(f"weight_map has {name!r}:")):
    models.load_params(shards, LLAMA)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_broken_index_is_named(shards, text):
  (shards / INDEX).write_text(text)
  with pytest.raises(ValueError, match=f"{INDEX}: must be JSON") as caught:
    models.load_params(shards, LLAMA)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 2**31, 2**63, 2**64 - 1])
def test_header_of_an_impossible_length_is_named(tmp_path, size):
  models.save(tmp_path / "m", LLAMA, noisy_params(LLAMA))
  (tmp_path / "m" / manifest.NAME).unlink()
  path = tmp_path / "m" / "model.safetensors"
  path.write_bytes(size.to_bytes(8, "little") + path.read_bytes()[8:])
  with pytest.raises(ValueError, match=f"^{path} is not a safeten") as caught:
    models.load_params(tmp_path / "m", LLAMA)
  assert "\n" not in str(caught.value)


def test_wrong_tensors_are_named(tmp_path):
  models.save(tmp_path / "m", LLAMA, noisy_params(LLAMA))
  (tmp_path / "m" / manifest.NAME).unlink()
  path = tmp_path / "m" / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)

  def rewritten(**changes):
    new = {**tensors, **changes}
    new = {name: value for name, value in new.items() if value is not None}
    safetensors.numpy.save_file(new, path)
    return models.load_params(tmp_path / "m", LLAMA)

  extra = np.zeros((2, 3), np.float32)
  with pytest.raises(ValueError, match=r"missing tensors: model\.norm\.weight"):
    rewritten(**{"model.norm.weight": None})
  with pytest.raises(ValueError, match=r"unknown tensors: model\.extra"):
    rewritten(**{"model.extra": extra})
  with pytest.raises(
    ValueError, match=r"model\.norm\.weight has shape \(2, 3\)"
  ):
    rewritten(**{"model.norm.weight": extra})
  rewritten(**{"model.layers.0.self_attn.rotary_emb.inv_freq": extra})
  tied = dataclasses.replace(LLAMA, tie_embeddings=True)
  assert "lm_head" not in models.load_params(tmp_path / "m", tied)


def test_weights_of_another_shape_are_not_exported(tmp_path):
  smaller = dataclasses.replace(LLAMA, vocab_size=60)
  with pytest.raises(
    ValueError, match=r"params embedding has shape \(61, 24\)"
  ):
    models.save(tmp_path / "m", smaller, noisy_params(LLAMA))
  with pytest.raises(ValueError, match="dtype = 'float64': must be one of"):
    models.save(tmp_path / "m", LLAMA, noisy_params(LLAMA), dtype="float64")
