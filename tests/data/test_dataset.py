"""Splits as token ids: what is kept, cut, joined and chosen."""

import dataclasses

import numpy as np
import pytest

from skd_jax.data import dataset, input_pipeline
from skd_jax.data import tokenizer as tokenizer_lib


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  return tokenizer_lib.train_bpe(["a b c d"], 260, folder)


def tokenize(tokenizer, sizes, **kwargs):
  """One example per (prompt, response) size, in tokens."""
  # The template adds <s> and <sep>, or </s>; each word is a space and "a".
  examples = [
    {"source": " a" * ((p - 2) // 2), "target": " a" * ((r - 1) // 2)}
    for p, r in sizes
  ]
  return dataset.tokenize_examples(
    tokenizer,
    examples,
    prompt="{source}",
    max_prompt_length=10,
    max_new_tokens=11,
    **kwargs,
  )


def test_long_examples_are_left_out_of_training_and_counted(tokenizer):
  data = tokenize(tokenizer, [(12, 5), (10, 11), (4, 13), (6, 3), (14, 15)])
  assert [len(ids) for ids in data.prompts] == [10, 6]
  assert [len(ids) for ids in data.responses] == [11, 3]
  assert data.indices.tolist() == [1, 3]
  assert (len(data), data.num_too_long) == (2, 3)
  (batch,) = input_pipeline.eval_batches(data, 2)
  assert data.examples[batch.index[0]]["source"] == " a" * 4


def test_evaluation_keeps_examples_with_long_references(tokenizer):
  data = tokenize(tokenizer, [(6, 5), (4, 21)], keep_long_references=True)
  assert [len(ids) for ids in data.responses] == [5, 11]
  assert data.responses[0][-1] == tokenizer.eos_token_id
  assert data.responses[1][-1] != tokenizer.eos_token_id
  assert data.examples[1]["target"] == " a" * 10
  assert data.num_too_long == 1


def test_long_prompt_in_evaluation_is_an_error(tokenizer):
  with pytest.raises(
    ValueError, match=r"example 1: .* 12 tokens.*max_prompt_length = 10"
  ):
    tokenize(tokenizer, [(6, 5), (12, 5)], keep_long_references=True)


def test_nothing_that_fits_is_an_error(tokenizer):
  with pytest.raises(ValueError, match="none of 2 examples fits"):
    tokenize(tokenizer, [(12, 5), (6, 15)])


def make_set(task_id, size, limit):
  """Example i of a task has the prompt token 100 task_id + i."""
  return dataset.TokenizedSet(
    examples=[
      {"source": f"{task_id}.{i}", "target": "."} for i in range(size + 1)
    ],
    indices=np.arange(size, dtype=np.int32) + 1,  # The first was left out.
    prompts=[np.array([100 * task_id + i], np.int32) for i in range(size)],
    responses=[np.array([7], np.int32)] * size,
    task_id=np.full(size, task_id, np.int32),
    max_new_tokens=np.full(size, limit, np.int32),
    max_prompt_length=10 + task_id,
    num_too_long=1,
  )


def both():
  return dataset.join([make_set(0, 6, 8), make_set(1, 3, 20)])


def test_joined_sets_count_their_examples_on():
  joined = both()
  assert len(joined) == 9
  assert joined.task_id.tolist() == [0] * 6 + [1] * 3
  assert joined.indices.tolist() == [1, 2, 3, 4, 5, 6, 8, 9, 10]
  assert [joined.examples[i]["source"] for i in joined.indices[5:7]] == [
    "0.6",
    "1.1",
  ]
  assert (joined.max_prompt_length, joined.num_too_long) == (11, 2)


def test_first_examples_are_taken_of_each_task():
  first = dataset.first_examples(both(), 4)
  assert first.task_id.tolist() == [0] * 4 + [1] * 3
  assert first.indices.tolist() == [1, 2, 3, 4, 8, 9, 10]
  assert first.max_new_tokens.tolist() == [8] * 4 + [20] * 3
  assert len(first) == 7


def test_spread_examples_reach_from_the_first_to_the_last():
  spread = dataset.spread_examples(both(), 3)
  assert spread.indices.tolist() == [1, 5, 10]
  assert [ids.tolist() for ids in spread.prompts] == [[0], [4], [102]]
  assert spread.max_new_tokens.tolist() == [8, 8, 20]


def test_task_of_a_split_is_kept_row_by_row(tokenizer):
  data = tokenize(tokenizer, [(6, 5), (4, 5)], task_id=3)
  assert data.task_id.tolist() == [3, 3]
  assert data.max_new_tokens.tolist() == [11, 11]


def test_digest_is_of_what_models_see(tokenizer):
  sizes = [(4, 3), (6, 5), (8, 3)]
  data = tokenize(tokenizer, sizes)
  assert dataset.digest(data) == dataset.digest(tokenize(tokenizer, sizes))
  others = [
    tokenize(tokenizer, sizes[:2]),
    tokenize(tokenizer, [(6, 3), (4, 5), (8, 3)]),
    tokenize(tokenizer, sizes, task_id=1),
    dataset.select(data, np.array([1, 0, 2])),
    dataclasses.replace(data, prompts=data.responses, responses=data.prompts),
  ]
  digests = {dataset.digest(split) for split in [data, *others]}
  assert len(digests) == 1 + len(others)
