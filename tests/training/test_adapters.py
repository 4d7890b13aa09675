"""A student that is trained by adapters: what is trained, kept and made."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.losses import divergence, token_losses
from skd_jax.models import lora
from skd_jax.parallel import sharding
from skd_jax.training import checkpoint, generation, train_step
from tests.conftest import make_batch
from tests.toy_models import LLAMA, noisy_params

CONFIG = dataclasses.replace(LLAMA, num_layers=1)
MODEL = models.create(CONFIG)
RANK = 3
BATCH = make_batch(
  [[3], [1, 2, 5], [4, 4], [2, 6]],
  references=[[7, 8, 2], [9, 2], [5, 6, 7, 2], [2]],
)
KL = token_losses.distillation_token_loss(divergence.forward_kl, "uniform")


def load(rank=RANK):
  params = noisy_params(CONFIG)
  if rank:
    params = models.add_adapters(
      CONFIG, params, rank=rank, alpha=6.0, targets=lora.TARGETS, seed=0
    )
  return models.LoadedModel(CONFIG, MODEL, params)


TEACHER = models.LoadedModel(CONFIG, MODEL, noisy_params(CONFIG, seed=1))
HEAD = MODEL.head_params(TEACHER.params)


def make_train_fns(student, older_dtype=None):
  return train_step.make_train_fns(
    student,
    TEACHER,
    token_loss=KL,
    optimizer=train_step.make_optimizer(
      lambda step: 0.01,
      clip_norm=1.0,
      weight_decay=0.01,
      beta1=0.9,
      beta2=0.98,
    ),
    chunk_size=4,
    num_microbatches=2,
    mesh=sharding.make_mesh(
      data=1, fsdp=1, tensor=1, devices=jax.devices()[:1]
    ),
    older_dtype=older_dtype,
  )


@functools.cache
def rollout():
  plain = generation.reference_rollout(BATCH)
  return generation.with_teacher_hidden(MODEL, TEACHER.params, BATCH, plain)


@functools.cache
def trained_fns():
  return make_train_fns(load())


def sizes(tree):
  return sum(x.size for x in jax.tree.leaves(tree) if x.ndim)


def test_optimizer_holds_moments_of_the_adapters_alone():
  state = trained_fns().init(load().params)
  kernels = [(24, 60), (24, 20), (24, 20), (60, 24)]
  kernels += [(24, 40), (24, 40), (40, 24)]
  adapters = sum(RANK * (rows + columns) for rows, columns in kernels)
  assert sizes(state.params) == adapters
  assert sizes(state.opt_state) == 2 * adapters
  whole = jax.eval_shape(make_train_fns(load(rank=0)).init, load(0).params)
  assert sizes(whole.opt_state) == 2 * sizes(load(rank=0).params)


def test_step_changes_every_adapter_and_no_other_weight():
  student, train = load(), trained_fns()
  state = train.init(student.params)
  for _ in range(2):  # a moves once b is not zero.
    state, metrics = train.step(state, HEAD, BATCH, rollout())
  assert 0 < float(metrics["kl"]) < np.inf
  before, _ = lora.split(student.params)
  jax.tree.map(
    lambda x, y: np.testing.assert_array_less(0, np.abs(x - y).max()),
    before,
    state.params,
  )
  _, frozen = lora.split(train.params(state))
  jax.tree.map(
    np.testing.assert_array_equal, frozen, lora.split(load().params)[1]
  )


def test_older_weights_are_adapters_alone_and_generate_with_the_base():
  student = load()
  train = make_train_fns(student, jnp.float32)
  state = train.init(student.params)
  assert sizes(state.older.params) == sizes(state.params)
  for _ in range(2):
    before = jax.device_get(train.params(state))
    state, _ = train.step(state, HEAD, BATCH, rollout())
    generating, _ = train.generating(state)
    jax.tree.map(np.testing.assert_array_equal, generating, before)


def test_gradient_of_an_adapter_is_that_of_its_kernel_by_the_chain_rule():
  student = load()
  trained, frozen = lora.split(student.params)
  trained = jax.tree.map(lambda x: x + 0.1, trained)
  params = lora.attach(trained, frozen)
  merged = jax.tree.map(lora.merge, params, is_leaf=lora.is_adapted)
  verified = rollout()  # Before anything is traced: it is cached.

  def loss(p):
    return train_step.rollout_loss(
      p,
      HEAD,
      BATCH,
      verified,
      student=MODEL,
      teacher=MODEL,
      token_loss=KL,
      chunk_size=4,
    )[0]

  of_adapters = jax.jit(jax.grad(lambda x: loss(lora.attach(x, frozen))))(
    trained
  )
  of_kernels = jax.jit(jax.grad(loss))(merged)
  for module, name in (("attention", "key"), ("mlp", "down")):
    ours = of_adapters["layers"]["0"][module][name]["kernel"]
    kernel = params["layers"]["0"][module][name]["kernel"]
    whole = of_kernels["layers"]["0"][module][name]["kernel"]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    close(ours["a"], 2.0 * whole @ kernel.b.T)
    close(ours["b"], 2.0 * kernel.a.T @ whole)


def made(jaxpr):
  """The shapes of all that a program computes, inner programs included."""
  shapes = set()
  for equation in jaxpr.eqns:
    shapes |= {x.aval.shape for x in equation.outvars}
    for value in jax.tree.leaves(
      equation.params, is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        shapes |= made(inner)
  return shapes


@pytest.mark.parametrize("rank", [0, RANK])
def test_step_with_adapters_makes_nothing_as_large_as_a_kernel_or_the_head(
  rank,
):
  student = load(rank)
  train = make_train_fns(student)
  state = jax.eval_shape(train.init, student.params)
  program = jax.make_jaxpr(train.step_with)(
    state, train.frozen, HEAD, BATCH, rollout()
  )
  weights = {
    x.shape for x in jax.tree.leaves(noisy_params(CONFIG)) if x.ndim > 1
  }
  assert (24, 40) in weights
  large = weights | {shape[::-1] for shape in weights}
  found = made(program.jaxpr) & large
  # The gradients of a student that is trained as a whole.
  assert found == set() if rank else found >= weights


def test_generation_makes_no_merged_kernel():
  params = load().params
  cache = MODEL.init_cache(2, 8)
  program = jax.make_jaxpr(MODEL.apply)(
    params, jnp.ones((2, 1), jnp.int32), jnp.zeros((2, 1), jnp.int32), cache
  )
  weights = {x.shape for x in jax.tree.leaves(params) if RANK not in x.shape}
  assert (24, 40) in weights
  assert not made(program.jaxpr) & {x for x in weights if len(x) > 1}


def test_restored_adapters_train_on_as_without_the_stop(tmp_path):
  train = trained_fns()

  def step(state):
    return train.step(state, HEAD, BATCH, rollout())[0]

  state = step(train.init(load().params))
  with checkpoint.open_manager(tmp_path / "c") as manager:
    checkpoint.save(manager, state, {})
  undisturbed = step(step(state))
  # A second start reads the base and draws its adapters once more.
  like = train.init(load().params)
  with checkpoint.open_manager(tmp_path / "c") as manager:
    restored, _ = checkpoint.restore(manager, like)
  continued = step(step(restored))
  jax.tree.map(np.testing.assert_array_equal, continued, undisturbed)
  assert int(continued.step) == 3
