"""A large vocabulary is padded inside; nothing outside sees it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.losses import divergence
from skd_jax.models import config as config_lib
from skd_jax.models import loading, quantization
from tests.losses import test_divergence
from tests.toy_models import GEMMA, LLAMA, noisy_params

TOKENS = jnp.asarray([[3, 1, 4, 1, 5]])
V = LLAMA.vocab_size


@pytest.fixture
def padded(monkeypatch):
  """Vocabularies are padded from 1 token up."""
  monkeypatch.setattr(config_lib, "_LARGE_VOCAB", 1)


def logits_of(config, params):
  model = models.create(config)
  hidden, _ = model.apply(params, TOKENS, jnp.arange(5)[None], None)
  return model.head(model.head_params(params), hidden)


@pytest.mark.parametrize(
  ("vocab_size", "rows"),
  [
    (61, 61),
    (16_383, 16_383),
    (16_385, 17_408),
    (32_000, 32_000),
    (50_257, 51_200),  # GPT-2
    (128_256, 128_256),  # Llama 3
    (151_646, 152_576),  # Qwen2
    (256_204, 257_024),  # NLLB-200
  ],
)
def test_large_vocabularies_are_padded_where_eight_does_not_divide_them(
  vocab_size, rows
):
  config = dataclasses.replace(LLAMA, vocab_size=vocab_size)
  assert config.vocab_rows == rows


@pytest.mark.parametrize("config", [LLAMA, GEMMA], ids=["own head", "tied"])
def test_tokens_have_the_same_logits_and_the_rest_no_probability(
  config, monkeypatch
):
  want = logits_of(config, noisy_params(config))
  monkeypatch.setattr(config_lib, "_LARGE_VOCAB", 1)
  params = noisy_params(config)
  # Whatever the rows hold, as those that were drawn do.
  params = jax.tree.map(
    lambda x: x.at[V:].set(7.0) if x.shape[0] == 1024 else x, params
  )
  got = logits_of(config, params)
  assert got.shape[-1] == 1024
  np.testing.assert_allclose(got[..., :V], want, atol=1e-6)
  assert float(jnp.max(jax.nn.softmax(got)[..., V:])) == 0


@pytest.mark.parametrize("name", test_divergence.NAMES)
def test_divergence_and_its_gradient_do_not_see_the_padding(name, padded):
  measure = divergence.get_divergence(
    name, beta=0.3, alpha=0.1, k=7, vocab_size=V
  )
  whole = [logits_of(LLAMA, noisy_params(LLAMA, seed)) for seed in range(2)]
  cut = [x[..., :V] for x in whole]
  (got, of_whole), (want, of_cut) = (
    jax.vjp(functools.partial(measure, teacher), student)
    for teacher, student in (whole, cut)
  )
  np.testing.assert_allclose(got, want, rtol=1e-5)
  (got,), (want,) = (of(jnp.ones_like(want)) for of in (of_whole, of_cut))
  np.testing.assert_allclose(got[..., :V], want, atol=1e-6)
  np.testing.assert_array_equal(got[..., V:], jnp.zeros_like(got[..., V:]))


@pytest.mark.parametrize("compact", ["", "int8"])
def test_files_have_the_tokens_alone(compact, tmp_path, monkeypatch):
  models.save(tmp_path / "a", LLAMA, noisy_params(LLAMA))
  want = models.load_params(tmp_path / "a", LLAMA, quantization=compact)
  monkeypatch.setattr(config_lib, "_LARGE_VOCAB", 1)
  read = models.load_model(
    tmp_path / "a", dtype="float32", quantization=compact
  )
  embedding, short = read.params["embedding"], want["embedding"]
  assert embedding.shape[0] == 1024
  rows = [quantization.dequantize(x)[:V] for x in (embedding, short)]
  np.testing.assert_array_equal(*rows)
  if not compact:
    models.save_model(tmp_path / "b", read)
    a, b = ((tmp_path / x / "model.safetensors").read_bytes() for x in "ab")
    assert a == b


def test_rows_beyond_a_cut_are_not_read(tmp_path, padded):
  models.save(tmp_path / "m", LLAMA, noisy_params(LLAMA))
  read = models.load_model(tmp_path / "m", vocab_size=50, dtype="float32")
  assert isinstance(read, loading.LoadedModel)
  of_pads = read.params["embedding"][50:]
  np.testing.assert_array_equal(of_pads, jnp.zeros_like(of_pads))
