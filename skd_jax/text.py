"""Text in, text out: a model answers lines, with a drafting student or alone.

TextGenerator(model, tokenizer).answers(lines) -> answers, one by one
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from skd_jax import structs
from skd_jax.data import stop_strings as stop_strings_lib
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.data.prompts import make_prompt_batch
from skd_jax.decoding import rollout as rollout_lib
from skd_jax.decoding import sampling, speculative, stopping
from skd_jax.decoding.policy import Policy
from skd_jax.models.loading import LoadedModel
from skd_jax.training import rollout_stats

DecodeFn = Callable[[structs.Batch], structs.Rollout]


def generate(
  lines: Iterable[str],
  model: LoadedModel,
  tokenizer: tokenizer_lib.Tokenizer,
  **options,
) -> Iterator[str]:
  """Answers lines of text, one by one.

    model = skd_jax.load_model(folder)
    tokenizer = skd_jax.load_tokenizer(folder)
    print(*skd_jax.generate(["Hallo."], model, tokenizer))

  Args:
    lines: what to answer; read a batch at a time, so a stream will do.
    model: from load_model.
    tokenizer: from load_tokenizer.
    **options: fields of `TextGenerator`: draft, max_new_tokens, temperature,
      top_p, stop_strings, prompt, seed, batch_size, num_draft_tokens, eos_ids.

  Yields:
    The answers in order; an empty line gives an empty answer.

  Raises:
    ValueError: an option is out of range, or a prompt leaves no room.
  """
  return TextGenerator(model, tokenizer, **options).answers(lines)


@dataclasses.dataclass
class TextGenerator:
  """Answers lines with a model, in batches.

  model: answers.
  tokenizer: of the model.
  draft: a student that drafts for the model (lossless speculative decoding):
    the same greedy answers, or answers of the same distribution, in fewer
    passes of the model. It must have the vocabulary of the model.
  max_new_tokens: the most tokens of an answer; 0: half of what the model reads,
    at most 256.
  temperature: 0 is greedy.
  top_p: nucleus mass, in (0, 1].
  stop_strings: texts that end an answer, besides EOS.
  prompt: the user's turn, with {source} in it.
  seed: of the draws; line n has draws of its own.
  batch_size: lines answered at once.
  num_draft_tokens: G, with a draft.
  eos_ids: ids that end an answer; None: those of the tokenizer.
  """

  model: LoadedModel
  tokenizer: tokenizer_lib.Tokenizer
  draft: LoadedModel | None = None
  max_new_tokens: int = 0
  temperature: float = 0.0
  top_p: float = 1.0
  stop_strings: Sequence[str] = ()
  prompt: str = "{source}"
  seed: int = 0
  batch_size: int = 32
  num_draft_tokens: int = 4
  eos_ids: Sequence[int] | None = None
  stats: rollout_stats.RolloutStats = dataclasses.field(
    default_factory=rollout_stats.RolloutStats, init=False
  )
  speedup: float = dataclasses.field(default=0.0, init=False)

  def __post_init__(self):
    longest = self.model.config.max_position_embeddings
    if self.max_new_tokens == 0:
      self.max_new_tokens = min(longest // 2, 256)
    if not 1 <= self.max_new_tokens < longest:
      raise ValueError(
        f"max_new_tokens = {self.max_new_tokens}: must be in [1, "
        f"{longest - 1}], as the model reads {longest} tokens, the prompt "
        "included"
      )
    for name in ("batch_size", "num_draft_tokens"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
    vocab_size = self.model.config.vocab_size
    if self.draft and self.draft.config.vocab_size != vocab_size:
      raise ValueError(
        f"draft: its vocabulary has {self.draft.config.vocab_size} tokens, "
        f"must be {vocab_size} as the model's"
      )
    self._decode_fns = self._make_decode_fns()

  def answers(self, lines: Iterable[str]) -> Iterator[str]:
    """Yields the answer to each line, in order."""
    first, iterator = 0, iter(lines)
    while chunk := [
      line.strip() for line in itertools.islice(iterator, self.batch_size)
    ]:
      yield from self._answer_chunk(chunk, first)
      first += len(chunk)

  def _answer_chunk(self, chunk: Sequence[str], first: int) -> list[str]:
    filled = [row for row, line in enumerate(chunk) if line]
    texts = [""] * len(chunk)
    if not filled:
      return texts
    prompts = tokenizer_lib.encode_prompts(
      self.tokenizer, [chunk[row] for row in filled], self.prompt
    )
    batch = make_prompt_batch(
      dict(zip((first + row for row in filled), prompts, strict=True)),
      self.batch_size,
      self.model.config.max_position_embeddings - self.max_new_tokens,
      self.max_new_tokens,
    )
    rollout = self._decode(batch)
    ids = [
      np.asarray(rollout.tokens[i, : rollout.length[i]])
      for i in range(len(filled))
    ]
    decoded = tokenizer_lib.decode(self.tokenizer, ids)
    for row, text in zip(filled, decoded, strict=True):
      for stop in self.stop_strings:
        text = text.split(stop)[0]
      texts[row] = " ".join(text.split())
    return texts

  def _decode(self, batch: structs.Batch) -> structs.Rollout:
    """Decodes a batch and counts it; the first is also timed with a draft."""
    if self.draft is None:
      return jax.device_get(self._decode_fns["plain"](batch))
    decode = self._decode_fns["speculative"]
    if not self.stats.rounds:
      seconds = {n: _seconds(fn, batch) for n, fn in self._decode_fns.items()}
      self.speedup = seconds["plain"] / seconds["speculative"]
    rollout = jax.device_get(decode(batch))
    self.stats += rollout_stats.count(rollout)
    return rollout

  def _make_decode_fns(self) -> dict[str, DecodeFn]:
    """Returns {"plain": by the model alone} and, drafted, "speculative"."""
    vocab_size = self.model.config.vocab_size
    eos_ids = self.eos_ids
    if eos_ids is None:
      eos_ids = tokenizer_lib.eos_ids(self.tokenizer)
    stop_table = stopping.make_stop_table(
      vocab_size,
      eos_ids,
      [text.encode() for text in self.stop_strings],
      stop_strings_lib.token_bytes(self.tokenizer, vocab_size)
      if self.stop_strings
      else None,
    )
    how = sampling.Sampling(self.temperature, self.top_p)

    def keys(batch):
      key = jax.random.key(self.seed)
      return jax.vmap(lambda i: jax.random.fold_in(key, i))(batch.index)

    @jax.jit
    def plain(params, batch):
      return rollout_lib.decode(
        Policy(params, self.model.model, how),
        batch,
        keys(batch),
        stop_table,
        max_new_tokens=self.max_new_tokens,
      )

    found: dict[str, DecodeFn] = {
      "plain": functools.partial(plain, self.model.params)
    }
    draft = self.draft
    if draft is None:
      return found

    @jax.jit
    def speculate(params, draft_params, batch):
      return speculative.speculative_decode(
        Policy(draft_params, draft.model, how),
        Policy(params, self.model.model, how),
        batch,
        keys(batch),
        stop_table,
        num_draft_tokens=self.num_draft_tokens,
        max_new_tokens=self.max_new_tokens,
      )

    found["speculative"] = functools.partial(
      speculate, self.model.params, draft.params
    )
    return found

  def summary(self) -> str:
    """Returns in one line what drafting brought; "" without a draft."""
    if not self.stats.rounds:
      return ""
    accepted = self.stats.emitted - self.stats.replaced
    share = accepted / (self.stats.rounds * self.num_draft_tokens)
    return (
      f"Drafts: {share:.0%} of the tokens accepted, "
      f"{self.stats.emitted / self.stats.rounds:.2f} tokens per teacher pass, "
      f"{self.speedup:.2f} times the speed of plain decoding (first batch)"
    )


def _seconds(decode: DecodeFn, batch: structs.Batch) -> float:
  """Returns what a batch takes, compilation left out."""
  jax.block_until_ready(decode(batch))
  start_time = time.perf_counter()
  jax.block_until_ready(decode(batch))
  return time.perf_counter() - start_time
