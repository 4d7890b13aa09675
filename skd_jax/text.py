"""Text in, text out: a model answers lines, with a drafter or alone.

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
from skd_jax.decoding import (
  draft_lengths,
  draft_stats,
  sampling,
  speculative,
  stopping,
)
from skd_jax.decoding import rollout as rollout_lib
from skd_jax.decoding.drafters import Drafter, ModelDrafter
from skd_jax.decoding.policy import Policy
from skd_jax.models.config import EncoderDecoderConfig
from skd_jax.models.loading import LoadedModel

DecodeFn = Callable[..., structs.Rollout]


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


@dataclasses.dataclass(frozen=True)
class TimedBatches:
  """The batches that were decoded both ways, in turns, compilation left out.

  num_batches: how many.
  num_tokens: of their answers.
  seconds: with the drafter.
  alone_seconds: without it.
  """

  num_batches: int = 0
  num_tokens: int = 0
  seconds: float = 0.0
  alone_seconds: float = 0.0

  @property
  def tokens_per_second(self) -> float:
    """With the drafter; 0 before a batch is timed."""
    return self.num_tokens / self.seconds if self.seconds else 0.0

  @property
  def speedup(self) -> float:
    """Over plain decoding; 0 before a batch is timed."""
    return self.alone_seconds / self.seconds if self.seconds else 0.0


@dataclasses.dataclass
class TextGenerator:
  """Answers lines with a model, in batches.

  model: the model that answers.
  tokenizer: of the model.
  draft: what drafts for the model (lossless speculative decoding): the same
    greedy answers, or answers of the same distribution, in fewer passes of the
    model. A smaller model of the same vocabulary, such as a student, or some
    layers of the model (`prune_layers`); or `PromptLookup()`, whose answers are
    the same at any temperature.
  max_new_tokens: the most tokens of an answer; 0: half of what the model reads,
    at most 256.
  temperature: 0 is greedy.
  top_p: nucleus mass, in (0, 1].
  stop_strings: texts that end an answer, besides EOS.
  prompt: the user's turn, with {source} in it.
  seed: of the draws; line n has draws of its own.
  batch_size: lines answered at once.
  num_draft_tokens: G, with a draft. If the answers do not depend on it, the
    first batch measures what drafts cost and how much of them is accepted, and
    later batches draft fewer tokens, or none, where more do not pay. What that
    brings is measured over the whole input: batches 1, 2, 4, 8 ... are decoded
    without the draft as well.
  eos_ids: ids that end an answer; None: those of the tokenizer.
  """

  model: LoadedModel
  tokenizer: tokenizer_lib.Tokenizer
  draft: LoadedModel | Drafter | None = None
  max_new_tokens: int = 0
  temperature: float = 0.0
  top_p: float = 1.0
  stop_strings: Sequence[str] = ()
  prompt: str = "{source}"
  seed: int = 0
  batch_size: int = 32
  num_draft_tokens: int = 4
  eos_ids: Sequence[int] | None = None
  stats: draft_stats.DraftStats = dataclasses.field(
    default=draft_stats.DraftStats(), init=False
  )
  timed: TimedBatches = dataclasses.field(default=TimedBatches(), init=False)
  num_batches: int = dataclasses.field(default=0, init=False)
  costs: dict[str, float] = dataclasses.field(default_factory=dict, init=False)

  def __post_init__(self):
    reader, longest = "model", self.model.config.max_position_embeddings
    if isinstance(self.draft, LoadedModel):
      check_draft(self.draft, self.model)
      if self.draft.config.max_position_embeddings < longest:
        reader, longest = "draft", self.draft.config.max_position_embeddings
    self._longest = longest
    if self.max_new_tokens == 0:
      self.max_new_tokens = min(longest // 2, 256)
    if not 1 <= self.max_new_tokens < longest:
      raise ValueError(
        f"max_new_tokens = {self.max_new_tokens}: must be in [1, "
        f"{longest - 1}], as the {reader} reads {longest} tokens, the prompt "
        "included"
      )
    for name in ("batch_size", "num_draft_tokens"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
    if isinstance(self.draft, LoadedModel):
      self._drafter = ModelDrafter(self._policy(self.draft))
    else:
      self._drafter = self.draft
    self._plain, self._speculate = self._make_decode_fns()

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
    self._check_prompts(prompts)
    batch = make_prompt_batch(
      dict(zip((first + row for row in filled), prompts, strict=True)),
      self.batch_size,
      self._longest - self.max_new_tokens,
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

  def _check_prompts(self, prompts: Sequence[np.ndarray]) -> None:
    """An encoder must have a token to read beside those of the decoder."""
    config = self.model.config
    if not isinstance(config, EncoderDecoderConfig):
      return
    shortest = min(map(len, prompts))
    if shortest <= config.decoder_prompt_size:
      raise ValueError(
        f"a prompt has {shortest} tokens: must have at least "
        f"{config.decoder_prompt_size + 1}, of which the decoder starts from "
        "the last"
      )

  def _decode(self, batch: structs.Batch) -> structs.Rollout:
    """Decodes a batch and counts it; a few are also timed with a draft."""
    if self._drafter is None:
      return jax.device_get(self._plain(batch))
    self.num_batches += 1
    if self.num_batches.bit_count() == 1:  # 1, 2, 4, 8 ...
      rollout = self._decode_in_turns(batch, self._drafter)
    else:
      rollout = jax.device_get(self._speculate(batch, self._adaptation()))
    self.stats += draft_stats.count(rollout, self.num_draft_tokens)
    return rollout

  def _decode_in_turns(
    self, batch: structs.Batch, drafter: Drafter
  ) -> structs.Rollout:
    """Decodes a batch with and without the drafter, and adds up the times."""
    adaptation = self._adaptation()
    alone_seconds, alone = _timed(lambda: self._plain(batch))
    seconds, rollout = _timed(lambda: self._speculate(batch, adaptation))
    self.timed = TimedBatches(
      self.timed.num_batches + 1,
      self.timed.num_tokens + int(np.sum(rollout.length)),
      self.timed.seconds + seconds,
      self.timed.alone_seconds + alone_seconds,
    )
    # Else shorter drafts would have other answers, and times decide of them.
    same = speculative.same_responses(drafter, self._policy(self.model))
    if same and self.num_batches == 1:
      # To decode is to read weights: a pass costs as many as it reads.
      drafts = _num_weights(drafter.policy.params) if drafter.policy else 0
      self.costs = draft_lengths.measured_costs(
        alone_seconds / np.max(alone.length),
        seconds / np.max(rollout.num_rounds),
        self.num_draft_tokens,
        draft_cost=drafts / _num_weights(self.model.params),
      )
    return rollout

  def _adaptation(self) -> dict[str, float]:
    """Returns how drafts adapt, once the first batch has been timed."""
    expectations = self.stats.expectations
    if not self.costs or not expectations:
      return dict(draft_lengths.FULL_DRAFTS)
    return {**self.costs, **expectations}

  def _make_decode_fns(self) -> tuple[DecodeFn, DecodeFn]:
    """Returns what decodes a batch: the model alone, and with the drafter.

    The second takes how drafts adapt as well.
    """
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

    def keys(batch):
      key = jax.random.key(self.seed)
      return jax.vmap(lambda i: jax.random.fold_in(key, i))(batch.index)

    @jax.jit
    def plain(policy, batch):
      return rollout_lib.decode(
        policy,
        batch,
        keys(batch),
        stop_table,
        max_new_tokens=self.max_new_tokens,
        source=structs.TEACHER,
      )

    @jax.jit
    def speculate(policy, drafter, batch, adaptation):
      return speculative.speculative_decode(
        drafter,
        policy,
        batch,
        keys(batch),
        stop_table,
        num_draft_tokens=self.num_draft_tokens,
        max_new_tokens=self.max_new_tokens,
        **adaptation,
      )

    policy = self._policy(self.model)
    return (
      functools.partial(plain, policy),
      functools.partial(speculate, policy, self._drafter),
    )

  def _policy(self, model: LoadedModel) -> Policy:
    how = sampling.Sampling(self.temperature, self.top_p)
    return Policy(model.params, model.model, how)

  def summary(self) -> str:
    """Returns in one line what drafting brought; "" without a draft."""
    stats, timed = self.stats, self.timed
    if not stats.rounds:
      return ""
    by_position = ", ".join(f"{x:.0%}" for x in stats.acceptance_by_position)
    return (
      f"Drafts: {stats.acceptance:.0%} of the judged tokens accepted (by "
      f"position {by_position or 'none'}), {stats.tokens_per_pass:.2f} tokens "
      f"per teacher pass; {timed.tokens_per_second:.0f} tokens per second, "
      f"{timed.speedup:.2f} times the speed of plain decoding, by "
      f"{timed.num_batches} of {self.num_batches} batches"
    )


def _num_weights(params: structs.Params) -> int:
  """Returns how many numbers the weights of a model are."""
  return sum(x.size for x in jax.tree.leaves(params))


def check_draft(draft: LoadedModel, model: LoadedModel) -> None:
  """Checks that a model can draft for another.

  Raises:
    ValueError: its vocabulary is another, or it is larger.
  """
  size, expected = draft.config.vocab_size, model.config.vocab_size
  if size != expected:
    raise ValueError(
      f"draft: its vocabulary has {size} tokens, must be {expected} as the "
      "model's"
    )
  weights, most = _num_weights(draft.params), _num_weights(model.params)
  if weights > most:
    raise ValueError(
      f"draft: it has {weights:,} weights, must have at most the {most:,} of "
      "the model"
    )


def _timed(
  decode: Callable[[], structs.Rollout],
) -> tuple[float, structs.Rollout]:
  """Returns what a batch takes, compilation left out, and the responses."""
  jax.block_until_ready(decode())
  start_time = time.perf_counter()
  rollout = jax.device_get(decode())
  return time.perf_counter() - start_time, rollout
