"""Experts: what a token becomes, by the slow way and whatever is beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.models import experts
from tests.models.test_decoder import (
  FAST_COMPILE,
  create,
  plain_logits,
  tokens_of,
)
from tests.toy_models import LLAMA, MIXTRAL, QWEN3_MOE, noisy_params

E, K, D, F = 5, 2, 6, 7


def drawn(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


def one_by_one(kernels, tokens):
  """mix_experts with a loop over tokens and their experts, in float64."""
  gate, up, down = (np.asarray(kernel, np.float64) for kernel in kernels)
  x, weights, chosen = (np.asarray(part) for part in tokens)
  mixed = np.zeros(x.shape)
  for at in np.ndindex(x.shape[:2]):
    for weight, e in zip(weights[at], chosen[at], strict=True):
      hidden = np.asarray(jax.nn.silu(x[at] @ gate[e])) * (x[at] @ up[e])
      mixed[at] += weight * (hidden @ down[e])
  return mixed


@pytest.fixture(scope="module")
def kernels():
  shapes = ((E, D, F), (E, D, F), (E, F, D))
  return tuple(drawn(*shape, seed=i) for i, shape in enumerate(shapes))


@jax.jit
def mix(kernels, tokens):
  return experts.mix_experts(kernels, tokens, activation=jax.nn.silu)


@pytest.mark.parametrize("spread", [0.0, 9.0], ids=["one_pair", "all"])
def test_tokens_become_what_their_experts_make_of_them(kernels, spread):
  # With no spread, all tokens crowd at the same two experts.
  logits = spread * drawn(3, 4, E, seed=5) + np.arange(E, dtype=np.float32)
  weights, chosen = experts.route(jnp.asarray(logits), K, normalize=True)
  assert len(np.unique(chosen)) == (K if not spread else E)
  tokens = (drawn(3, 4, D, seed=6), weights, chosen)
  np.testing.assert_allclose(
    mix(kernels, tokens), one_by_one(kernels, tokens), atol=1e-5
  )


def test_router_weights_are_probabilities_of_the_chosen():
  logits = jnp.log(jnp.asarray([[0.1, 0.4, 0.2, 0.3]]))
  weights, chosen = experts.route(logits, 2, normalize=False)
  np.testing.assert_array_equal(chosen, [[1, 3]])
  np.testing.assert_allclose(weights, [[0.4, 0.3]], rtol=1e-5)
  weights, _ = experts.route(logits, 2, normalize=True)
  np.testing.assert_allclose(weights, [[4 / 7, 3 / 7]], rtol=1e-5)


def test_rows_do_not_change_each_other():
  model, params = create(MIXTRAL), noisy_params(MIXTRAL)
  tokens = tokens_of(MIXTRAL, (3, 12))
  others = tokens_of(MIXTRAL, (3, 12), seed=1).at[1].set(tokens[1])
  want = plain_logits(model, params, tokens)[1]
  got = plain_logits(model, params, others)[1]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_loss_alone_teaches_the_router_and_the_experts():
  model, params = create(QWEN3_MOE), noisy_params(QWEN3_MOE)
  tokens = tokens_of(QWEN3_MOE, (2, 12))

  def loss(params):
    positions = jnp.broadcast_to(jnp.arange(12), tokens.shape)
    hidden, _ = model.apply(params, tokens, positions, None)
    logits = model.head(model.head_params(params), hidden)
    return jnp.mean(jax.nn.log_softmax(logits)[..., 3])

  gradient = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)
  mlp = gradient(params)["layers"]["1"]["mlp"]
  for name in ("router", "expert_gate", "expert_up", "expert_down"):
    found = np.abs(mlp[name]["kernel"])
    assert np.isfinite(found).all()
    assert (found.max(axis=(-1, -2)) > 0).all(), name


def test_router_is_float32_where_the_model_is_not():
  model = models.create(MIXTRAL, dtype=jnp.bfloat16)
  tokens = jax.ShapeDtypeStruct((1, 3), jnp.int32)
  with jax.numpy_dtype_promotion("strict"):
    program = jax.make_jaxpr(lambda p, t: model.apply(p, t, t, None))(
      models.param_shapes(MIXTRAL, param_dtype=jnp.bfloat16), tokens
    )
  assert str(program).count(
    f"f32[1,3,{MIXTRAL.num_experts}] = dot_general"
  ) == (MIXTRAL.num_layers)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"experts_per_token": 4}, r"experts_per_token = 4: must be in \[1, 3\]"),
    ({"expert_size": 0}, "expert_size = 0: must be at least 1"),
    ({"mlp_bias": True}, "num_experts = 3: must be 0 without gated_mlp, or"),
  ],
)
def test_impossible_experts_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(MIXTRAL, **change)


def test_models_without_experts_have_none():
  assert not LLAMA.has_experts(0)
  assert [QWEN3_MOE.has_experts(i) for i in range(3)] == [False, True, False]
