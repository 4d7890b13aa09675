"""One update of the student: gradient of the token loss, then AdamW."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from skd_jax import structs
from skd_jax.losses import chunked, token_losses
from skd_jax.models import forward, lora
from skd_jax.models.loading import LoadedModel
from skd_jax.parallel import rollout_devices, sharding
from skd_jax.training import distance, older_weights


def max_warmup(num_steps: int) -> int:
  """Returns the longest warm-up of a run: a tenth of its steps."""
  return num_steps // 10


def make_schedule(
  *, learning_rate: float, num_steps: int, warmup_steps: int, decay: str
) -> optax.Schedule:
  """Returns step -> learning rate: a linear warm-up, then the decay to 0.

  Args:
    learning_rate: the highest.
    num_steps: where `linear` and `cosine` reach 0.
    warmup_steps: steps from 0 to the highest, at most `max_warmup(num_steps)`.
    decay: `linear`, `cosine` or `constant`.
  """
  warmup_steps = min(warmup_steps, max_warmup(num_steps))
  rest = max(num_steps - warmup_steps, 1)
  after = {
    "linear": optax.linear_schedule(learning_rate, 0.0, rest),
    "cosine": optax.cosine_decay_schedule(learning_rate, rest),
    "constant": optax.constant_schedule(learning_rate),
  }[decay]
  warmup = optax.linear_schedule(
    learning_rate / max(warmup_steps, 1), learning_rate, max(warmup_steps, 1)
  )
  return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
  schedule: optax.Schedule,
  *,
  clip_norm: float,
  weight_decay: float,
  beta1: float,
  beta2: float,
) -> optax.GradientTransformation:
  """Returns AdamW behind a clip of the global norm.

  Weight decay is applied to matrices alone, not to norms and biases.
  """
  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.adamw(
      schedule,
      b1=beta1,
      b2=beta2,
      weight_decay=weight_decay,
      mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    ),
  )


def init_train_state(
  params: structs.Params,
  optimizer: optax.GradientTransformation,
  by_distance: distance.ShareByDistance | None = None,
  older_dtype: jax.typing.DTypeLike | None = None,
) -> structs.TrainState:
  """Returns the state before the first step; see make_train_fns."""
  seen = None if by_distance is None else by_distance.start()
  return structs.TrainState(
    step=jnp.int32(0),
    params=params,
    opt_state=optimizer.init(params),
    distance=seen,
    older=older_weights.copy(params, seen, older_dtype),
  )


def rollout_loss(
  params: structs.Params,
  teacher_head: structs.Params,
  batch: structs.Batch,
  rollout: structs.Rollout,
  *,
  student: structs.LanguageModel,
  teacher: structs.LanguageModel | None,
  token_loss: token_losses.TokenLoss,
  chunk_size: int = 256,
) -> tuple[jax.Array, chunked.LossSums]:
  """Sums the token loss over every emitted token, from the first to EOS.

  Args:
    params: the student's weights; differentiable.
    teacher_head: the frozen head that turns `rollout.teacher_hidden` into the
      targets; no second teacher pass.
    batch: its prompts [B, P].
    rollout: the responses [B, T].
    student: the student.
    teacher: the teacher; None without one.
    token_loss: the loss of a chunk of tokens.
    chunk_size: tokens whose logits are held at once.

  Returns:
    (float32 [] sum, LossSums).
  """
  hidden = forward.response_hidden(
    student,
    params,
    batch.prompt,
    batch.prompt_length,
    rollout.tokens,
    batch.learned,
  )
  mask = jnp.arange(rollout.tokens.shape[1])[None, :] < rollout.length[:, None]
  if batch.learned is not None:
    mask &= batch.learned[:, : mask.shape[1]]
  inputs = token_losses.TokenInputs(
    tokens=rollout.tokens,
    source=rollout.source,
    teacher_hidden=rollout.teacher_hidden if teacher else None,
    teacher_top=rollout.teacher_top,
  )
  hidden, inputs, mask = jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:]), (hidden, inputs, mask)
  )
  return chunked.chunked_loss(
    token_loss,
    student,
    teacher,
    chunk_size,
    student.head_params(params),
    hidden,
    teacher_head,
    inputs,
    mask,
  )


def train_step(
  state: structs.TrainState,
  teacher_head: structs.Params,
  batch: structs.Batch,
  rollout: structs.Rollout,
  *,
  loss_fn: Callable[..., tuple[jax.Array, chunked.LossSums]],
  optimizer: optax.GradientTransformation,
  num_microbatches: int,
  by_distance: distance.ShareByDistance | None = None,
) -> tuple[structs.TrainState, dict[str, jax.Array]]:
  """Takes one optimizer step; pure, to be jitted with the state donated.

  Gradients and token counts are summed over the microbatches and divided once,
  so that the update is that of the whole batch whatever the lengths of its
  rows. Where the loss or the gradient is not finite, weights and moments stay
  as they are: the state before the step is donated, and would be lost.

  Args:
    state: before the step. Of `older`, the distance alone is read: that of the
      weights that the rollout is from.
    teacher_head: see rollout_loss; None without a teacher.
    batch: [B, ...], B a multiple of num_microbatches.
    rollout: [B, ...].
    loss_fn: `rollout_loss` with its keyword arguments bound.
    optimizer: from make_optimizer.
    num_microbatches: how many parts go through the model one after the other.
    by_distance: what `state.distance` is for, if it is there.

  Returns:
    (the state after the step, `older` as it was; float32 metrics: `loss_fn`'s
    means, grad_norm, and `teacher_share`, that of the responses, where it
    depends on distance).
  """
  gradient_fn = jax.grad(loss_fn, has_aux=True)

  def add_part(carry, part):
    gradient, sums = carry
    more, more_sums = gradient_fn(state.params, teacher_head, *part)
    return (jax.tree.map(jnp.add, gradient, more), sums + more_sums), None

  def split(x):
    # Part m takes the rows m, m + M, ...: each device keeps the rows it has.
    parts = x.reshape(-1, num_microbatches, *x.shape[1:])
    return jnp.swapaxes(parts, 0, 1)

  parts = jax.tree.map(split, sharding.constrain_rows((batch, rollout)))
  zeros = jax.tree.map(jnp.zeros_like, state.params)
  (gradient, sums), _ = jax.lax.scan(
    add_part,
    (zeros, chunked.LossSums.zero()),
    parts,
    unroll=num_microbatches == 1,
  )
  with jax.named_scope("update"):
    scale = 1.0 / jnp.maximum(sums.weight, 1e-6)
    gradient = jax.tree.map(lambda x: x * scale, gradient)
    updates, opt_state = optimizer.update(
      gradient, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    norm = optax.tree.norm(gradient)
    metrics = sums.means() | {"grad_norm": norm}
    is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old),
      (params, opt_state),
      (state.params, state.opt_state),
    )
  seen = state.distance
  if by_distance is not None and seen is not None:
    known = seen if state.older is None else state.older.distance
    share = by_distance.share(known)
    metrics["teacher_share"] = share
    seen = by_distance.after(seen, rollout, share)
  state = structs.TrainState(
    step=state.step + 1,
    params=params,
    opt_state=opt_state,
    distance=seen,
    older=state.older,
  )
  if teacher_head is None and rollout.teacher_top is None:
    del metrics["kl"]  # There is no teacher that it is measured from.
  return state, metrics


@dataclasses.dataclass(frozen=True)
class TrainFns:
  """The jitted functions that train one model.

  loss: `(all weights, teacher head, batch, rollout) -> (sum, LossSums)`, which
    `step` differentiates in what is trained; not jitted by itself.
  init: `params -> TrainState` before the first step; its weights are a copy.
    Of a model with adapters, they are the adapters alone.
  frozen: the other weights of such a model; None where all are trained.
  step_with: `(state, frozen, teacher head, batch, rollout) -> (state,
    metrics)`; donates the state.
  keep_older: `(trained weights, distance) -> OlderWeights`, copies; None where
    the newest weights generate.
  """

  loss: Callable[..., tuple[jax.Array, chunked.LossSums]]
  init: Callable[[structs.Params], structs.TrainState]
  frozen: structs.Params
  step_with: jax.stages.Wrapped
  keep_older: older_weights.KeepFn | None = None

  def step(
    self,
    state: structs.TrainState,
    teacher_head: structs.Params,
    batch: structs.Batch,
    rollout: structs.Rollout,
  ) -> tuple[structs.TrainState, dict[str, jax.Array]]:
    """Takes a step; see train_step. The state is donated, but for `older`."""
    if self.keep_older is None or state.older is None:
      return self.step_with(state, self.frozen, teacher_head, batch, rollout)
    # Dispatched before the step that donates what is copied.
    older = self.keep_older(state.params, state.distance)
    state = older_weights.known(state)
    state, metrics = self.step_with(
      state, self.frozen, teacher_head, batch, rollout
    )
    return dataclasses.replace(state, older=older), metrics

  def params(self, state: structs.TrainState) -> structs.Params:
    """Returns the weights of the model at a state; nothing is copied."""
    return lora.attach(state.params, self.frozen)

  def generating(
    self, state: structs.TrainState
  ) -> tuple[structs.Params, jax.Array | None]:
    """Returns what the responses of the next step come from.

    (The weights of the model; the distance that they are generated by.) Those
    of before the last update, where a state has them.
    """
    source = state if state.older is None else state.older
    return lora.attach(source.params, self.frozen), source.distance


def make_train_fns(
  student: LoadedModel,
  teacher: LoadedModel | None,
  *,
  token_loss: token_losses.TokenLoss,
  optimizer: optax.GradientTransformation,
  chunk_size: int,
  num_microbatches: int,
  mesh: jax.sharding.Mesh,
  by_distance: distance.ShareByDistance | None = None,
  older_dtype: jax.typing.DTypeLike | None = None,
  older_is_whole: bool = False,
) -> TrainFns:
  """Jits the first state and the train step, with explicit shardings.

  Args:
    student: what is trained, or its adapters; moments are placed as these.
    teacher: None where the loss needs no teacher.
    token_loss: the loss of a chunk of tokens.
    optimizer: from make_optimizer.
    chunk_size: tokens whose logits are held at once; 0: what suits.
    num_microbatches: see train_step.
    mesh: rows are sharded over it.
    by_distance: see train_step.
    older_dtype: of the weights of before the last update, which then generate
      and are part of the state; None: the newest generate.
    older_is_whole: whether these are gathered over `fsdp`, to go elsewhere.
  """
  loss_fn = functools.partial(
    rollout_loss,
    student=student.model,
    teacher=None if teacher is None else teacher.model,
    token_loss=token_loss,
    chunk_size=chunked.fitting_size(
      chunk_size, student.config.vocab_size, mesh
    ),
  )

  def init(params):
    trained = lora.split(params)[0]
    return init_train_state(trained, optimizer, by_distance, older_dtype)

  def step(state, frozen, *inputs):
    return train_step(
      state,
      *inputs,
      loss_fn=lambda params, *rest: loss_fn(lora.attach(params, frozen), *rest),
      optimizer=optimizer,
      num_microbatches=num_microbatches,
      by_distance=by_distance,
    )

  of_params = jax.tree.map(lambda x: x.sharding, student.params)
  of_trained, of_frozen = lora.split(of_params)
  of_head: Any = teacher and jax.tree.map(
    lambda x: x.sharding, teacher.model.head_params(teacher.params)
  )
  of_older = of_trained
  if older_is_whole:
    of_older = rollout_devices.whole_along_fsdp(of_trained)
  of_state = sharding.state_shardings(
    optimizer, jax.eval_shape(init, student.params), of_trained, of_older, mesh
  )
  of_known = older_weights.known(of_state)
  rows, replicated = sharding.rows(mesh), sharding.replicated(mesh)
  return TrainFns(
    loss=loss_fn,
    init=jax.jit(init, in_shardings=(of_params,), out_shardings=of_state),
    frozen=lora.split(student.params)[1],
    step_with=jax.jit(
      step,
      donate_argnums=0,
      in_shardings=(of_known, of_frozen, of_head, rows, rows),
      out_shardings=(of_known, replicated),
    ),
    keep_older=older_weights.make_keep_fn(of_state, older_dtype),
  )
