"""Phi-3-small, against its formulas one number at a time.

transformers has no such model: its code stands beside the published weights,
and is not run here. The reference is ours, written from the mathematics, and
reads the tensors as they are in published files.
"""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from skd_jax import models
from skd_jax.losses import chunked, divergence, token_losses
from skd_jax.models import attention, block_sparse
from skd_jax.reporting import manifest
from tests.models.test_decoder import (
  FAST_COMPILE,
  cached_logits,
  plain_logits,
  tokens_of,
)
from tests.toy_models import PHI3_SMALL, noisy_params

T = 37  # Ten blocks of 4, the last of one token.
CONFIG = {
  "model_type": "phi3small",
  "architectures": ["Phi3SmallForCausalLM"],
  "vocab_size": 53,
  "hidden_size": 24,
  "num_hidden_layers": 3,
  "num_attention_heads": 6,
  "num_key_value_heads": 2,
  "max_position_embeddings": 64,
  "hidden_act": "gegelu",
  "ff_intermediate_size": 20,
  "gegelu_limit": 1.0,
  "blocksparse_block_size": 4,
  "blocksparse_triton_kernel_block_size": 4,
  "blocksparse_num_local_blocks": 2,
  "blocksparse_vert_stride": 3,
  "blocksparse_homo_head_pattern": False,
  "dense_attention_every_n_layers": 2,
  "layer_norm_epsilon": 1e-5,
  "mup_use_scaling": True,
  "mup_attn_multiplier": 1.5,
  "mup_embedding_multiplier": 3.0,
  "mup_width_multiplier": 2.0,
  "rope_embedding_base": 1000,
  "rope_position_scale": 1.0,
  "rope_scaling": None,
  "dummy_token_indices": [5, 6, 51],
}
LONGROPE = {
  "type": "su",
  "short_factor": [1.1, 1.7],
  "long_factor": [2.0, 9.0],  # Which no test should see.
  "short_mscale": 1.2,
  "long_mscale": 1.9,
  "original_max_position_embeddings": 48,
}
# What differs from CONFIG.
VARIANTS = {
  "8k": {},
  "128k": {"max_position_embeddings": 768, "rope_scaling": LONGROPE},
  # The blocks of two heads are four apart.
  "wide_stride": {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "blocksparse_num_local_blocks": 1,
    "blocksparse_vert_stride": 8,
  },
  "heads_alike": {
    "blocksparse_homo_head_pattern": True,
    "blocksparse_num_local_blocks": 1,
    "dense_attention_every_n_layers": None,
    "num_key_value_heads": 6,
  },
  "unscaled": {
    "mup_use_scaling": False,
    "mup_embedding_multiplier": None,
    "mup_width_multiplier": None,
    "gegelu_limit": None,
    "ff_intermediate_size": None,
    "ff_dim_multiplier": 2,
    "gegelu_pad_to_256": False,
    "dummy_token_indices": [],
    "tie_word_embeddings": False,
    "dense_attention_every_n_layers": 1,
  },
}


def variant(name):
  return {**CONFIG, **VARIANTS[name]}


def mlp_size(hf):
  if hf["ff_intermediate_size"] is not None:
    return hf["ff_intermediate_size"]
  return hf["ff_dim_multiplier"] * (hf["hidden_size"] // 3) * 2


def random_tensors(hf, seed=0):
  """Tensors as in published files; no norm or bias is trivially 0 or 1."""
  rng = np.random.default_rng(seed)
  width, wide = hf["hidden_size"], mlp_size(hf)
  head_dim = width // hf["num_attention_heads"]
  heads = hf["num_attention_heads"] + 2 * hf["num_key_value_heads"]
  found = {}

  def draw(name, *shape, around=0.0):
    noise = around + 0.3 * rng.normal(size=shape)
    found[name] = noise.astype(np.float32)

  def linear(name, rows, columns):
    draw(f"{name}.weight", rows, columns)
    draw(f"{name}.bias", rows)

  def norm(name):
    draw(f"{name}.weight", width, around=1.0)
    draw(f"{name}.bias", width)

  draw("model.embed_tokens.weight", hf["vocab_size"], width)
  if not hf.get("tie_word_embeddings", True):
    draw("lm_head.weight", hf["vocab_size"], width)
  norm("model.final_layernorm")
  for layer in range(hf["num_hidden_layers"]):
    prefix = f"model.layers.{layer}"
    norm(f"{prefix}.input_layernorm")
    norm(f"{prefix}.post_attention_layernorm")
    linear(f"{prefix}.self_attn.query_key_value", heads * head_dim, width)
    linear(f"{prefix}.self_attn.dense", width, width)
    linear(f"{prefix}.mlp.up_proj", 2 * wide, width)
    linear(f"{prefix}.mlp.down_proj", width, wide)
  return found


def sees_block(hf, layer, head, of_query, of_key):
  """Whether a head of a layer sees a block of keys from a block of queries."""
  every = hf["dense_attention_every_n_layers"]
  if every and (layer + 1) % every == 0:
    return True
  if of_query - of_key < hf["blocksparse_num_local_blocks"]:
    return True
  stride, heads = hf["blocksparse_vert_stride"], hf["num_attention_heads"]
  step = max(1, int(stride / heads))
  if hf["blocksparse_homo_head_pattern"]:
    step = 0
  return (of_key + head * step + 1) % stride == 0


def rotated(hf, x, position):
  """One head [H] at one position: pairs (i, i + H/2), one after the other."""
  half = len(x) // 2
  scaling = hf["rope_scaling"]
  out = np.zeros(len(x))
  for i in range(half):
    angle = position / hf["rope_embedding_base"] ** (2 * i / len(x))
    size = 1.0
    if scaling:
      angle /= scaling["short_factor"][i]
      size = scaling["short_mscale"]
    cos, sin = size * math.cos(angle), size * math.sin(angle)
    out[i] = x[i] * cos - x[half + i] * sin
    out[half + i] = x[half + i] * cos + x[i] * sin
  return out


def reference_logits(hf, tensors, tokens):
  """Logits [T, V] of one sequence in float64; -inf for unused tokens."""
  tensors = {k: np.asarray(v, np.float64) for k, v in tensors.items()}
  num_heads, groups = hf["num_attention_heads"], hf["num_key_value_heads"]
  head_dim, shared = hf["hidden_size"] // num_heads, num_heads // groups
  block = hf["blocksparse_block_size"]
  scale = 1 / math.sqrt(head_dim)
  if hf["mup_use_scaling"]:
    scale = hf["mup_attn_multiplier"] / head_dim

  def linear(name, x):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

  def norm(name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + hf["layer_norm_epsilon"])
    return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

  def attend(layer, x):
    name = f"model.layers.{layer}.self_attn"
    fused = linear(f"{name}.query_key_value", x)
    fused = fused.reshape(len(x), groups, shared + 2, head_dim)
    mixed = np.zeros((len(x), num_heads, head_dim))
    for head in range(num_heads):
      group, member = divmod(head, shared)
      query, key, value = (fused[:, group, i] for i in (member, -2, -1))
      query = [rotated(hf, q, i) for i, q in enumerate(query)]
      key = [rotated(hf, k, i) for i, k in enumerate(key)]
      for i in range(len(x)):
        seen = [
          j
          for j in range(i + 1)
          if sees_block(hf, layer, head, i // block, j // block)
        ]
        weights = np.array([math.exp(scale * query[i] @ key[j]) for j in seen])
        mixed[i, head] = weights / weights.sum() @ value[seen]
    return linear(f"{name}.dense", mixed.reshape(len(x), -1))

  def mlp(layer, x):
    both = linear(f"model.layers.{layer}.mlp.up_proj", x)
    limit, hidden = hf["gegelu_limit"], np.zeros((len(x), both.shape[1] // 2))
    for i, j in np.ndindex(hidden.shape):
      gate, up = both[i, 2 * j], both[i, 2 * j + 1]
      if limit is not None:
        gate, up = min(gate, limit), max(-limit, min(up, limit))
      hidden[i, j] = gate / (1 + math.exp(-1.702 * gate)) * (up + 1)
    return linear(f"model.layers.{layer}.mlp.down_proj", hidden)

  x = tensors["model.embed_tokens.weight"][np.asarray(tokens)]
  x = x * (hf["mup_embedding_multiplier"] or 1)
  for layer in range(hf["num_hidden_layers"]):
    prefix = f"model.layers.{layer}"
    x = x + attend(layer, norm(f"{prefix}.input_layernorm", x))
    x = x + mlp(layer, norm(f"{prefix}.post_attention_layernorm", x))
  x = norm("model.final_layernorm", x)
  is_tied = hf.get("tie_word_embeddings", True)
  head = "model.embed_tokens.weight" if is_tied else "lm_head.weight"
  logits = x @ tensors[head].T / (hf["mup_width_multiplier"] or 1)
  logits[:, hf["dummy_token_indices"]] = -np.inf
  return logits


def write_folder(folder, hf, tensors):
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(hf))
  # As published files: the buffers of the rotary embedding are there too.
  buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}
  safetensors.numpy.save_file(
    {**tensors, **buffer}, folder / "model.safetensors"
  )


def load(folder):
  config = models.load_config(folder)
  return config, models.create(config), models.load_params(folder, config)


def assert_near(got, want):
  is_used = np.isfinite(want)
  np.testing.assert_allclose(got[is_used], want[is_used], atol=1e-4)
  assert np.all(got[~is_used] < -1e8)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_the_formula_cached_and_not(name, tmp_path):
  hf = variant(name)
  tensors = random_tensors(hf)
  write_folder(tmp_path / "m", hf, tensors)
  config, model, params = load(tmp_path / "m")
  tokens = tokens_of(config, (2, T))
  want = np.stack([reference_logits(hf, tensors, row) for row in tokens])
  assert np.std(want[np.isfinite(want)]) > 0.1
  assert_near(np.asarray(plain_logits(model, params, tokens)), want)
  got = cached_logits(model, params, tokens, [21, 5], [1, 5, 1, 5])
  for row, expected in zip(got, want, strict=True):
    assert_near(row, expected[: len(row)])
  # The pattern is one that shows, unless every layer is dense.
  dense = {**hf, "dense_attention_every_n_layers": 1}
  others = reference_logits(dense, tensors, tokens[0])
  is_used = np.isfinite(others)
  differs = np.abs(others[is_used] - want[0][is_used]).max()
  assert (differs > 0.05) == (hf["dense_attention_every_n_layers"] != 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_export_has_the_tensors_that_were_read(name, tmp_path):
  hf = variant(name)
  tensors = random_tensors(hf)
  write_folder(tmp_path / "m", hf, tensors)
  config, _, params = load(tmp_path / "m")
  models.save(tmp_path / "out", config, params)
  found = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
  assert found.keys() == tensors.keys()
  for key, value in tensors.items():
    np.testing.assert_array_equal(found[key], value, err_msg=key)
  assert models.load_config(tmp_path / "out") == config
  again = models.load_params(tmp_path / "out", config)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_published_config_reads_as_meant():
  # Sizes alone; what is omitted is what the published configuration omits.
  hf = {"model_type": "phi3small", "vocab_size": 100352, "hidden_size": 4096}
  hf |= {"num_hidden_layers": 32, "num_attention_heads": 32}
  config = models.model_config_from_hf(hf)
  assert (config.head_dim, config.num_kv_heads) == (128, 8)
  assert config.intermediate_size == 14336
  assert config.query_pre_attn_scalar == 128**2
  assert config.tie_embeddings
  assert len(config.unused_tokens) == 91
  assert [config.blocks(i) is None for i in range(4)] == [False, True] * 2
  assert config.blocks(0) == models.BlockSparsity(64, 16, 8)
  again = json.loads(json.dumps(models.model_config_to_hf(config)))
  assert models.model_config_from_hf(again) == config
  # A vocabulary that is cut has fewer of them, and its export as well.
  cut = dataclasses.replace(config, vocab_size=100277)
  assert max(cut.unused_tokens) == 100276
  assert models.model_config_from_hf(models.model_config_to_hf(cut)) == cut


@pytest.mark.parametrize("multiplier", [1.0, 0.7, 1.3, 1 / 3])
@pytest.mark.parametrize("hidden_size", [4096, 96 * 32])
def test_multiplier_of_the_scores_survives_export(multiplier, hidden_size):
  hf = {**CONFIG, "hidden_size": hidden_size, "num_attention_heads": 32}
  config = models.model_config_from_hf(
    {**hf, "mup_attn_multiplier": multiplier}
  )
  assert models.model_config_to_hf(config)["mup_attn_multiplier"] == multiplier


def test_context_ends_where_the_short_factors_do():
  config = models.model_config_from_hf(variant("128k"))
  assert config.max_position_embeddings == 48
  assert config.has_last_position
  again = models.model_config_to_hf(config)
  assert again["max_position_embeddings"] == 768
  assert again["rope_scaling"] == LONGROPE
  # Where they are not given, the short factors leave the scores as they are.
  plain = {k: v for k, v in LONGROPE.items() if "mscale" not in k}
  config = models.model_config_from_hf(
    {**variant("128k"), "rope_scaling": plain}
  )
  assert config.rope.attention_factor == 1.0


def loops(pattern, positions, starts, num_heads, num_slots):
  """The mask, one block at a time."""
  shape = (len(positions), num_heads, positions.shape[1], num_slots)
  mask = np.zeros(shape, bool)
  for b, head, i, slot in np.ndindex(shape):
    first = starts[b, i]
    if not first <= slot <= positions[b, i]:
      continue
    of_query = (positions[b, i] - first) // pattern.block_size
    of_key = (slot - first) // pattern.block_size
    step = max(1, pattern.vertical_stride // num_heads)
    nth = of_key + 1 + (0 if pattern.heads_alike else head * step)
    is_local = of_query - of_key < pattern.local_blocks
    mask[b, head, i, slot] = is_local or nth % pattern.vertical_stride == 0
  return mask


@pytest.mark.parametrize("heads_alike", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_queries_see_their_blocks_by_any_chunk(heads_alike, chunk_size):
  pattern = models.BlockSparsity(3, 2, 4, heads_alike)
  rng = np.random.default_rng(0)
  # Over a cache, and in a row of two sequences, the second from slot 7.
  positions = np.stack([12 + np.arange(14), np.arange(14)]).astype(np.int32)
  starts = np.zeros_like(positions)
  starts[1, 7:] = 7
  query = rng.normal(size=(2, 14, 4, 6)).astype(np.float32)
  key, value = rng.normal(size=(2, 2, 2, 26, 6)).astype(np.float32)
  mask = loops(pattern, positions, starts, 4, 26)
  want = np.zeros((2, 14, 4, 6))
  for b, head, i in np.ndindex(2, 4, 14):
    seen = mask[b, head, i]
    weights = np.exp(key[b, head // 2, seen] @ query[b, i, head])
    want[b, i, head] = weights / weights.sum() @ value[b, head // 2, seen]
  how = {"window": None, "cap": None, "blocks": pattern}
  arrays = map(jnp.asarray, (query, key, value, positions, starts))
  if chunk_size is None:
    got = attention.attend(*arrays, **how)
  else:
    got = attention.attend_in_chunks(*arrays, chunk_size=chunk_size, **how)
  np.testing.assert_allclose(got, want.reshape(2, 14, -1), atol=1e-5)


@pytest.mark.parametrize("num_slots", [5, 6, 7])
def test_short_sequence_has_no_pattern(num_slots):
  pattern = models.BlockSparsity(3, 2, 4)
  slots = np.arange(num_slots)[None]
  mask = loops(pattern, slots, np.zeros_like(slots), 4, num_slots)
  causal = np.tri(num_slots, dtype=bool)
  assert block_sparse.sees_all(pattern, num_slots) == (num_slots <= 6)
  assert (mask == causal).all() == (num_slots <= 6)


def test_packed_sequences_see_the_blocks_that_they_have_alone():
  model, params = models.create(PHI3_SMALL), noisy_params(PHI3_SMALL)
  tokens = tokens_of(PHI3_SMALL, (2, 16))
  first, second = tokens[0, :9], tokens[1, :16]
  row = jnp.concatenate([first, second])[None]
  positions = jnp.concatenate([jnp.arange(9), jnp.arange(16)])[None]
  run = jax.jit(
    lambda *args: model.apply(*args, None, packed=True)[0],
    compiler_options=FAST_COMPILE,
  )
  hidden = run(params, row, positions)
  logits = model.head(model.head_params(params), hidden)[0]
  for got, alone in ((logits[:9], first), (logits[9:], second)):
    want = plain_logits(model, params, alone[None])[0]
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("part", [(0, 2), (1, 2), (1, 3), (2, 3)])
def test_parts_of_fused_tensors_are_read_alone(part, tmp_path, monkeypatch):
  params = noisy_params(PHI3_SMALL)
  models.save(tmp_path / "m", PHI3_SMALL, params)
  number, parts = part

  def bounds(size):
    return slice(size * number // parts, size * (number + 1) // parts)

  def cut(shape, sharding, read):
    del sharding
    return read((*(slice(None),) * (len(shape) - 1), bounds(shape[-1])))

  monkeypatch.setattr(jax, "make_array_from_callback", cut)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda x: device, params)
  found = models.load_params(tmp_path / "m", PHI3_SMALL, shardings=shardings)
  jax.tree.map(
    lambda got, x: np.testing.assert_array_equal(
      got, x[..., bounds(x.shape[-1])]
    ),
    found,
    params,
  )


def test_infinite_activations_stay_infinite():
  config = dataclasses.replace(PHI3_SMALL, num_layers=1)
  params = noisy_params(config)
  up = params["layers"]["0"]["mlp"]["up"]
  up["bias"] = up["bias"].at[3].set(jnp.inf)
  logits = plain_logits(
    models.create(config), params, tokens_of(config, (1, 3))
  )
  assert not np.isfinite(logits).all()


def test_pruned_model_keeps_the_pattern_of_its_layers(tmp_path):
  config = dataclasses.replace(
    PHI3_SMALL, num_layers=4, dense_attention_layers=(1, 3)
  )
  whole = models.LoadedModel(
    config, models.create(config), noisy_params(config)
  )
  pruned = models.prune_layers(whole, (0, 2, 3))
  kept = [pruned.config.blocks(i) is None for i in range(3)]
  assert kept == [False, False, True]
  models.save(tmp_path / "m", pruned.config, pruned.params)
  assert models.load_config(tmp_path / "m") == pruned.config
  odd = models.prune_layers(whole, (0, 1, 2, 3)[1:]).config
  with pytest.raises(ValueError, match=r"dense_attention_layers=\(0, 2\)"):
    models.model_config_to_hf(odd)


def test_output_projections_can_have_adapters(tmp_path):
  params = noisy_params(PHI3_SMALL)
  targets = ("dense", "down_proj")
  adapted = models.add_adapters(
    PHI3_SMALL, params, rank=2, alpha=4.0, targets=targets, seed=0
  )
  model, tokens = models.create(PHI3_SMALL), tokens_of(PHI3_SMALL, (1, 8))
  np.testing.assert_array_equal(
    plain_logits(model, adapted, tokens), plain_logits(model, params, tokens)
  )
  models.save_adapters(tmp_path / "a", PHI3_SMALL, adapted, base="base")
  with pytest.raises(
    ValueError, match="targets has 'q_proj': must be of dense"
  ):
    models.adapted_shapes(
      PHI3_SMALL, params, rank=2, alpha=4.0, targets=("q_proj",)
    )


@pytest.mark.slow
def test_gradient_reaches_every_weight_but_unused_rows():
  config = dataclasses.replace(PHI3_SMALL, tie_embeddings=False)
  model, params = models.create(config), noisy_params(config)
  tokens = tokens_of(config, (2, 12))

  def loss(params):
    at = jnp.broadcast_to(jnp.arange(12), tokens.shape)
    hidden, _ = model.apply(params, tokens, at, None)
    logits = model.head(model.head_params(params), hidden)
    return jnp.mean(jax.nn.log_softmax(logits)[..., 3])

  grads = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(params)
  for path, grad in jax.tree.leaves_with_path(grads):
    assert np.isfinite(grad).all(), path
    assert np.abs(grad).max() > 0, path
  is_used = np.abs(grads["lm_head"]).max(axis=1) > 0
  np.testing.assert_array_equal(np.flatnonzero(~is_used), config.unused_tokens)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd"])
def test_loss_by_blocks_of_the_head_leaves_unused_rows_out(name, monkeypatch):
  model, rng = models.create(PHI3_SMALL), np.random.default_rng(0)
  vocab_size, width = PHI3_SMALL.vocab_size, PHI3_SMALL.hidden_size
  head, hidden, teacher_head, teacher_hidden = (
    jnp.asarray(rng.normal(size=(rows, width)), jnp.float32)
    for rows in (vocab_size, 9) * 2
  )
  inputs = token_losses.TokenInputs(
    tokens=jnp.zeros(9, jnp.int32),
    source=jnp.zeros(9, jnp.int8),
    teacher_hidden=teacher_hidden,
  )
  token_loss = token_losses.distillation_token_loss(
    getattr(divergence, name), "uniform"
  )

  def gradient(head_block):
    # Blocks of 8 rows do not divide the 61 of the head.
    monkeypatch.setattr(chunked, "_HEAD_BLOCK", head_block)

    def loss(head):
      return chunked.chunked_loss(
        *(token_loss, model, model, 4, {"kernel": head}, hidden),
        *({"kernel": teacher_head}, inputs, jnp.ones(9, bool)),
      )[0]

    return jax.grad(loss)(head)

  by_blocks, whole = gradient(8), gradient(1000)
  np.testing.assert_allclose(by_blocks, whole, atol=1e-5)
  has_gradient = np.abs(by_blocks).max(axis=1) > 0
  unused = np.flatnonzero(~has_gradient)
  np.testing.assert_array_equal(unused, PHI3_SMALL.unused_tokens)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"hidden_act": "silu"}, "hidden_act = 'silu' is not supported: must be"),
    ({"rope_position_scale": 2.0}, r"rope_position_scale = 2\.0 is not supp"),
    ({"ff_dim_multiplier": 4}, "ff_intermediate_size = 20, ff_dim_multiplier"),
    ({"ff_intermediate_size": None}, "ff_intermediate_size = None, ff_dim_mul"),
    ({"hidden_size": None}, "hidden_size is missing"),
    ({"blocksparse_block_size": 0}, "block_size = 0: must be at least 1"),
    ({"blocksparse_num_local_blocks": 0}, "local_blocks = 0: must be at least"),
    ({"blocksparse_vert_stride": 0}, "vertical_stride = 0: must be at least 1"),
    (
      {"rope_scaling": {**LONGROPE, "type": "yarn"}},
      "rope_scaling has type = 'yarn': must be longrope or su",
    ),
    (
      {"rope_scaling": {**LONGROPE, "beta_fast": 1}},
      r"rope_scaling has \['beta_fast', .*: must have \['long_factor'",
    ),
    (
      {"rope_scaling": {**LONGROPE, "short_factor": [1.0]}},
      "short_factor has 1 numbers: must have one for each rotated pair, 2",
    ),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
  ],
)
def test_unsupported_config_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    models.model_config_from_hf({**CONFIG, **change})


def test_what_the_file_cannot_say_is_named():
  for change, message in (
    ({"block_sparsity": None}, "block_sparsity=None"),
    ({"activation": "silu"}, "activation='silu'"),
    ({"layer_windows": (4, 4)}, r"layer_windows=\(4, 4\)"),
  ):
    with pytest.raises(ValueError, match=message):
      models.model_config_to_hf(dataclasses.replace(PHI3_SMALL, **change))
  llama = dataclasses.replace(PHI3_SMALL, model_type="llama")
  with pytest.raises(ValueError, match=r"cannot express .* block_sparsity"):
    models.model_config_to_hf(llama)


def test_fused_tensor_of_another_width_is_named(tmp_path):
  models.save(tmp_path / "m", PHI3_SMALL, noisy_params(PHI3_SMALL))
  (tmp_path / "m" / manifest.NAME).unlink()
  other = dataclasses.replace(PHI3_SMALL, num_kv_heads=3)
  message = r"query_key_value\.bias has shape \(40,\), .* needs \(48,\)"
  with pytest.raises(ValueError, match=message):
    models.load_params(tmp_path / "m", other)
