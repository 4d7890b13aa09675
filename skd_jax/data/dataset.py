"""Splits as token ids: of one task, or of several one after the other.

examples -> tokenize_examples -> TokenizedSet -> join, first_examples, ...
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.structs import Example


@dataclasses.dataclass(frozen=True)
class TokenizedSet:
  """One split as token ids; len() counts the examples that are kept."""

  examples: Sequence[Example]  # The whole split.
  indices: np.ndarray  # int32 [kept]: the places of the kept ones in it.
  prompts: Sequence[np.ndarray]  # int32 [<= max_prompt_length] each.
  responses: Sequence[np.ndarray]  # int32 [<= max_new_tokens] each.
  task_id: np.ndarray  # int32 [kept]: the task of each, counted from 0.
  max_new_tokens: np.ndarray  # int32 [kept]: the limit of each response.
  max_prompt_length: int  # The limit of every prompt.
  num_too_long: int  # How many were left out, or cut; see tokenize_examples.

  def __len__(self) -> int:
    return len(self.prompts)


def tokenize_examples(
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[Example],
  *,
  prompt: str,
  max_prompt_length: int,
  max_new_tokens: int,
  task_id: int = 0,
  keep_long_references: bool = False,
  leave_out_long_prompts: bool = False,
) -> TokenizedSet:
  """Turns a split of one task into token ids.

  Args:
    tokenizer: As `skd_jax.load_tokenizer` gives it.
    examples: The split.
    prompt: The user's turn, with {source} in it.
    max_prompt_length: The most tokens of a prompt.
    max_new_tokens: The most tokens of a response, EOS included.
    task_id: The task, counted from 0.
    keep_long_references: False, for training, leaves out an example of which
      either side is too long. True, for evaluation, keeps every example: a long
      reference is cut to its first max_new_tokens ids, without EOS, which
      matter to the validation divergence only, a mean over positions; its text,
      by which answers are scored, stays whole.
    leave_out_long_prompts: In evaluation, takes examples with a long prompt out
      of the split, which then does not hold them.

  Returns:
    The kept examples in their order, and in `num_too_long` how many were left
    out (training) or have a cut reference (evaluation).

  Raises:
    ValueError: No example is kept; or, in evaluation, a prompt is too long and
      not left out.
  """
  for field, limit in (
    ("max_prompt_length", max_prompt_length),
    ("max_new_tokens", max_new_tokens),
  ):
    if limit < 1:
      raise ValueError(f"{field} = {limit}: must be at least 1")
  pairs = tokenizer_lib.encode_examples(tokenizer, examples, prompt)
  num_given = len(pairs)
  if leave_out_long_prompts:
    fits = [len(ids) <= max_prompt_length for ids, _ in pairs]
    examples = list(itertools.compress(examples, fits))
    pairs = list(itertools.compress(pairs, fits))
  indices, num_too_long = [], 0
  for number, (ids, response) in enumerate(pairs):
    long_prompt = len(ids) > max_prompt_length
    if long_prompt and keep_long_references:
      raise ValueError(
        f"example {number}: its prompt has {len(ids)} tokens; at most "
        f"max_prompt_length = {max_prompt_length} are allowed, unless "
        "long_prompts = 'leave_out'"
      )
    too_long = long_prompt or len(response) > max_new_tokens
    num_too_long += too_long
    if keep_long_references or not too_long:
      indices.append(number)
  if not indices:
    raise ValueError(
      f"none of {num_given} examples fits max_prompt_length = "
      f"{max_prompt_length} and max_new_tokens = {max_new_tokens}"
    )
  return TokenizedSet(
    examples=examples,
    indices=np.asarray(indices, np.int32),
    prompts=[pairs[i][0] for i in indices],
    responses=[pairs[i][1][:max_new_tokens] for i in indices],
    task_id=np.full(len(indices), task_id, np.int32),
    max_new_tokens=np.full(len(indices), max_new_tokens, np.int32),
    max_prompt_length=max_prompt_length,
    num_too_long=num_too_long,
  )


def join(sets: Sequence[TokenizedSet]) -> TokenizedSet:
  """The sets one after the other, as one; `indices` count on."""
  sizes = [len(one.examples) for one in sets]
  first = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
  return TokenizedSet(
    examples=[example for one in sets for example in one.examples],
    indices=np.concatenate(
      [one.indices + start for one, start in zip(sets, first, strict=True)]
    ),
    prompts=[ids for one in sets for ids in one.prompts],
    responses=[ids for one in sets for ids in one.responses],
    task_id=np.concatenate([one.task_id for one in sets]),
    max_new_tokens=np.concatenate([one.max_new_tokens for one in sets]),
    max_prompt_length=max(one.max_prompt_length for one in sets),
    num_too_long=sum(one.num_too_long for one in sets),
  )


def first_examples(tokenized: TokenizedSet, count: int) -> TokenizedSet:
  """The first `count` kept examples of each task, or all it has if fewer."""
  places = [
    np.flatnonzero(tokenized.task_id == t) for t in set(tokenized.task_id)
  ]
  return select(tokenized, np.sort(np.concatenate([p[:count] for p in places])))


def spread_examples(tokenized: TokenizedSet, count: int) -> TokenizedSet:
  """`count` kept examples, evenly spread over the split; to be looked at."""
  chosen = np.linspace(0, len(tokenized) - 1, count).astype(int)
  return select(tokenized, chosen)


def select(tokenized: TokenizedSet, chosen: np.ndarray) -> TokenizedSet:
  """Only the kept examples at the `chosen` places, in the order of these."""
  return dataclasses.replace(
    tokenized,
    indices=tokenized.indices[chosen],
    prompts=[tokenized.prompts[i] for i in chosen],
    responses=[tokenized.responses[i] for i in chosen],
    task_id=tokenized.task_id[chosen],
    max_new_tokens=tokenized.max_new_tokens[chosen],
  )


def digest(tokenized: TokenizedSet) -> str:
  """Returns the SHA-256 of the ids and limits of a split: what models see."""
  found = hashlib.sha256()
  for array in (
    tokenized.indices,
    tokenized.task_id,
    tokenized.max_new_tokens,
    *tokenized.prompts,
    *tokenized.responses,
  ):
    found.update(len(array).to_bytes(8, "little"))
    found.update(np.asarray(array, "<i4").tobytes())
  return found.hexdigest()
