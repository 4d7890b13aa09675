"""The embedded word problems: right, natural, and held out for real."""

import collections
import re

import pytest

from skd_jax.data import sources
from skd_jax.data.synthetic import arithmetic
from skd_jax.evaluation import metrics as metrics_lib

STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def splits():
  return {split: arithmetic.load_split(split) for split in arithmetic.SPLITS}


@pytest.fixture(scope="module")
def problems(splits):
  return [example for split in splits.values() for example in split]


def evaluate(left, sign, right):
  left, right = int(left), int(right)
  return {
    "+": left + right,
    "-": left - right,
    "*": left * right,
    "/": left / right,
  }[sign]


def test_every_step_is_right_and_the_last_one_is_the_answer(problems):
  for example in problems:
    steps = STEP.findall(example["target"])
    assert steps, example
    for left, sign, right, result in steps:
      assert evaluate(left, sign, right) == int(result), example
    assert example["target"].endswith(f" #### {steps[-1][3]}"), example
    assert metrics_lib.final_answer(example["target"]) == int(steps[-1][3])


def test_steps_use_the_numbers_of_the_question_and_earlier_results(problems):
  for example in problems:
    given = set(re.findall(r"\d+", example["source"]))
    used = set()
    for left, _, right, result in STEP.findall(example["target"]):
      assert {left, right} <= given, example
      used |= {left, right}
      given.add(result)
    # No number of the question is a decoy.
    assert set(re.findall(r"\d+", example["source"])) <= used, example


def test_splits_have_their_sizes_and_no_problem_twice(splits, problems):
  assert {name: len(split) for name, split in splits.items()} == {
    "train": 20_000,
    "validation": 1_000,
    "test": 1_000,
  }
  assert len({example["source"] for example in problems}) == len(problems)


def skeleton(example):
  """The question without the names and things, but with its numbers."""
  names = arithmetic._WOMEN + arithmetic._MEN
  words = (*arithmetic._THINGS, "he", "she", "him", "her", "He", "She")
  text = re.sub(rf"\b({'|'.join(names)})\b", "N", example["source"])
  return re.sub(rf"\b({'|'.join(words)})\b", "W", text)


def test_held_out_problems_have_numbers_that_training_does_not(splits):
  seen = {name: set(map(skeleton, split)) for name, split in splits.items()}
  assert not seen["train"] & seen["test"]
  assert not seen["train"] & seen["validation"]
  assert not seen["validation"] & seen["test"]


def test_templates_are_varied_and_evenly_used(splits):
  def kind(example):
    return re.sub(r"\d+", "#", skeleton(example))

  kinds = collections.Counter(map(kind, splits["train"]))
  assert len(kinds) == len(arithmetic._templates()) >= 25
  assert min(kinds.values()) > 300
  assert set(map(kind, splits["test"])) == set(kinds)


def test_vocabulary_is_small_and_results_are_spread(problems):
  words = {
    word
    for example in problems
    for text in example.values()
    for word in re.findall(r"[A-Za-z]+", text)
  }
  assert len(words) < 220
  results = collections.Counter(e["target"].split()[-1] for e in problems)
  assert len(results) > 80
  # Always guessing the same answer does not help.
  assert max(results.values()) < 0.06 * len(problems)


def test_text_is_well_formed(problems):
  for example in problems:
    for text in example.values():
      assert not re.search(r"  |[{}\[\]_]|\s[.,?]", text), text
      assert text == text.strip()
      assert text[0].isupper(), text
    assert example["source"].endswith("?")
    # Things are in the plural, so there are never fewer than two.
    assert not re.search(r"\b[01]\b", example["target"]), example


def test_pronouns_agree_with_the_name(problems):
  for example in problems:
    text = example["source"] + " " + example["target"]
    first = next(
      word
      for word in [*re.findall(r"\w+", example["source"]), ""]
      if word in (*arithmetic._WOMEN, *arithmetic._MEN, "")
    )
    if first in arithmetic._WOMEN:
      assert not re.search(r"\b([Hh]e|him)\b", text), text
    elif first in arithmetic._MEN:
      assert not re.search(r"\b([Ss]he|her)\b", text), text


def test_fresh_generations_agree(splits):
  assert arithmetic.load_split("test") == splits["test"]


def test_unknown_split_is_an_error():
  with pytest.raises(ValueError, match="split = 'dev': must be one of train"):
    arithmetic.load_split("dev")


def test_word_problems_are_a_kind_of_source():
  examples = sources.load_examples("arithmetic", "validation", max_examples=3)
  assert [set(example) for example in examples] == [{"source", "target"}] * 3
