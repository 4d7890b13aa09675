"""What a model does on held-out data: greedy answers, and how it agrees.

Answers are scored as text, see scores.py. How student and teacher agree is a
mean over the tokens of the references, at temperature 1.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from skd_jax import structs
from skd_jax.decoding import acceptance, rollout, sampling
from skd_jax.losses import chunked, divergence
from skd_jax.models import forward
from skd_jax.parallel import processes, sharding

TOP_K = 25  # Of the teacher's best tokens, how many are compared.

# (params, batch) -> Rollout of greedy answers.
DecodeFn = Callable[[structs.Params, structs.Batch], structs.Rollout]


def make_decode_fn(
  model: structs.LanguageModel, stop_table: Any, max_new_tokens: int
) -> DecodeFn:
  """Returns a jitted greedy decoder.

  One compilation for each model and width of the prompts: the decoders of
  several weights of the same model share it.
  """
  return functools.partial(
    _decode_greedily,
    stop_table=stop_table,
    model=model,
    max_new_tokens=max_new_tokens,
  )


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens"))
def _decode_greedily(params, batch, *, stop_table, model, max_new_tokens):
  def decode(shared, batch):
    params, stop_table = shared
    return rollout.decode(
      rollout.Policy(params, model, sampling.GREEDY),
      batch,
      jax.random.split(jax.random.key(0), batch.prompt.shape[0]),
      stop_table,
      max_new_tokens=max_new_tokens,
    )

  return sharding.by_rows(decode)((params, stop_table), batch)


def answer(
  decode_fn: DecodeFn,
  params: structs.Params,
  batches: Iterable[structs.Batch],
  to_texts: Callable[[list[np.ndarray]], list[str]],
) -> tuple[dict[int, str], dict[str, float]]:
  """Decodes every example once.

  Args:
    decode_fn: from make_decode_fn.
    params: of the model.
    batches: held-out examples, of all processes; rows of index -1 only pad.
    to_texts: decodes lists of ids.

  Returns:
    (text by the index of the example, counts: tokens, truncated).
  """
  texts: dict[int, str] = {}
  tokens, truncated = 0, 0
  for batch in batches:
    result, index = processes.to_host((decode_fn(params, batch), batch.index))
    rows = np.flatnonzero(index >= 0)
    ids = [result.tokens[row, : result.length[row]] for row in rows]
    texts |= dict(zip(index[rows].tolist(), to_texts(ids), strict=True))
    tokens += int(result.length[rows].sum())
    truncated += int((~result.stopped[rows]).sum())
  return texts, {"tokens": tokens, "truncated": truncated}


@struct.dataclass
class AgreementSums:
  """Sums over tokens of what two models say of them; see `agreement`."""

  tokens: jax.Array  # float32 []; so are the others
  kl: jax.Array
  agreement: jax.Array
  rank_correlation: jax.Array
  teacher_top_mass: jax.Array
  student_top_mass: jax.Array


def make_agreement_fn(
  student: structs.LanguageModel,
  teacher: structs.LanguageModel,
  chunk_size: int,
) -> Callable[[structs.Params, structs.Params, structs.Batch], AgreementSums]:
  """Returns jitted `(student params, teacher params, batch) -> AgreementSums`.

  The sums are over the reference tokens. One compilation for each pair of
  models and width of the batch.
  """
  return functools.partial(
    _agreement_sums, student=student, teacher=teacher, chunk_size=chunk_size
  )


@functools.partial(
  jax.jit, static_argnames=("student", "teacher", "chunk_size")
)
def _agreement_sums(
  student_params, teacher_params, batch, *, student, teacher, chunk_size
):
  def states(model, params):
    hidden = forward.response_hidden(
      model, params, batch.prompt, batch.prompt_length, batch.reference
    )
    return hidden.reshape(-1, hidden.shape[-1])

  of_student = states(student, student_params)
  of_teacher = states(teacher, teacher_params)
  student_head = student.head_params(student_params)
  teacher_head = teacher.head_params(teacher_params)

  def walk(heads, rows):
    student_head, teacher_head = heads
    of_student, of_teacher, mask = rows

    def one_chunk(take, valid, total):
      values = compare_logits(
        teacher.head(teacher_head, take(of_teacher)),
        student.head(student_head, take(of_student)),
      )
      sums = jax.tree.map(lambda x: jnp.sum(jnp.where(valid, x, 0.0)), values)
      return jax.tree.map(jnp.add, total, sums)

    zeros = AgreementSums(*[jnp.float32(0)] * 6)
    sums = chunked.walk_chunks(one_chunk, zeros, mask, chunk_size)
    return sharding.sum_over_groups(sums)

  size = batch.reference.shape[1]
  mask = jnp.arange(size)[None, :] < batch.reference_length[:, None]
  return sharding.by_rows(walk, out=sharding.OF_ALL)(
    (student_head, teacher_head), (of_student, of_teacher, mask.reshape(-1))
  )


def compare_logits(
  teacher: jax.Array, student: jax.Array, k: int = TOP_K
) -> AgreementSums:
  """Compares what two models say of each token.

  Args:
    teacher: float32 [N, V], logits.
    student: float32 [N, V], logits.
    k: how many of the teacher's best tokens are looked at, at most V.

  Returns:
    AgreementSums of shape [N]: 1; KL(teacher || student); whether the most
    probable token is the same; Spearman's rank correlation of both models'
    logits of the teacher's k best tokens, 0 where one of them ties them all;
    the probability that the teacher and the student give to these k together.
  """
  k = min(k, teacher.shape[-1])
  of_teacher, top = jax.lax.top_k(teacher, k)
  of_student = jnp.take_along_axis(student, top, axis=-1)
  # Not top[..., 0]: sliced once more, top_k is compiled for CPU as a sort of
  # all V, which takes 50 times as long.
  same_best = jnp.argmax(student, axis=-1) == jnp.argmax(teacher, axis=-1)

  def mass(logits, among):
    return jnp.exp(
      jax.nn.logsumexp(among, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    )

  return AgreementSums(
    tokens=jnp.ones(teacher.shape[:-1], jnp.float32),
    kl=divergence.forward_kl(teacher, student),
    agreement=same_best.astype(jnp.float32),
    rank_correlation=_spearman(of_teacher, of_student),
    teacher_top_mass=mass(teacher, of_teacher),
    student_top_mass=mass(student, of_student),
  )


def _spearman(a: jax.Array, b: jax.Array) -> jax.Array:
  """Spearman's rank correlation: [N, k], [N, k] -> [N], ties averaged."""

  def centred_ranks(x):
    # Twice the rank, from 0: a larger value counts 2, an equal one 1.
    above = x[:, None, :] > x[:, :, None]
    equal = (x[:, None, :] == x[:, :, None]).astype(jnp.float32)
    ranks = jnp.sum(above.astype(jnp.float32) * 2 + equal, axis=-1)
    return ranks - jnp.mean(ranks, axis=-1, keepdims=True)

  x, y = centred_ranks(a), centred_ranks(b)
  scale = jnp.sqrt(jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1))
  return jnp.sum(x * y, axis=-1) / jnp.maximum(scale, 1e-6)


def agreement(
  sums_fn: Callable[..., AgreementSums],
  student_params: structs.Params,
  teacher_params: structs.Params,
  batches: Iterable[structs.Batch],
) -> dict[str, float]:
  """Means over held-out reference tokens, of what `compare_logits` gives.

  Returns:
    {"kl": nats per token, "agreement": share of tokens in [0, 1],
    "rank_correlation" in [-1, 1], "teacher_top_mass" and "student_top_mass" in
    [0, 1]}.
  """
  total = None
  for batch in batches:
    sums = sums_fn(student_params, teacher_params, batch)
    total = sums if total is None else jax.tree.map(jnp.add, total, sums)
  if total is None:
    raise ValueError("batches is empty; at least one is needed")
  sums = {k: float(v) for k, v in vars(processes.to_host(total)).items()}
  tokens = max(sums.pop("tokens"), 1.0)
  return {name: value / tokens for name, value in sums.items()}


def make_annotate_fn(
  student: structs.LanguageModel, teacher: structs.LanguageModel
) -> Callable[..., dict[str, jax.Array]]:
  """Returns jitted `(student params, teacher params, batch, rollout) -> dict`.

  What both models think of each token of a few rollouts, for samples.html; it
  holds all logits, so B must be small. All [B, T]: `teacher_token` (the
  teacher's first choice), `rank` of the student's proposal among the teacher's
  logits, `student_prob` and `teacher_prob` of the proposal, and
  `emitted_teacher_prob` of the token that was written, at temperature 1.
  """

  def prob(logits, tokens):
    log_probs = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)
    return jnp.exp(own[..., 0])

  @jax.jit
  def annotate(student_params, teacher_params, batch, written):
    def logits(model, params):
      hidden = forward.response_hidden(
        model, params, batch.prompt, batch.prompt_length, written.tokens
      )
      return model.head(model.head_params(params), hidden)

    of_student = logits(student, student_params)
    of_teacher = logits(teacher, teacher_params)
    draft = written.draft_tokens
    return {
      "teacher_token": jnp.argmax(of_teacher, axis=-1),
      "rank": acceptance.token_rank(of_teacher, draft),
      "student_prob": prob(of_student, draft),
      "teacher_prob": prob(of_teacher, draft),
      "emitted_teacher_prob": prob(of_teacher, written.tokens),
    }

  return annotate
