"""What is to be learned: one task or several, as token ids.

TaskSettings -> load_split -> examples -> make_task_set -> TaskSet
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from absl import logging

from skd_jax.data import dataset, mixture, sources, stop_strings
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.structs import Example


@dataclasses.dataclass(frozen=True)
class TaskSettings:
  """Where the examples of a task are and how they are read and scored.

  The fields are those of `config.data`, and are explained there.
  """

  kind: str
  dir: str
  name: str
  source_language: str
  target_language: str
  source_field: str
  target_field: str
  turns: str
  train_split: str
  validation_split: str
  test_split: str
  max_train_examples: int
  max_validation_examples: int
  max_test_examples: int
  prompt: str
  max_prompt_length: int
  max_new_tokens: int
  long_prompts: str
  stop_strings: tuple[str, ...]
  metrics: tuple[str, ...]
  weight: float
  num_steps: int
  min_steps: int
  noise: float


@dataclasses.dataclass(frozen=True)
class Task:
  """What is held out of one task, and how its answers are read and scored."""

  name: str
  prompt_length: int  # The most tokens of a prompt.
  max_new_tokens: int  # The most tokens of a response.
  stop_strings: tuple[str, ...]
  metrics: tuple[str, ...]  # The main one first.
  validation: dataset.TokenizedSet
  test: dataset.TokenizedSet

  def split(self, name: str) -> dataset.TokenizedSet:
    """Returns the split called "validation" or "test"."""
    return {"validation": self.validation, "test": self.test}[name]


@dataclasses.dataclass(frozen=True)
class TaskSet:
  """One task, or several learned at once, as token ids.

  A row of a batch says by its `task_id` which of `tasks` it belongs to.
  """

  tokenizer: tokenizer_lib.Tokenizer
  vocab_size: int  # Tokens that both models know; heads are cut to it.
  eos_ids: tuple[int, ...]
  token_bytes: Sequence[bytes] | None  # Of each id, where stop strings need it.
  train: dataset.TokenizedSet  # Of all tasks, one after the other.
  weights: tuple[float, ...]  # Of each task in the mixture.
  mixing_temperature: float
  tasks: tuple[Task, ...]

  @property
  def max_new_tokens(self) -> int:
    """The size of a response buffer that every task fits in."""
    return max(task.max_new_tokens for task in self.tasks)

  @property
  def max_length(self) -> int:
    """The most tokens of a prompt and its response together."""
    return max(t.prompt_length + t.max_new_tokens for t in self.tasks)

  def shares(self, train: dataset.TokenizedSet) -> tuple[float, ...]:
    """Returns how often each task is read, where `train` is what is read."""
    sizes = [int((train.task_id == i).sum()) for i in range(len(self.tasks))]
    return mixture.shares(sizes, self.weights, self.mixing_temperature)

  def texts(self, task: Task, token_ids) -> list[str]:
    """Decodes responses, each cut before the first stop string of its task."""
    texts = tokenizer_lib.decode(self.tokenizer, token_ids)
    for stop in task.stop_strings:
      texts = [text.split(stop)[0] for text in texts]
    return [text.strip() for text in texts]


def load_split(
  section: str, settings: TaskSettings, split: str
) -> list[Example]:
  """Reads the "train", "validation" or "test" split of a task.

  Args:
    section: the name of the settings, for messages: "data", "tasks.sums".
    settings: of the task.
    split: which.

  Raises:
    ValueError, FileNotFoundError: the data cannot be read; the message names
      the setting, or the file and the line.
  """
  # What the field is called where it is not named.
  is_messages = settings.kind == "messages"
  source = "messages" if is_messages else settings.source_language
  try:
    return sources.load_examples(
      settings.kind,
      getattr(settings, f"{split}_split"),
      dir=settings.dir or None,
      source_language=settings.source_language,
      target_language=settings.target_language,
      source_field=settings.source_field or source,
      target_field=settings.target_field or settings.target_language,
      name=settings.name or None,
      turns=settings.turns,
      num_steps=(settings.min_steps or settings.num_steps, settings.num_steps),
      # A held-out split may be named "train" too, where data has no other.
      noise=settings.noise if split == "train" else 0.0,
      max_examples=getattr(settings, f"max_{split}_examples") or None,
    )
  except (ValueError, FileNotFoundError) as error:
    is_field = re.match(r"\w+ = ", str(error))
    raise type(error)(f"{section}{'.' if is_field else ': '}{error}") from error


def tokenizer_texts(
  settings: TaskSettings, examples: Sequence[Example]
) -> list[str]:
  """Returns the texts of a task that a new tokenizer is trained on."""
  return [
    text
    for example in examples
    for text in (
      settings.prompt.replace("{source}", example["source"]),
      example["target"],
    )
  ]


def make_task_set(
  settings: Mapping[str, TaskSettings],
  train: Mapping[str, Sequence[Example]],
  tokenizer: tokenizer_lib.Tokenizer,
  *,
  vocab_size: int,
  eos_ids: tuple[int, ...],
  mixing_temperature: float,
) -> TaskSet:
  """Reads the splits that are held out, and turns all of them into token ids.

  Args:
    settings: of each task, by the name of its section in the config.
    train: the training split of each, from load_split.
    tokenizer: of both models.
    vocab_size: tokens that both models know.
    eos_ids: what ends a response.
    mixing_temperature: see mixture.shares.

  Raises:
    ValueError, FileNotFoundError: the data cannot be read, no example fits the
      limits, or a stop string cuts a reference.
  """
  needs_bytes = any(task.stop_strings for task in settings.values())
  return TaskSet(
    tokenizer=tokenizer,
    vocab_size=vocab_size,
    eos_ids=eos_ids,
    token_bytes=(
      stop_strings.token_bytes(tokenizer, vocab_size) if needs_bytes else None
    ),
    train=dataset.join(
      [
        _tokenize(tokenizer, name, task, "train", train[name], task_id)
        for task_id, (name, task) in enumerate(settings.items())
      ]
    ),
    weights=tuple(task.weight for task in settings.values()),
    mixing_temperature=mixing_temperature,
    tasks=tuple(
      _make_task(tokenizer, name, task, task_id)
      for task_id, (name, task) in enumerate(settings.items())
    ),
  )


def _make_task(
  tokenizer: tokenizer_lib.Tokenizer,
  section: str,
  settings: TaskSettings,
  task_id: int,
) -> Task:
  held_out = {
    split: _tokenize(
      tokenizer,
      section,
      settings,
      split,
      load_split(section, settings, split),
      task_id,
    )
    for split in ("validation", "test")
  }
  return Task(
    name=section.removeprefix("tasks."),
    prompt_length=settings.max_prompt_length,
    max_new_tokens=settings.max_new_tokens,
    stop_strings=settings.stop_strings,
    metrics=settings.metrics,
    **held_out,
  )


def _tokenize(
  tokenizer: tokenizer_lib.Tokenizer,
  section: str,
  settings: TaskSettings,
  split: str,
  examples: Sequence[Example],
  task_id: int,
) -> dataset.TokenizedSet:
  is_held_out = split != "train"
  result = dataset.tokenize_examples(
    tokenizer,
    examples,
    prompt=settings.prompt,
    max_prompt_length=settings.max_prompt_length,
    max_new_tokens=settings.max_new_tokens,
    task_id=task_id,
    keep_long_references=is_held_out,
    leave_out_long_prompts=is_held_out and settings.long_prompts == "leave_out",
  )
  logging.info(
    "%s, %s: %d of %d examples; %d %s (over max_prompt_length = %d or "
    "max_new_tokens = %d); %d are copies of another",
    section,
    getattr(settings, f"{split}_split"),
    len(result),
    len(examples),
    result.num_too_long,
    "have a cut reference" if is_held_out else "are left out",
    settings.max_prompt_length,
    settings.max_new_tokens,
    len(examples) - len({(e["source"], e["target"]) for e in examples}),
  )
  if settings.stop_strings:
    _check_stop_strings(tokenizer, section, settings, split, result)
  return result


def _check_stop_strings(
  tokenizer: tokenizer_lib.Tokenizer,
  section: str,
  settings: TaskSettings,
  split: str,
  tokenized: dataset.TokenizedSet,
) -> None:
  """Checks that an answer may be the reference: no stop string cuts that."""
  texts = tokenizer_lib.decode(tokenizer, tokenized.responses)
  for index, text in zip(tokenized.indices, texts, strict=True):
    for stop in settings.stop_strings:
      cut = text.split(stop)[0].strip()
      if cut == text.strip():
        continue
      way_out = "the stop string, or this example"
      if stop not in tokenized.examples[index]["target"]:
        way_out = (
          "the stop string, or what the chat template adds (Qwen3: "
          "tokenizer.template_arguments = {'enable_thinking': False})"
        )
      raise ValueError(
        f"{section}.stop_strings has {stop!r}, at which the reference of "
        f"example {index} of {getattr(settings, f'{split}_split')} would end "
        f"as {cut[-40:]!r}: must occur in no reference; remove {way_out}"
      )
