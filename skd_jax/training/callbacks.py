"""What is called at chosen steps: validation, and samples to look at."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from skd_jax import structs
from skd_jax.decoding import sampling
from skd_jax.parallel import processes
from skd_jax.reporting import files, rollouts
from skd_jax.training.generation import GenerationSpec, RolloutFn
from skd_jax.training.loop import Callbacks, Metrics


@dataclasses.dataclass(frozen=True)
class Validate:
  """Scores the validation split; logs the scores as validation_NAME.

  scores_fn: `state -> {name: score}`, among them texts, if there are any.
  """

  scores_fn: Callable[[structs.TrainState], Metrics]

  def __call__(self, state: structs.TrainState, step: int) -> Metrics:
    del step
    scores = self.scores_fn(state)
    return {f"validation_{name}": value for name, value in scores.items()}

  def every(self, every_steps: int, num_steps: int) -> Callbacks:
    """Returns the callbacks of a stage; none where every_steps is 0."""
    if not every_steps:
      return {}
    return dict.fromkeys(range(every_steps, num_steps + 1, every_steps), self)


@dataclasses.dataclass(frozen=True)
class KeepSamples:
  """Keeps a few rollouts for report.html, as FOLDER/STEP.json; logs their text.

  The same held-out prompts and draws each time, so that the pictures can be
  compared; a continued run has them all.

  folder: where they go.
  batch: the prompts.
  examples: the texts of the rows of the batch that do not pad.
  tokenizer: of both models.
  rollout_fn: of the run.
  annotate: `(student params, teacher params, batch, rollout) -> annotations`,
    see evaluation/agreement.py.
  params_of: the student's weights at a state.
  teacher_params: the teacher's weights.
  spec: of the run.
  seed: of the draws.
  num_steps: of the run.
  """

  folder: pathlib.Path
  batch: structs.Batch
  examples: Sequence[structs.Example]
  tokenizer: Any
  rollout_fn: RolloutFn
  annotate: Callable[..., Mapping[str, Any]]
  params_of: Callable[[structs.TrainState], structs.Params]
  teacher_params: structs.Params
  spec: GenerationSpec
  seed: int
  num_steps: int

  def __call__(self, state: structs.TrainState, step: int) -> Metrics:
    keys = sampling.row_keys(self.seed, self.num_steps, self.batch.index)
    inputs = self.params_of(state), self.teacher_params, self.batch
    threshold = self.spec.threshold_at(step, state.distance)
    rollout = self.rollout_fn(*inputs, keys, threshold)
    annotations = self.annotate(*inputs, rollout)
    views = sample_views(
      self.tokenizer,
      self.examples,
      *processes.to_host((rollout, annotations)),
      step=step,
    )
    processes.on_first(
      files.write_json,
      self.folder / f"{step}.json",
      [dataclasses.asdict(view) for view in views],
    )
    return {"rollouts": rollouts.texts(views)}

  def over_the_run(self) -> Callbacks:
    """Returns the callbacks at the start, a tenth, a half and the end."""
    n = self.num_steps
    return dict.fromkeys(sorted({0, n // 10, n // 2, n}), self)


def sample_views(
  tokenizer: Any,
  examples: Sequence[structs.Example],
  rollout: structs.Rollout,
  annotations: Mapping[str, np.ndarray],
  step: int,
) -> list[rollouts.SampleView]:
  """Turns rollouts on the host into what report.html shows.

  Args:
    tokenizer: of both models.
    examples: held out, one for each row.
    rollout: the rollouts.
    annotations: from agreement.annotate.
    step: the training step.
  """

  def text(ids):
    return tokenizer.decode(ids, skip_special_tokens=False)

  def token_view(row, t):
    ids = rollout.tokens[row, :t].tolist()
    before = text(ids)

    def as_text(token):
      # Not the token alone: spaces depend on what stands before it.
      return text([*ids, int(token)])[len(before) :]

    is_teacher = rollout.source[row, t] == structs.TEACHER
    numbers = {
      name: float(annotations[name][row, t])
      for name in ("student_prob", "teacher_prob", "emitted_teacher_prob")
    }
    return rollouts.TokenView(
      text=as_text(rollout.tokens[row, t]),
      source="teacher" if is_teacher else "student",
      student_token=as_text(rollout.draft_tokens[row, t]),
      teacher_token=as_text(annotations["teacher_token"][row, t]),
      rank=int(annotations["rank"][row, t]),
      **numbers,
    )

  return [
    rollouts.SampleView(
      prompt=example["source"],
      reference=example["target"],
      tokens=[token_view(row, t) for t in range(rollout.length[row])],
      truncated=not rollout.stopped[row],
      step=step,
    )
    for row, example in enumerate(examples)
  ]
