"""Text in, text out: python -m skd_jax.generate --model=FOLDER < lines.txt.

With --draft=FOLDER a student drafts: the same answers (greedy), or answers of
the same law, in fewer passes of the model.
"""

import contextlib
import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from skd_jax import models, structs
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.decoding import rollout, sampling, speculative, stopping
from skd_jax.models import loading
from skd_jax.parallel import compilation

DecodeFn = Callable[[structs.Batch], structs.Rollout]

_MODEL = flags.DEFINE_string(
  "model", None, "Hugging Face folder, such as WORKDIR/export.", required=True
)
_INPUT = flags.DEFINE_string(
  "input", "-", "File with one source a line; - is standard input."
)
_PROMPT = flags.DEFINE_string(
  "prompt", "{source}", "The user's turn, as in config.data.prompt."
)
_STOP = flags.DEFINE_multi_string(
  "stop", [], "Text that ends an answer, besides EOS. May be repeated."
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
  "max_new_tokens",
  None,
  "The most tokens of an answer; by default half of what the model reads, at "
  "most 256.",
  lower_bound=1,
)
_TEMPERATURE = flags.DEFINE_float(
  "temperature", 0.0, "0 is greedy.", lower_bound=0.0
)
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Nucleus mass, in (0, 1].")
_SEED = flags.DEFINE_integer("seed", 0, "Of the draws.")
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 32, "Lines answered at once.", lower_bound=1
)

_DRAFT = flags.DEFINE_string(
  "draft",
  None,
  "Hugging Face folder of a student that drafts for --model (lossless "
  "speculative decoding); what it brought is printed at the end.",
)
_NUM_DRAFT_TOKENS = flags.DEFINE_integer(
  "num_draft_tokens", 4, "Tokens drafted before --model reads.", lower_bound=1
)

_PROMPT_MULTIPLE = 32  # Prompt buffers are rounded up to this.


def make_prompt_batch(
  prompts: Mapping[int, np.ndarray],
  batch_size: int,
  limit: int,
  max_new_tokens: int,
) -> structs.Batch:
  """Right-pads prompts to a Batch of `batch_size` rows without references.

  Args:
    prompts: int32 ids by the number of their line, which becomes the index of
      their row; at most batch_size of them. Lines count from 0.
    batch_size: B; rows without a prompt have index -1.
    limit: the most tokens of a prompt.
    max_new_tokens: the most tokens of an answer.

  Raises:
    ValueError: a prompt is longer than the limit.
  """
  for line, ids in prompts.items():
    if len(ids) > limit:
      raise ValueError(
        f"line {line + 1}: the prompt has {len(ids)} tokens; at most "
        f"{limit} leave room for --max_new_tokens"
      )
  longest = max(len(ids) for ids in prompts.values())
  width = min(-(-longest // _PROMPT_MULTIPLE) * _PROMPT_MULTIPLE, limit)
  prompt = np.zeros((batch_size, width), np.int32)
  length = np.ones(batch_size, np.int32)
  index = np.full(batch_size, -1, np.int32)
  for row, (line, ids) in enumerate(prompts.items()):
    prompt[row, : len(ids)] = ids
    length[row] = len(ids)
    index[row] = line
  return structs.Batch(
    prompt=jnp.asarray(prompt),
    prompt_length=jnp.asarray(length),
    reference=jnp.zeros((batch_size, 1), jnp.int32),
    reference_length=jnp.zeros(batch_size, jnp.int32),
    index=jnp.asarray(index),
    task=jnp.zeros(batch_size, jnp.int32),
    max_new_tokens=jnp.full(batch_size, max_new_tokens, jnp.int32),
  )


def make_decode_fns(
  tokenizer: tokenizer_lib.Tokenizer, max_new_tokens: int
) -> dict[str, DecodeFn]:
  """Loads the models of the flags and returns jitted ways to decode.

  Returns:
    {"plain": by --model alone} and, with --draft, "speculative".

  Raises:
    ValueError: --draft speaks another vocabulary.
  """
  dtype = loading.compute_dtype("auto")
  folders = [_MODEL.value] + ([_DRAFT.value] if _DRAFT.value else [])
  vocab_size = min(
    tokenizer_lib.check_same_vocabulary(
      tokenizer_lib.load(folder),
      tokenizer,
      models.load_config(folder).vocab_size,
      len(tokenizer),
    )
    for folder in folders
  )
  loaded = [
    loading.load(folder, vocab_size, dtype=dtype, param_dtype=dtype)
    for folder in folders
  ]
  stop_table = stopping.stop_table_for(
    tokenizer,
    vocab_size,
    tokenizer_lib.eos_ids(tokenizer, _MODEL.value),
    _STOP.value,
  )
  how = sampling.Sampling(_TEMPERATURE.value, _TOP_P.value)

  def policies(params):
    return [
      rollout.Policy(p, model.model, how)
      for p, model in zip(params, loaded, strict=True)
    ]

  def keys(batch):
    seed = jax.random.key(_SEED.value)
    return jax.vmap(lambda i: jax.random.fold_in(seed, i))(batch.index)

  @jax.jit
  def plain(params, batch):
    (teacher, *_) = policies(params)
    return rollout.decode(
      teacher, batch, keys(batch), stop_table, max_new_tokens=max_new_tokens
    )

  @jax.jit
  def speculate(params, batch):
    teacher, student = policies(params)
    return speculative.decode(
      student,
      teacher,
      batch,
      keys(batch),
      stop_table,
      num_draft_tokens=_NUM_DRAFT_TOKENS.value,
      max_new_tokens=max_new_tokens,
    )

  found = {"plain": plain} | (
    {"speculative": speculate} if _DRAFT.value else {}
  )
  params = [model.params for model in loaded]
  return {name: functools.partial(fn, params) for name, fn in found.items()}


def answer_lines(lines: Iterable[str]) -> Iterator[str]:
  """Answers line by line, in order; an empty line gives an empty line."""
  tokenizer = tokenizer_lib.load(_MODEL.value)
  longest = models.load_config(_MODEL.value).max_position_embeddings
  max_new_tokens = _MAX_NEW_TOKENS.value or min(longest // 2, 256)
  limit = longest - max_new_tokens
  if limit < 1:
    raise ValueError(
      f"--max_new_tokens = {max_new_tokens}: the model reads at most "
      f"{longest} tokens, the prompt included"
    )
  decode_fns = make_decode_fns(tokenizer, max_new_tokens)
  decode = decode_fns.get("speculative", decode_fns["plain"])
  summary = SpeculationSummary(_NUM_DRAFT_TOKENS.value)

  size, first = _BATCH_SIZE.value, 0
  iterator = iter(lines)
  while chunk := [line.strip() for line in itertools.islice(iterator, size)]:
    filled = [row for row, line in enumerate(chunk) if line]
    texts = [""] * len(chunk)
    if filled:
      prompts = tokenizer_lib.encode_prompts(
        tokenizer, [chunk[row] for row in filled], _PROMPT.value
      )
      lines_of_prompts = [first + row for row in filled]
      batch = make_prompt_batch(
        dict(zip(lines_of_prompts, prompts, strict=True)),
        size,
        limit,
        max_new_tokens,
      )
      written = jax.device_get(decode(batch))
      if _DRAFT.value:
        summary = summary.add(written, decode_fns, batch)
      ids = [written.tokens[i, : written.length[i]] for i in range(len(filled))]
      for row, text in zip(
        filled, tokenizer_lib.decode(tokenizer, ids), strict=True
      ):
        for stop in _STOP.value:
          text = text.split(stop)[0]
        texts[row] = " ".join(text.split())
    first += len(chunk)
    yield from texts
  if summary.passes:
    print(summary, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class SpeculationSummary:
  """What drafting brought, over all answers."""

  num_draft_tokens: int
  passes: int = 0  # Of the teacher, counted by row.
  accepted: int = 0
  emitted: int = 0
  speedup: float = 0.0  # Over plain decoding, of the first batch.

  def add(
    self,
    written: structs.Rollout,
    decode_fns: Mapping[str, DecodeFn],
    batch: structs.Batch,
  ) -> "SpeculationSummary":
    """Counts a batch; the first is also decoded plainly, for the clock."""
    speedup = self.speedup
    if not self.passes:
      seconds = {}
      for name, decode in decode_fns.items():
        jax.block_until_ready(decode(batch))  # Compiles.
        begun = time.perf_counter()
        jax.block_until_ready(decode(batch))
        seconds[name] = time.perf_counter() - begun
      speedup = seconds["plain"] / seconds["speculative"]
    emitted = np.arange(written.tokens.shape[1]) < written.length[:, None]
    drafted = emitted & (written.source == structs.STUDENT)
    return dataclasses.replace(
      self,
      passes=self.passes + int(written.num_rounds.sum()),
      accepted=self.accepted + int(drafted.sum()),
      emitted=self.emitted + int(emitted.sum()),
      speedup=speedup,
    )

  def __str__(self) -> str:
    share = self.accepted / (self.passes * self.num_draft_tokens)
    return (
      f"Drafts: {share:.0%} of the tokens accepted, "
      f"{self.emitted / self.passes:.2f} tokens a teacher pass, "
      f"{self.speedup:.2f} times the speed of plain decoding (first batch)"
    )


def main(argv: Sequence[str]) -> None:
  """Reads the flags, answers every line."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.WARNING)
  compilation.keep_compiled()
  try:
    with contextlib.ExitStack() as stack:
      file = sys.stdin
      if _INPUT.value != "-":
        file = stack.enter_context(open(_INPUT.value, encoding="utf-8"))
      for text in answer_lines(file):
        print(text, flush=True)
  except (ValueError, FileNotFoundError) as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    sys.exit(130)


if __name__ == "__main__":
  app.run(main)
