"""What is to be learnt: the data, the tokenizer, and where a response ends."""

import dataclasses
import pathlib

import ml_collections
from absl import logging

from skd_jax import input_pipeline, sources, stages, stopping
from skd_jax import tokenizer as tokenizer_lib
from skd_jax.structs import Example


@dataclasses.dataclass(frozen=True)
class Task:
  """The splits as token ids, and how a response is read and ended."""

  tokenizer: tokenizer_lib.Tokenizer
  vocab_size: int  # Tokens that both models know; heads are cut to it.
  eos_ids: tuple[int, ...]
  stop_strings: tuple[str, ...]
  stop_table: stopping.StopTable
  train: input_pipeline.TokenizedSet
  validation: input_pipeline.TokenizedSet
  test: input_pipeline.TokenizedSet

  def texts(self, token_ids) -> list[str]:
    """Decodes responses, each cut before the first stop string."""
    texts = tokenizer_lib.decode(self.tokenizer, token_ids)
    for stop in self.stop_strings:
      texts = [text.split(stop)[0] for text in texts]
    return [text.strip() for text in texts]


def load_task(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, vocab_size: int
) -> Task:
  """Reads the splits, and trains the tokenizer where there is none yet.

  Args:
    config: the run's config.
    workdir: the trained tokenizer is kept in its folder `tokenizer`.
    vocab_size: the tokens that both models share, from the checkpoints that
      they start from; 0 where both are made from scratch.

  Raises:
    ValueError, FileNotFoundError: the data or the tokenizer cannot be read;
      the message says what, where and what is allowed.
  """
  data = config.data
  train = _load_split(config, data.train_split, data.max_train_examples)
  folder = tokenizer_folder(config)
  if folder:
    tokenizer = tokenizer_lib.load(folder)
  else:
    tokenizer = _train_tokenizer(config, workdir, train)
  vocab_size = vocab_size or len(tokenizer)
  eos_ids = tokenizer_lib.eos_ids(tokenizer, folder or None)
  stop_strings = tuple(data.stop_strings)
  lengths = {
    "prompt": data.prompt,
    "max_prompt_length": data.max_prompt_length,
    "max_new_tokens": data.max_new_tokens,
  }

  def tokenize(split, examples, **options):
    result = input_pipeline.tokenize_examples(
      tokenizer, examples, **lengths, **options
    )
    what = "have a cut reference" if options else "are left out"
    logging.info(
      "%s: %d examples; %d %s (over data.max_prompt_length = %d or "
      "data.max_new_tokens = %d)",
      split,
      len(result),
      result.num_too_long,
      what,
      data.max_prompt_length,
      data.max_new_tokens,
    )
    return result

  def held_out(split, limit):
    examples = _load_split(config, split, limit)
    return tokenize(split, examples, keep_long_references=True)

  return Task(
    tokenizer=tokenizer,
    vocab_size=vocab_size,
    eos_ids=eos_ids,
    stop_strings=stop_strings,
    stop_table=stopping.stop_table_for(
      tokenizer, vocab_size, eos_ids, stop_strings
    ),
    train=tokenize(data.train_split, train),
    validation=held_out(data.validation_split, data.max_validation_examples),
    test=held_out(data.test_split, data.max_test_examples),
  )


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
  """Returns the settings that the task depends on, flat."""
  data = stages.settings(config, "data")
  kept = {k: v for k, v in data.items() if "validation" not in k}
  kept["tokenizer folder"] = tokenizer_folder(config)
  if not kept["tokenizer folder"]:
    kept |= stages.settings(config, "tokenizer")
  return kept


def _load_split(
  config: ml_collections.ConfigDict, split: str, limit: int
) -> list[Example]:
  data = config.data
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
  train: list[Example],
) -> tokenizer_lib.Tokenizer:
  folder = workdir / "tokenizer"
  needs = depends_on(config)
  if stages.begin(workdir, "tokenizer", needs) is None:
    logging.info("Training a tokenizer of %d", config.tokenizer.vocab_size)
    texts = [text for e in train for text in (e["source"], e["target"])]
    tokenizer_lib.train_bpe(texts, config.tokenizer.vocab_size, folder)
    stages.finish(workdir, "tokenizer", needs, {"folder": folder.name})
  return tokenizer_lib.load(folder)
