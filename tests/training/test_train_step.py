"""One update: what is trained, and that its parts add up."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax import models
from skd_jax.data import packing
from skd_jax.losses import chunked, divergence, token_losses
from skd_jax.models import forward
from skd_jax.parallel import sharding
from skd_jax.training import generation, train_step
from tests.conftest import make_batch
from tests.data.test_input_pipeline import make_set

V = 19
CONFIG = models.ModelConfig(
  vocab_size=V,
  hidden_size=16,
  intermediate_size=24,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  tie_embeddings=True,
)
MODEL = models.create(CONFIG)
BATCH = make_batch(
  [[3], [1, 2, 5], [4, 4], [2, 6]],
  references=[[7, 8, 2], [9, 2], [5, 6, 7, 2], [2]],
)
KL = token_losses.distillation_token_loss(divergence.forward_kl, "uniform")


def params(seed):
  return models.init_params(CONFIG, jax.random.key(seed))


def optimizer(learning_rate=0.01, weight_decay=0.01):
  return train_step.make_optimizer(
    train_step.make_schedule(
      learning_rate=learning_rate, num_steps=100, warmup_steps=0, decay="linear"
    ),
    clip_norm=1.0,
    weight_decay=weight_decay,
    beta1=0.9,
    beta2=0.98,
  )


def verified(teacher_params, batch=BATCH):
  rollout = generation.reference_rollout(batch)
  return generation.with_teacher_hidden(MODEL, teacher_params, batch, rollout)


def loss_fn(token_loss=KL, teacher=MODEL, chunk_size=4):
  return functools.partial(
    train_step.rollout_loss,
    student=MODEL,
    teacher=teacher,
    token_loss=token_loss,
    chunk_size=chunk_size,
  )


@functools.partial(jax.jit, static_argnames="num_microbatches")
def step(state, teacher_params, num_microbatches=1, batch=BATCH):
  return train_step.train_step(
    state,
    MODEL.head_params(teacher_params),
    batch,
    verified(teacher_params, batch),
    loss_fn=loss_fn(),
    optimizer=optimizer(),
    num_microbatches=num_microbatches,
  )


@pytest.mark.slow
def test_microbatches_give_the_update_of_the_whole_batch():
  # Rows of 3, 2, 4 and 1 tokens: a mean of means would be another update.
  start = train_step.init_train_state(params(0), optimizer())
  whole, metrics = step(start, params(1))
  parts, part_metrics = step(start, params(1), num_microbatches=2)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    whole.params,
    parts.params,
  )
  np.testing.assert_allclose(metrics["loss"], part_metrics["loss"], rtol=1e-5)
  assert part_metrics["tokens"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_a_packed_batch_gives_the_update_of_its_examples(num_microbatches):
  rows = {
    "prompts": (BATCH.prompt, BATCH.prompt_length),
    "responses": (BATCH.reference, BATCH.reference_length),
  }
  data = dataclasses.replace(
    make_set(4),
    **{
      name: [row[:n] for row, n in zip(*of, strict=True)]
      for name, of in rows.items()
    },
  )
  together = packing.make_batch(data, [[2, 0], [1, 3]], 12)
  start = train_step.init_train_state(params(0), optimizer())
  whole, metrics = step(start, params(1))
  packed, packed_metrics = step(start, params(1), num_microbatches, together)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    (whole.params, metrics),
    (packed.params, packed_metrics),
  )


@pytest.mark.slow
def test_loss_is_the_mean_over_all_response_tokens():
  student, teacher = params(0), params(1)
  total, sums = jax.jit(loss_fn())(
    student, MODEL.head_params(teacher), BATCH, verified(teacher)
  )

  @jax.jit
  def divergences(sequence):
    positions = jnp.arange(sequence.shape[1])[None]
    teacher_logits, student_logits = (
      MODEL.head(
        MODEL.head_params(p), MODEL.apply(p, sequence, positions, None)[0]
      )[0]
      for p in (teacher, student)
    )
    return divergence.forward_kl(teacher_logits, student_logits)

  values = []
  for row, length in enumerate(np.asarray(BATCH.reference_length)):
    size = int(BATCH.prompt_length[row])
    # The prompt, then the response at once; causal, so the end is free.
    sequence = [*BATCH.prompt[row, :size], *BATCH.reference[row, :length]]
    value = divergences(jnp.asarray(sequence + [0] * (8 - len(sequence)))[None])
    values.extend(np.asarray(value[size - 1 : size - 1 + length]))
  assert len(values) == int(sums.tokens) == 10
  np.testing.assert_allclose(total, sum(values), rtol=1e-5)
  np.testing.assert_allclose(sums.means()["loss"], np.mean(values), rtol=1e-5)


@pytest.mark.slow
def test_a_student_that_is_the_teacher_stays():
  same = params(0)
  state = train_step.init_train_state(same, optimizer(weight_decay=0.0))
  gradient = jax.grad(
    lambda p: loss_fn()(p, MODEL.head_params(same), BATCH, verified(same))[0]
  )(same)
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-5
  assert float(step(state, same)[1]["loss"]) < 1e-6


def test_gradient_equals_the_plain_loss_with_all_logits():
  student, teacher = params(0), params(1)
  rollout = verified(teacher)
  mask = jnp.arange(4)[None] < BATCH.reference_length[:, None]

  def plain(p):
    hidden = forward.response_hidden(
      MODEL, p, BATCH.prompt, BATCH.prompt_length, rollout.tokens
    )
    values = divergence.forward_kl(
      MODEL.head(MODEL.head_params(teacher), rollout.teacher_hidden),
      MODEL.head(MODEL.head_params(p), hidden),
    )
    return jnp.sum(jnp.where(mask, values, 0.0))

  @jax.jit
  def gradients(p):
    chunked = jax.grad(
      lambda p: loss_fn()(p, MODEL.head_params(teacher), BATCH, rollout)[0]
    )
    return jax.grad(plain)(p), chunked(p)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
    *gradients(student),
  )


def test_distillation_brings_the_student_to_the_teacher():
  teacher = params(1)
  state = train_step.init_train_state(params(0), optimizer())
  first = None
  for _ in range(60):
    state, metrics = step(state, teacher)
    first = first or float(metrics["kl"])
  assert float(metrics["kl"]) < first / 5
  assert int(state.step) == 60


def test_supervised_loss_is_cross_entropy_on_the_references():
  student = params(0)
  rollout = generation.reference_rollout(BATCH)
  total, _ = jax.jit(loss_fn(token_losses.supervised_token_loss, teacher=None))(
    student, None, BATCH, rollout
  )
  hidden = forward.response_hidden(
    MODEL, student, BATCH.prompt, BATCH.prompt_length, rollout.tokens
  )
  logits = MODEL.head(MODEL.head_params(student), hidden)
  mask = jnp.arange(4)[None] < BATCH.reference_length[:, None]
  expected = jnp.sum(
    jnp.where(mask, token_losses.cross_entropy(logits, rollout.tokens), 0.0)
  )
  np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.slow
def test_padding_in_prompts_and_responses_changes_nothing():
  student, teacher = params(0), params(1)

  def value(batch):
    rollout = generation.reference_rollout(batch)
    hidden = forward.response_hidden(
      MODEL, teacher, batch.prompt, batch.prompt_length, rollout.tokens
    )
    return loss_fn()(
      student,
      MODEL.head_params(teacher),
      batch,
      rollout.replace(teacher_hidden=hidden),
    )[0]

  wide = BATCH.replace(
    prompt=jnp.pad(BATCH.prompt, ((0, 0), (0, 3)), constant_values=7),
    reference=jnp.pad(BATCH.reference, ((0, 0), (0, 2)), constant_values=9),
  )
  np.testing.assert_allclose(value(BATCH), value(wide), rtol=1e-5)


@pytest.mark.parametrize(
  ("decay", "expected"),
  [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)],
)
def test_schedule_warms_up_and_decays(decay, expected):
  schedule = train_step.make_schedule(
    learning_rate=1.0, num_steps=110, warmup_steps=10, decay=decay
  )
  assert float(schedule(0)) == pytest.approx(0.1)
  assert float(schedule(10)) == pytest.approx(1.0)
  assert float(schedule(60)) == pytest.approx(expected)
  if decay != "constant":
    assert float(schedule(110)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_masters_and_stays_close():
  student, teacher = params(0), params(1)
  half = models.create(CONFIG, dtype=jnp.bfloat16)
  hidden = forward.response_hidden(
    half, teacher, BATCH.prompt, BATCH.prompt_length, BATCH.reference
  )
  assert hidden.dtype == jnp.bfloat16
  rollout = generation.reference_rollout(BATCH).replace(teacher_hidden=hidden)
  fn = functools.partial(
    train_step.rollout_loss,
    student=half,
    teacher=half,
    token_loss=KL,
    chunk_size=4,
  )
  state, metrics = train_step.train_step(
    train_step.init_train_state(student, optimizer()),
    half.head_params(teacher),
    BATCH,
    rollout,
    loss_fn=fn,
    optimizer=optimizer(),
    num_microbatches=1,
  )
  assert {x.dtype for x in jax.tree.leaves(state.params)} == {
    jnp.dtype("float32")
  }
  whole = step(train_step.init_train_state(student, optimizer()), teacher)[1]
  assert float(metrics["loss"]) == pytest.approx(float(whole["loss"]), rel=0.05)


def loaded(seed):
  return models.LoadedModel(CONFIG, MODEL, params(seed))


@pytest.mark.parametrize("has_teacher", [True, False])
def test_jitted_functions_train_with_and_without_a_teacher(has_teacher):
  student, teacher = loaded(0), loaded(1) if has_teacher else None
  train = train_step.make_train_fns(
    student,
    teacher,
    token_loss=KL if teacher else token_losses.supervised_token_loss,
    optimizer=optimizer(),
    chunk_size=4,
    num_microbatches=1,
    mesh=sharding.make_mesh(data=-1, fsdp=1, tensor=1),
  )
  state = train.init(student.params)
  head = MODEL.head_params(teacher.params) if teacher else None
  rollout = generation.reference_rollout(BATCH)
  if teacher:
    rollout = verified(teacher.params)
  state, metrics = train.step(state, head, BATCH, rollout)
  assert int(state.step) == 1
  assert float(metrics["tokens"]) == 10
  # Without a teacher there is nothing that it is the divergence from.
  assert ("kl" in metrics) == has_teacher
  # The weights that it started from are not donated.
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(student.params))
  if teacher:
    start = train_step.init_train_state(params(0), optimizer())
    expected, expected_metrics = step(start, teacher.params)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=1e-5),
      (state.params, metrics),
      (expected.params, expected_metrics),
    )


@pytest.mark.parametrize("at_fault", ["loss", "gradient"])
def test_step_that_is_not_finite_leaves_weights_and_moments(at_fault):
  def loss_fn(params, teacher_head, batch, rollout):
    del teacher_head, batch, rollout
    size = jnp.sum(params["w"])
    if at_fault == "loss":
      value = size + jnp.inf
    else:  # Finite, but not its gradient.
      value = jnp.sqrt(size - size)
    one = jnp.float32(1.0)
    return value, chunked.LossSums(value, one, one, one, one, one)

  state = train_step.init_train_state({"w": jnp.ones((2, 2))}, optimizer())
  state = dataclasses.replace(
    state, opt_state=jax.tree.map(lambda x: x + 1, state.opt_state)
  )
  after, metrics = jax.jit(
    functools.partial(
      train_step.train_step,
      loss_fn=loss_fn,
      optimizer=optimizer(),
      num_microbatches=1,
    )
  )(state, None, BATCH, generation.reference_rollout(BATCH))
  assert np.isfinite(metrics["loss"]) == (at_fault == "gradient")
  assert np.isfinite(metrics["grad_norm"]) == (at_fault == "loss")
  assert int(after.step) == 1
  jax.tree.map(
    np.testing.assert_array_equal,
    (after.params, after.opt_state),
    (state.params, state.opt_state),
  )


def test_warm_up_is_a_tenth_of_the_steps_at_most():
  assert train_step.max_warmup(109) == 10
  short, long = (
    train_step.make_schedule(
      learning_rate=1.0, num_steps=109, warmup_steps=n, decay="linear"
    )
    for n in (10, 50)
  )
  for at in (0, 9, 10, 50):
    assert float(short(at)) == float(long(at))
