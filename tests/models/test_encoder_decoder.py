"""Models with an encoder: against transformers where torch is here."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.models import lora
from tests.models.test_huggingface import torch_modules
from tests.toy_models import M2M100, T5, noisy_params

# model_type, and the keys of its config.json.
FAMILIES = {
  "nllb": (
    "m2m_100",
    {
      "d_model": 24,
      "encoder_layers": 3,
      "decoder_layers": 2,
      "encoder_ffn_dim": 36,
      "decoder_ffn_dim": 36,
      "encoder_attention_heads": 4,
      "decoder_attention_heads": 4,
      "decoder_start_token_id": 2,
      "pad_token_id": 1,
    },
  ),
  "m2m100_gelu_unscaled": (
    "m2m_100",
    {
      "d_model": 18,  # Half of it is odd.
      "encoder_layers": 1,
      "decoder_layers": 2,
      "encoder_ffn_dim": 36,
      "decoder_ffn_dim": 36,
      "encoder_attention_heads": 3,
      "decoder_attention_heads": 3,
      "activation_function": "gelu",
      "scale_embedding": False,
      "decoder_start_token_id": 2,
      "pad_token_id": 1,
    },
  ),
}
T5_SIZES = {
  "d_model": 24,
  "d_kv": 10,
  "d_ff": 36,
  "num_layers": 2,
  "num_heads": 3,
  "relative_attention_num_buckets": 8,
  "relative_attention_max_distance": 7,
  "decoder_start_token_id": 0,
}
FAMILIES |= {
  "t5": ("t5", T5_SIZES),
  "t5_v1_1": (
    "t5",
    {
      **T5_SIZES,
      "num_decoder_layers": 3,
      "feed_forward_proj": "gated-gelu",
      "tie_word_embeddings": False,
    },
  ),
  "mt5": (
    "mt5",
    {
      **T5_SIZES,
      "feed_forward_proj": "gated-gelu",
      "tie_word_embeddings": False,
    },
  ),
}
VOCABULARY = 53
LENGTHS = (9, 4, 6)  # Of the prompts, with what the decoder starts from.
RESPONSE = 7


def reference_model(family):
  """A small model of transformers in which no weight is trivially 0 or 1."""
  torch, transformers = torch_modules()
  model_type, sizes = FAMILIES[family]
  config = transformers.AutoConfig.for_model(
    model_type,
    vocab_size=VOCABULARY,
    attn_implementation="eager",
    eos_token_id=2,
    **sizes,
  )
  torch.manual_seed(0)
  model = transformers.AutoModelForSeq2SeqLM.from_config(config).float().eval()
  if not sizes.get("tie_word_embeddings", True):
    # transformers 5 unties a head where it finds one in the files.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
  with torch.no_grad():
    for name, weight in model.named_parameters():
      noise = torch.randn_like(weight)
      if "norm" in name and name.endswith("weight"):
        weight.add_(0.3 * noise)
      else:
        weight.copy_(0.25 * noise)
  return model


def rows(config, seed=0):
  """Right-padded prompts of LENGTHS, these, and responses of RESPONSE."""
  rng = np.random.default_rng(seed)
  shape = (len(LENGTHS), max(LENGTHS) + 2)
  # Ids 0 to 2 mean something to transformers; the padding is no id of theirs.
  prompt = rng.integers(3, VOCABULARY, shape)
  response = rng.integers(3, VOCABULARY, (len(LENGTHS), RESPONSE))
  return tuple(jnp.asarray(x, jnp.int32) for x in (prompt, LENGTHS, response))


def reference_logits(reference, size, prompt, lengths, response):
  """What predicts each token of the responses, row by row."""
  import torch

  out = []
  for ids, length, tokens in zip(prompt, lengths, response, strict=True):
    encoded, first = np.split(np.asarray(ids[:length]), [length - size])
    read = np.concatenate([first, np.asarray(tokens)[:-1]])
    with torch.no_grad():
      logits = reference(
        input_ids=torch.tensor(encoded[None]).long(),
        decoder_input_ids=torch.tensor(read[None]).long(),
      ).logits
    out.append(logits[0, size - 1 :].numpy())
  return np.stack(out)


def plain_logits(model, params, prompt, lengths, response):
  hidden = jax.jit(model.response_hidden)(params, prompt, lengths, response)
  return model.head(model.head_params(params), hidden)


def cached_logits(model, params, prompt, lengths, response, steps):
  """Feeds `steps` tokens at a time after the prefill."""
  size = prompt.shape[1] + response.shape[1]
  cache = jax.tree.map(
    lambda x: jnp.full_like(x, 7),  # What it holds before is stale.
    model.init_cache(len(prompt), size),
  )
  cache = jax.jit(model.prefill)(params, prompt, lengths, cache)
  last = jnp.take_along_axis(prompt, lengths[:, None] - 1, axis=1)
  read, out, done = jnp.concatenate([last, response], axis=1), [], 0
  for n in steps:
    slots = lengths[:, None] - 1 + done + jnp.arange(n)
    hidden, cache = jax.jit(model.apply)(
      params, read[:, done : done + n], slots, cache
    )
    out.append(model.head(model.head_params(params), hidden))
    done += n
  return np.concatenate(out, axis=1)


@pytest.mark.parametrize(
  "family",
  [
    family
    if family in ("nllb", "t5_v1_1")
    else pytest.param(family, marks=pytest.mark.slow)
    for family in FAMILIES
  ],
)
def test_logits_match_transformers_both_ways(family, tmp_path):
  reference = reference_model(family)
  reference.save_pretrained(tmp_path / "in")
  config = models.load_config(tmp_path / "in")
  model = models.create(config)
  params = models.load_params(tmp_path / "in", config)
  inputs = rows(config)
  want = reference_logits(reference, config.decoder_prompt_size, *inputs)
  assert np.std(want) > 0.1
  plain = plain_logits(model, params, *inputs)
  np.testing.assert_allclose(plain, want, atol=1e-4)
  cached = cached_logits(model, params, *inputs, [1, 4, 2])
  np.testing.assert_allclose(cached, want, atol=1e-4)

  tokens = {"eos_token_id": 2, "pad_token_id": reference.config.pad_token_id}
  models.save(tmp_path / "out", config, params, **tokens)
  assert models.load_config(tmp_path / "out") == config
  import transformers

  again = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    tmp_path / "out", dtype="float32", attn_implementation="eager"
  )
  assert type(again) is type(reference)
  start = reference.config.decoder_start_token_id
  assert again.generation_config.decoder_start_token_id == start
  got = reference_logits(again, config.decoder_prompt_size, *inputs)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_padding_of_a_prompt_leaves_no_trace():
  model, params = models.create(M2M100), noisy_params(M2M100)
  prompt, lengths, response = rows(M2M100)
  past = np.arange(prompt.shape[1]) >= np.asarray(lengths)[:, None]
  other = jnp.where(past, 5, prompt)
  assert not np.array_equal(prompt, other)
  want = plain_logits(model, params, prompt, lengths, response)
  got = plain_logits(model, params, other, lengths, response)
  np.testing.assert_array_equal(got, want)


def test_pruned_model_has_the_whole_encoder(tmp_path):
  whole = models.LoadedModel(
    M2M100, models.create(M2M100), noisy_params(M2M100)
  )
  pruned = models.prune_layers(whole, (1,))
  assert pruned.config.num_layers == 1
  assert pruned.config.num_encoder_layers == M2M100.num_encoder_layers
  assert pruned.params["encoder"] is whole.params["encoder"]
  assert pruned.params["layers"]["0"] is whole.params["layers"]["1"]
  inputs = rows(M2M100)
  shape = plain_logits(pruned.model, pruned.params, *inputs).shape
  assert shape == (len(LENGTHS), RESPONSE, M2M100.vocab_size)
  models.save(tmp_path / "m", pruned.config, pruned.params)
  assert models.load_config(tmp_path / "m") == pruned.config


def test_adapters_are_in_every_layer_and_their_files_name_the_task(tmp_path):
  params = noisy_params(M2M100)
  adapted = models.add_adapters(
    M2M100, params, rank=2, alpha=4.0, targets=("out_proj", "fc1"), seed=0
  )
  found = [
    path
    for path, leaf in jax.tree.leaves_with_path(adapted, lora.is_adapted)
    if lora.is_adapted(leaf)
  ]
  # An attention and an MLP in each layer of the encoder; one more attention in
  # those of the decoder.
  assert len(found) == 3 * 2 + 2 * 3
  inputs, model = rows(M2M100), models.create(M2M100)
  np.testing.assert_array_equal(
    plain_logits(model, adapted, *inputs), plain_logits(model, params, *inputs)
  )
  models.save_adapters(tmp_path / "a", M2M100, adapted, base="org/base")
  settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
  assert settings["task_type"] == "SEQ_2_SEQ_LM"
  again = models.load_adapters(tmp_path / "a", M2M100, adapted)
  jax.tree.map(np.testing.assert_array_equal, again, adapted)


def test_target_that_a_model_lacks_is_named_without_its_weights():
  with pytest.raises(ValueError) as caught:
    lora.check_targets(M2M100, models.param_shapes(M2M100), ("o_proj",))
  assert str(caught.value) == (
    "targets has 'o_proj': must be of fc1, fc2, k_proj, out_proj, q_proj, "
    "v_proj"
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"encoder_ffn_dim": 8},
      "encoder_ffn_dim = 8 is not supported: must",
    ),
    ({"encoder_attention_heads": 2}, "encoder_attention_heads = 2 is not"),
    ({"pad_token_id": 0}, "pad_token_id = 0 is not supported: must be 1"),
    ({"activation_function": "x"}, "activation_function = 'x' is not"),
    ({"decoder_layers": None}, "decoder_layers is missing"),
  ],
)
def test_unsupported_option_is_named(changes, message):
  model_type, sizes = FAMILIES["nllb"]
  hf = {"model_type": model_type, "vocab_size": VOCABULARY, **sizes, **changes}
  with pytest.raises(ValueError, match=message):
    models.model_config_from_hf(hf)


@pytest.mark.slow
def test_gradient_is_the_same_where_layers_are_computed_again():
  params, (prompt, lengths, response) = noisy_params(T5), rows(T5)

  def gradient(remat):
    model = models.create(T5, remat=remat)

    def loss(params):
      hidden = model.response_hidden(params, prompt, lengths, response)
      return jnp.sum(jnp.sin(hidden))

    return jax.jit(jax.grad(loss))(params)

  once, again = gradient(False), gradient(True)
  assert all(np.any(np.asarray(x)) for x in jax.tree.leaves(once))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    again,
    once,
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"feed_forward_proj": "gated-x"}, "feed_forward_proj = 'x' is not"),
    ({"d_kv": None}, "d_kv is missing"),
  ],
)
def test_unsupported_option_of_t5_is_named(changes, message):
  hf = {"model_type": "t5", "vocab_size": VOCABULARY, **T5_SIZES, **changes}
  with pytest.raises(ValueError, match=message):
    models.model_config_from_hf(hf)
