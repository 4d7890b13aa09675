"""What is to be learnt: the data, the tokenizer, and where a response ends."""

import dataclasses
import pathlib
from collections.abc import Mapping

import ml_collections
from absl import logging

from skd_jax import config as config_lib
from skd_jax import stages
from skd_jax.data import dataset, mixture, sources
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.decoding import stopping
from skd_jax.parallel import processes
from skd_jax.structs import Example


@dataclasses.dataclass(frozen=True)
class Part:
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
class Task:
  """One task, or several learnt at once, as token ids.

  A row of a batch says by its number which of `parts` it belongs to.
  """

  tokenizer: tokenizer_lib.Tokenizer
  vocab_size: int  # Tokens that both models know; heads are cut to it.
  eos_ids: tuple[int, ...]
  stop_table: stopping.StopTable  # Of all parts, in their order.
  train: dataset.TokenizedSet  # Of all parts, one after the other.
  weights: tuple[float, ...]  # Of each part in the mixture.
  mixing_temperature: float
  parts: tuple[Part, ...]

  @property
  def max_new_tokens(self) -> int:
    """The size of a response buffer that every part fits in."""
    return max(part.max_new_tokens for part in self.parts)

  @property
  def max_length(self) -> int:
    """The most tokens of a prompt and its response together."""
    return max(p.prompt_length + p.max_new_tokens for p in self.parts)

  def shares(self, train: dataset.TokenizedSet) -> tuple[float, ...]:
    """How often each part is read, where `train` is what is read."""
    sizes = [int((train.task == i).sum()) for i in range(len(self.parts))]
    return mixture.shares(sizes, self.weights, self.mixing_temperature)

  def texts(self, part: Part, token_ids) -> list[str]:
    """Decodes responses, each cut before the first stop string of its part."""
    texts = tokenizer_lib.decode(self.tokenizer, token_ids)
    for stop in part.stop_strings:
      texts = [text.split(stop)[0] for text in texts]
    return [text.strip() for text in texts]


def load_task(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, vocab_size: int
) -> Task:
  """Reads the splits, and trains the tokenizer where there is none yet.

  Args:
    config: the run's config.
    workdir: the trained tokenizer is kept in its folder `tokenizer`. Of several
      processes, the first trains it.
    vocab_size: the tokens that both models share, from the checkpoints that
      they start from; 0 where both are made from scratch.

  Raises:
    ValueError, FileNotFoundError: the data or the tokenizer cannot be read;
      the message says what, where and what is allowed.
  """
  sections = config_lib.task_sections(config)
  train = {
    name: _load_split(data, data.train_split, data.max_train_examples)
    for name, data in sections.items()
  }
  folder = tokenizer_folder(config)
  if folder:
    tokenizer = tokenizer_lib.load(folder)
  else:
    tokenizer = _train_tokenizer(config, workdir, train)
  vocab_size = vocab_size or len(tokenizer)
  eos_ids = tokenizer_lib.eos_ids(tokenizer, folder or None)
  return Task(
    tokenizer=tokenizer,
    vocab_size=vocab_size,
    eos_ids=eos_ids,
    stop_table=stopping.join_stop_tables(
      [
        stopping.stop_table_for(
          tokenizer, vocab_size, eos_ids, tuple(data.stop_strings)
        )
        for data in sections.values()
      ]
    ),
    train=dataset.join(
      [
        _tokenize(tokenizer, name, data, data.train_split, train[name], number)
        for number, (name, data) in enumerate(sections.items())
      ]
    ),
    weights=tuple(data.weight for data in sections.values()),
    mixing_temperature=config.mixing_temperature,
    parts=tuple(
      _load_part(tokenizer, name, data, number)
      for number, (name, data) in enumerate(sections.items())
    ),
  )


def _load_part(
  tokenizer: tokenizer_lib.Tokenizer,
  name: str,
  data: ml_collections.ConfigDict,
  number: int,
) -> Part:
  def held_out(split, limit):
    examples = _load_split(data, split, limit)
    return _tokenize(
      tokenizer, name, data, split, examples, number, keep_long_references=True
    )

  return Part(
    name=name.removeprefix("tasks."),
    prompt_length=data.max_prompt_length,
    max_new_tokens=data.max_new_tokens,
    stop_strings=tuple(data.stop_strings),
    metrics=tuple(data.metrics),
    validation=held_out(data.validation_split, data.max_validation_examples),
    test=held_out(data.test_split, data.max_test_examples),
  )


def _tokenize(
  tokenizer: tokenizer_lib.Tokenizer,
  name: str,
  data: ml_collections.ConfigDict,
  split: str,
  examples: list[Example],
  number: int,
  **options,
) -> dataset.TokenizedSet:
  result = dataset.tokenize_examples(
    tokenizer,
    examples,
    prompt=data.prompt,
    max_prompt_length=data.max_prompt_length,
    max_new_tokens=data.max_new_tokens,
    task=number,
    **options,
  )
  what = "have a cut reference" if options else "are left out"
  logging.info(
    "%s, %s: %d examples; %d %s (over max_prompt_length = %d or "
    "max_new_tokens = %d)",
    name,
    split,
    len(result),
    result.num_too_long,
    what,
    data.max_prompt_length,
    data.max_new_tokens,
  )
  return result


def tokenizer_folder(config: ml_collections.ConfigDict) -> str:
  """Returns the folder that the tokenizer is read from; empty: train one."""
  return (
    config.tokenizer.path
    or config.teacher.path
    or config.teacher.init_path
    or config.student.path
    or config.student.init_path
  )


def depends_on(config: ml_collections.ConfigDict) -> dict:
  """Returns the settings that the task depends on, flat.

  How answers are scored is not among them: no model depends on it.
  """
  kept = {
    f"{section}.{field}": value
    for section, data in config_lib.task_sections(config).items()
    for field, value in config_lib.to_plain(data).items()
    if "validation" not in field and field not in ("metrics", "weight")
  }
  if config.tasks:
    kept["mixing_temperature"] = config.mixing_temperature
    kept |= {
      f"{section}.weight": data.weight
      for section, data in config_lib.task_sections(config).items()
    }
  kept["tokenizer folder"] = tokenizer_folder(config)
  if not kept["tokenizer folder"]:
    kept |= stages.settings(config, "tokenizer")
  return kept


def scores_depend_on(config: ml_collections.ConfigDict) -> dict:
  """Returns the settings that a score depends on besides those of the task."""
  kept: dict = {}
  for section, data in config_lib.task_sections(config).items():
    kept[f"{section}.metrics"] = list(data.metrics)
    if "comet" in data.metrics:
      kept["evaluate.comet_checkpoint"] = config.evaluate.comet_checkpoint
  return kept


def _load_split(
  data: ml_collections.ConfigDict, split: str, limit: int
) -> list[Example]:
  return sources.load_examples(
    data.kind,
    split,
    folder=data.dir or None,
    source_language=data.source_language,
    target_language=data.target_language,
    source_field=data.source_field or data.source_language,
    target_field=data.target_field or data.target_language,
    name=data.name or None,
    max_examples=limit or None,
  )


def _train_tokenizer(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  train: Mapping[str, list[Example]],
) -> tokenizer_lib.Tokenizer:
  folder = workdir / "tokenizer"
  needs = depends_on(config)
  if stages.begin(workdir, "tokenizer", needs) is None:
    logging.info("Training a tokenizer of %d", config.tokenizer.vocab_size)
    texts = [
      text
      for name, data in config_lib.task_sections(config).items()
      for e in train[name]
      for text in (data.prompt.replace("{source}", e["source"]), e["target"])
    ]

    def train_bpe() -> None:
      tokenizer_lib.train_bpe(texts, config.tokenizer.vocab_size, folder)

    processes.on_first(train_bpe)
    stages.finish(workdir, "tokenizer", needs, {"folder": folder.name})
  return tokenizer_lib.load(folder)
