"""What a model does on held-out data: greedy answers, and how it agrees.

Answers are scored as text, see scores.py. The held-out divergence of student
and teacher is a mean over the tokens of the references, at temperature 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skd_jax import (
  divergence,
  loss,
  rollout,
  sampling,
  scoring,
  structs,
  verify,
)
from skd_jax import train_step as train_step_lib

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
  return rollout.decode(
    rollout.Policy(params, model, sampling.GREEDY),
    batch,
    jax.random.split(jax.random.key(0), batch.prompt.shape[0]),
    stop_table,
    max_new_tokens=max_new_tokens,
  )


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
    batches: held-out examples; rows of index -1 only pad.
    to_texts: decodes lists of ids.

  Returns:
    (text by the index of the example, counts: tokens, truncated).
  """
  texts: dict[int, str] = {}
  tokens, truncated = 0, 0
  for batch in batches:
    result = jax.device_get(decode_fn(params, batch))
    rows = np.flatnonzero(np.asarray(batch.index) >= 0)
    ids = [result.tokens[row, : result.length[row]] for row in rows]
    indices = np.asarray(batch.index)[rows].tolist()
    texts |= dict(zip(indices, to_texts(ids), strict=True))
    tokens += int(result.length[rows].sum())
    truncated += int((~result.stopped[rows]).sum())
  return texts, {"tokens": tokens, "truncated": truncated}


def make_agreement_fn(
  student: structs.LanguageModel,
  teacher: structs.LanguageModel,
  chunk_size: int,
) -> Callable[[structs.Params, structs.Params, structs.Batch], loss.Sums]:
  """Returns jitted `(student params, teacher params, batch) -> Sums`.

  The sums over the reference tokens: `kl` KL(teacher || student), `agreement`
  how often both have the same most probable token.
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
  written = train_step_lib.reference_rollout(batch)
  written = dataclasses.replace(
    written,
    teacher_hidden=scoring.response_hidden(
      teacher,
      teacher_params,
      batch.prompt,
      batch.prompt_length,
      written.tokens,
    ),
  )
  return train_step_lib.rollout_loss(
    student_params,
    teacher.head_params(teacher_params),
    batch,
    written,
    student=student,
    teacher=teacher,
    token_loss=loss.distillation_token_loss(divergence.forward_kl, "uniform"),
    chunk_size=chunk_size,
  )[1]


def agreement(
  sums_fn: Callable[..., loss.Sums],
  student_params: structs.Params,
  teacher_params: structs.Params,
  batches: Iterable[structs.Batch],
) -> dict[str, float]:
  """Means over held-out reference tokens.

  Returns:
    {"kl": nats per token, "agreement": share of tokens in [0, 1]}.
  """
  total = loss.Sums.zero()
  for batch in batches:
    total = total + sums_fn(student_params, teacher_params, batch)
  means = jax.device_get(total.means())
  return {name: float(means[name]) for name in ("kl", "agreement")}


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
      hidden = scoring.response_hidden(
        model, params, batch.prompt, batch.prompt_length, written.tokens
      )
      return model.head(model.head_params(params), hidden)

    of_student = logits(student, student_params)
    of_teacher = logits(teacher, teacher_params)
    draft = written.draft_tokens
    return {
      "teacher_token": jnp.argmax(of_teacher, axis=-1),
      "rank": verify.token_rank(of_teacher, draft),
      "student_prob": prob(of_student, draft),
      "teacher_prob": prob(of_teacher, draft),
      "emitted_teacher_prob": prob(of_teacher, written.tokens),
    }

  return annotate
