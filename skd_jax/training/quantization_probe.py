"""What a teacher loses by its quantization, before it teaches.

The compact teacher answers a few prompts. Then both teachers, the compact and
the full one, say at each token what comes next, and judge the student's
proposal there:

  answer         y0   y1   y2   of the compact teacher
  student             x1   x2   proposes at each token
  full teacher        y    n    accepts it?
  compact             y    y    one decision of two has changed
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from skd_jax import structs
from skd_jax.decoding import acceptance, sampling, stopping, verification
from skd_jax.decoding.policy import Policy
from skd_jax.losses import divergence
from skd_jax.models import forward
from skd_jax.models.loading import LoadedModel
from skd_jax.parallel import processes, sharding
from skd_jax.training import generation, probe

_MOST_TOKENS = 256  # Of an answer: the logits of a whole one are held at once.


@dataclasses.dataclass(frozen=True)
class Lost:
  """Means over the tokens of the compact teacher's answers.

  tokens: how many.
  kl: KL(full || compact), in nats.
  agreement: the share where the most probable token is the same.
  changed: the share of the student's proposals of which the compact teacher
    decides otherwise than the full one.
  """

  tokens: int
  kl: float
  agreement: float
  changed: float


@struct.dataclass
class _Sums:
  """Sums over tokens; see Lost."""

  tokens: jax.Array  # float32 []; so are the others
  kl: jax.Array
  agreement: jax.Array
  changed: jax.Array


def measure(
  spec: generation.GenerationSpec,
  student: LoadedModel,
  compact: LoadedModel,
  full: structs.Params,
  stop_table: stopping.StopTable,
  batch: structs.Batch,
  row_keys: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  dtype: jax.typing.DTypeLike,
) -> Lost:
  """Measures a compact teacher against the full one.

  Args:
    spec: who generates in the run; its rule decides, or that of the paper.
    student: at the start.
    compact: the teacher.
    full: the weights that the teacher's were quantized from.
    stop_table: what ends a response.
    batch: a few prompts [B, P], placed on the mesh.
    row_keys: typed PRNG keys [B], which no step of the run has.
    mesh: rows are sharded over it; the mesh of the context.
    dtype: of the student's weights while it generates.

  Returns:
    Plain numbers, the same in every process.
  """
  answering = dataclasses.replace(
    spec,
    mode="teacher",
    max_new_tokens=min(spec.max_new_tokens, _MOST_TOKENS),
  )
  threshold = jnp.float32(probe.with_rule(spec).threshold(0))
  rollout_fn = generation.make_rollout_fn(
    answering, student, compact, stop_table, mesh=mesh, dtype=dtype
  )
  batch = generation.first_tokens(batch, _MOST_TOKENS)
  answers = rollout_fn(
    student.params, compact.params, batch, row_keys, threshold
  )
  sums = _sums(
    Policy(student.params, student.model, spec.student_sampling),
    Policy(compact.params, compact.model, spec.teacher_sampling),
    full,
    batch,
    answers,
    row_keys,
    threshold,
    rule=probe.with_rule(spec).rule,
  )
  found = {name: float(x) for name, x in vars(processes.to_host(sums)).items()}
  tokens = found.pop("tokens")
  means = {name: total / tokens for name, total in found.items()}
  return Lost(tokens=int(tokens), **means)


@functools.partial(jax.jit, static_argnames="rule")
def _sums(
  student: Policy,
  compact: Policy,
  full: structs.Params,
  batch: structs.Batch,
  answers: structs.Rollout,
  row_keys: jax.Array,
  threshold: jax.Array,
  *,
  rule: acceptance.Rule,
) -> _Sums:
  """Sums over the tokens of the answers, of one pass of each model."""
  policies = student, compact, dataclasses.replace(compact, params=full)

  def states(policy):
    return forward.response_hidden(
      policy.model,
      policy.params,
      batch.prompt,
      batch.prompt_length,
      answers.tokens,
    )

  def walk(policies, rows):
    student, compact, full = policies

    def of_row(row):
      # A batch of one row.
      hidden, length, keys = jax.tree.map(lambda x: x[None], row)
      proposal = _propose(student, hidden[0], keys)
      logits = compact.logits(hidden[1]), full.logits(hidden[2])
      decisions = [
        verification.accepts(
          student, compact, x, proposal, keys, threshold, rule
        )
        for x in logits
      ]
      best = [jnp.argmax(x, axis=-1) for x in logits]
      values = _Sums(
        tokens=jnp.ones(best[0].shape),
        kl=divergence.forward_kl(logits[1], logits[0]),
        agreement=(best[0] == best[1]).astype(jnp.float32),
        changed=(decisions[0] != decisions[1]).astype(jnp.float32),
      )
      valid = jnp.arange(best[0].shape[1])[None, :] < length[:, None]
      return jax.tree.map(lambda x: jnp.sum(jnp.where(valid, x, 0.0)), values)

    sums = jax.tree.map(jnp.sum, jax.lax.map(of_row, rows))
    return sharding.sum_over_groups(sums)

  rows = tuple(map(states, policies)), answers.length, row_keys
  return sharding.by_rows(walk, out=sharding.OF_ALL)(policies, rows)


def _propose(
  student: Policy, hidden: jax.Array, row_keys: jax.Array
) -> structs.Proposal:
  """Draws a token after each prefix: [B, T, D] -> Proposal [B, T]."""
  shape = hidden.shape[:2]
  logits = student.logits(hidden)
  uniform = sampling.draw_uniform(
    row_keys,
    sampling.STUDENT_DRAW,
    jnp.broadcast_to(jnp.arange(shape[1]), shape),
  )
  tokens, own = sampling.draw(
    logits.reshape(-1, logits.shape[-1]), student.sampling, uniform.reshape(-1)
  )
  return structs.Proposal(
    tokens=tokens.reshape(shape), log_prob=own.reshape(shape), hidden=hidden
  )
