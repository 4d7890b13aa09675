"""Who drafts for a teacher, and what decodes with them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax

from benchmarks.speed import regimes
from benchmarks.speed.pair import Pair
from skd_jax import models, structs, text
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.decoding import (
  draft_lengths,
  rollout,
  sampling,
  speculative,
  stopping,
)
from skd_jax.decoding.drafters import Drafter, ModelDrafter, PromptLookup
from skd_jax.decoding.policy import Policy
from skd_jax.models import loading
from skd_jax.models.loading import LoadedModel

TUNED = "student_80pct"
_REJECTED = 0.2  # Of the student's tokens, by the teacher of student_80pct.


@dataclasses.dataclass(frozen=True)
class Contestant:
  """A drafter and its teacher; plain decoding has no drafter."""

  teacher: Policy
  drafter: Drafter | None = None


def policy(model: LoadedModel) -> Policy:
  """Returns a model that draws greedily."""
  return Policy(model.params, model.model, sampling.GREEDY)


class Decoder:
  """Decodes batches with a drafter, or with the teacher alone."""

  def __init__(
    self,
    vocab_size: int,
    eos_ids: Sequence[int],
    *,
    new_tokens: int,
    num_draft_tokens: int,
  ) -> None:
    stop_table = stopping.make_stop_table(vocab_size, eos_ids)

    @jax.jit
    def plain(teacher, batch):
      return rollout.decode(
        teacher,
        batch,
        sampling.row_keys(0, 0, batch.index),
        stop_table,
        max_new_tokens=new_tokens,
        source=structs.TEACHER,
      )

    @jax.jit
    def speculate(teacher, drafter, adaptation, batch):
      return speculative.speculative_decode(
        drafter,
        teacher,
        batch,
        sampling.row_keys(0, 0, batch.index),
        stop_table,
        num_draft_tokens=num_draft_tokens,
        max_new_tokens=new_tokens,
        **adaptation,
      )

    self._plain, self._speculate = plain, speculate

  def bind(
    self,
    contestant: Contestant,
    batches: Sequence[structs.Batch],
    adaptation: Mapping[str, float] = draft_lengths.FULL_DRAFTS,
  ) -> Callable[[], list[structs.Rollout]]:
    """Returns what decodes the batches, one after the other."""
    decode = functools.partial(self._plain, contestant.teacher)
    if contestant.drafter is not None:
      decode = functools.partial(
        self._speculate,
        contestant.teacher,
        contestant.drafter,
        dict(adaptation),
      )
    return lambda: [jax.block_until_ready(decode(batch)) for batch in batches]


def make_contestants(
  pair: Pair,
  students: Mapping[str, LoadedModel],
  measure: Callable[[Contestant], float] | None,
) -> dict[str, Contestant]:
  """Returns the contestants, by `what`.

  Args:
    pair: the models.
    students: that draft, by name; the first is the pair's.
    measure: returns the share of the student's tokens that its teacher rejects,
      by which student_80pct is tuned; None: without it.
  """
  teacher, most = policy(pair.teacher), pair.teacher.config.num_layers
  num_layers = min(pair.student.config.num_layers, max(most - 1, 1))
  first_layers = models.prune_layers(pair.teacher, range(num_layers))
  found = {
    "plain": Contestant(teacher),
    **{
      name: Contestant(teacher, ModelDrafter(policy(student)))
      for name, student in students.items()
    },
    "early_exit": Contestant(teacher, ModelDrafter(policy(first_layers))),
    "prompt_lookup": Contestant(teacher, PromptLookup()),
  }
  if measure:
    student = ModelDrafter(policy(pair.student))
    tuned = regimes.tune(
      pair,
      _REJECTED,
      lambda pair: measure(Contestant(policy(pair.teacher), student)),
    )
    found[TUNED] = Contestant(policy(tuned.pair.teacher), student)
  return found


def read_students(pair: Pair, asked: Sequence[str]) -> dict[str, LoadedModel]:
  """Reads the students that are asked for, by name.

  Args:
    pair: whose teacher they draft for.
    asked: FOLDER, which is called student, or NAME=FOLDER.

  Raises:
    ValueError, FileNotFoundError: a folder cannot be read, a name is there
      twice, or a student is larger than the teacher or has other tokens.
  """
  found: dict[str, LoadedModel] = {}
  for one in asked:
    name, _, folder = one.rpartition("=")
    name = name or "student"
    if name in found:
      raise ValueError(f"--student={one}: must have a NAME= of its own")
    size = pair.teacher.config.vocab_size
    if pair.tokenizer:
      tokenizer_lib.check_same_vocabulary(
        tokenizer_lib.load_tokenizer(pair.tokenizer),
        tokenizer_lib.load_tokenizer(folder),
        size,
        models.load_config(folder).vocab_size,
      )
    found[name] = loading.load_model(folder, vocab_size=size)
    text.check_draft(found[name], pair.teacher)
  return found
