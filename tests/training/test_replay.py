"""A step taken again says what is not finite, and where first."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.parallel import sharding
from skd_jax.training import failed_step, generation, replay, train_step
from tests.toy_models import noisy_params
from tests.training import test_train_step as toy

CONFIG = dataclasses.replace(toy.CONFIG, num_layers=1)
MODEL = models.create(CONFIG)
HIDDEN = jax.random.normal(jax.random.key(2), (4, 4, CONFIG.hidden_size))


def params():
  return noisy_params(CONFIG)


@pytest.fixture(scope="module")
def train():
  model = models.LoadedModel(CONFIG, MODEL, params())
  return train_step.make_train_fns(
    model,
    model,
    token_loss=toy.KL,
    optimizer=toy.optimizer(),
    chunk_size=4,
    num_microbatches=1,
    mesh=sharding.make_mesh(
      data=1, fsdp=1, tensor=1, devices=jax.devices()[:1]
    ),
  )


def take(train, params, hidden=HIDDEN):
  rollout = generation.reference_rollout(toy.BATCH)
  rollout = dataclasses.replace(rollout, teacher_hidden=hidden)
  failed = failed_step.FailedStep(5, params, toy.BATCH, rollout)
  head = MODEL.head_params(params)
  found = replay.take(failed, MODEL, head, train)
  return found, replay.describe(failed, found)


@pytest.mark.slow
def test_examples_of_a_finite_step_add_up_to_it(train):
  found, lines = take(train, params())
  assert found.first == ""
  lengths = np.asarray(toy.BATCH.reference_length)
  np.testing.assert_allclose(
    np.dot(found.losses, lengths) / lengths.sum(),
    found.metrics["loss"],
    rtol=1e-5,
  )
  assert set(found.norms) == set(params())
  np.testing.assert_allclose(
    np.linalg.norm(list(found.norms.values())),
    found.metrics["grad_norm"],
    rtol=1e-5,
  )
  assert "All is finite" in lines


def test_example_that_fails_is_told_from_the_others(train):
  found, lines = take(train, params(), HIDDEN.at[2, 1, 0].set(jnp.nan))
  assert list(np.isfinite(found.losses)) == [True, True, False, True]
  assert found.first == "teacher_hidden"
  assert np.isnan(found.metrics["loss"])
  assert lines.startswith("step 5: loss nan, grad_norm nan\n")
  assert "  example 2, 4 tokens: loss nan\n" in lines
  assert lines.endswith("The first that is not finite: teacher_hidden")


def test_weight_that_is_not_finite_is_named(train):
  bad = params()
  up = bad["layers"]["0"]["mlp"]["up"]
  up["kernel"] = up["kernel"].at[0, 0].set(jnp.inf)
  assert take(train, bad)[0].first == "params.layers.0.mlp.up.kernel"


def test_weights_that_overflow_show_in_the_hidden_states(train):
  large = params()
  large["final_norm"]["scale"] = jnp.full(CONFIG.hidden_size, 3e38, jnp.float32)
  assert take(train, large)[0].first == "hidden"


@pytest.mark.parametrize(
  ("bad", "first"),
  [
    ((), ""),
    (("embedding", "layers.2.a", "layers.10.a"), "gradient.layers.10.a"),
    (("embedding", "layers.2.a", "final_norm"), "gradient.final_norm"),
    (("embedding",), "gradient.embedding"),
  ],
)
def test_gradient_is_looked_through_from_the_head_back(bad, first):
  def value(name):
    return jnp.float32(jnp.nan if name in bad else 1.0)

  gradient = {
    "embedding": value("embedding"),
    "final_norm": value("final_norm"),
    "layers": {n: {"a": value(f"layers.{n}.a")} for n in ("2", "10")},
  }
  loss = jnp.float32(1.0)
  found = replay.first_not_finite({"loss": loss, "gradient": gradient})
  assert found == first
  nan = {"loss": jnp.float32(jnp.nan), "gradient": gradient}
  assert replay.first_not_finite(nan) == "loss"
