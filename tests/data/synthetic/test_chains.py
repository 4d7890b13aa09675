"""Chains of sums: right step by step, held out for real, wrong on request."""

import re

import pytest

from skd_jax.data import sources
from skd_jax.data.synthetic import chains
from skd_jax.evaluation import metrics as metrics_lib

STEP = re.compile(r"(\d+)([+-]\d)=(\d+)")


@pytest.fixture(scope="module")
def splits():
  return {split: chains.load_split(split, 5) for split in chains.SPLITS}


@pytest.fixture(scope="module")
def problems(splits):
  return [example for split in splits.values() for example in split]


def steps_of(example):
  """(left, operand with its sign, result) of every step, and the answer."""
  working, answer = example["target"].split(" #### ")
  steps = [STEP.fullmatch(step) for step in working.split(";")]
  return [tuple(map(int, step.groups())) for step in steps], int(answer)


def sources_of(examples):
  return [example["source"] for example in examples]


def num_steps_of(example):
  return len(re.findall("[+-]", example["source"]))


def test_every_step_is_right_and_the_last_one_is_the_answer(problems):
  for example in problems:
    steps, answer = steps_of(example)
    assert all(left + n == result for left, n, result in steps), example
    assert steps[-1][2] == answer == eval(example["source"])
    assert metrics_lib.final_answer(example["target"]) == answer


def test_steps_take_the_operations_of_the_source_in_their_order(problems):
  for example in problems:
    steps, _ = steps_of(example)
    start = str(steps[0][0])
    assert example["source"] == start + "".join(f"{n:+d}" for _, n, _ in steps)
    assert len(steps) == 5


def test_numbers_stay_in_their_range_and_fill_it(problems):
  values = [
    value
    for example in problems
    for left, _, result in steps_of(example)[0]
    for value in (left, result)
  ]
  operands = {n for e in problems for _, n, _ in steps_of(e)[0]}
  assert set(values) == set(range(100))
  assert operands == {n for n in range(-9, 10) if n}
  # Always guessing the same result does not help.
  assert max(map(values.count, range(100))) < 0.02 * len(values)
  text = "".join(e["source"] + e["target"] for e in problems)
  assert set(text) == set("0123456789+-=;# ")


def test_splits_have_their_sizes(splits):
  assert {name: len(split) for name, split in splits.items()} == {
    "train": 20_000,
    "validation": 1_000,
    "test": 2_000,
  }


@pytest.mark.parametrize("num_steps", [2, (1, 3)])
def test_no_problem_is_twice_in_one_split_or_in_two(num_steps):
  found = [
    source
    for split in chains.SPLITS
    for source in sources_of(chains.load_split(split, num_steps))
  ]
  assert len(found) == len(set(found)) == 23_000


def test_problem_is_in_the_same_split_whatever_lengths_are_loaded(splits):
  # Of problems this short, most are drawn: a leak would show.
  train = set(sources_of(chains.load_split("train", (2, 3))))
  test = sources_of(chains.load_split("test", 2))
  assert not train.intersection(test)
  again = set(sources_of(chains.load_split("test", (1, 2))))
  assert len(again.intersection(test)) > 500


def test_lengths_of_a_range_are_drawn_equally_often():
  lengths = [num_steps_of(e) for e in chains.load_split("train", (3, 6))]
  for length in range(3, 7):
    assert lengths.count(length) == pytest.approx(5000, abs=300)
  assert set(lengths) == {3, 4, 5, 6}


def test_length_that_is_used_up_leaves_its_place_to_the_others():
  lengths = [num_steps_of(e) for e in chains.load_split("test", (1, 4))]
  assert 100 < lengths.count(1) < 300
  assert min(map(lengths.count, (2, 3, 4))) > 500


@pytest.mark.parametrize("noise", [0.25, 1.0])
def test_noise_is_the_share_of_wrong_steps_that_the_next_ones_go_on_from(
  splits, noise
):
  noisy = chains.load_split("train", 5, noise)
  assert sources_of(noisy) == sources_of(splits["train"])
  num_wrong = 0
  for example in noisy:
    steps, answer = steps_of(example)
    start = str(steps[0][0])
    assert example["source"] == start + "".join(f"{n:+d}" for _, n, _ in steps)
    results = [result for _, _, result in steps]
    assert [left for left, _, _ in steps[1:]] == results[:-1]
    assert answer == results[-1]
    assert all(0 <= result <= 99 for result in results)
    num_wrong += sum(left + n != result for left, n, result in steps)
  assert num_wrong / (5 * len(noisy)) == pytest.approx(noise, abs=0.01)


def test_long_noisy_chains_stay_in_range(monkeypatch):
  monkeypatch.setitem(chains.SPLITS, "train", 200)
  for example in chains.load_split("train", 64, 0.5):
    for left, _, result in steps_of(example)[0]:
      assert 0 <= left <= 99
      assert 0 <= result <= 99


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_references_have_no_noise(splits, split):
  assert chains.load_split(split, 5, 1.0) == splits[split]


def test_fresh_generations_agree(splits, monkeypatch):
  assert chains.load_split("test", 5) == splits["test"]
  monkeypatch.setitem(chains.SPLITS, "train", 1000)
  noisy = [chains.load_split("train", 5, 0.5) for _ in range(2)]
  assert noisy[0] == noisy[1] != splits["train"][:1000]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("dev", 5), "split = 'dev': must be one of train, validation, test"),
    (("test", 0), "num_steps = 0: must be 1 or above"),
    (("test", (0, 2)), r"num_steps = \(0, 2\): must be 1 or above"),
    (("test", (3, 2)), r"num_steps = \(3, 2\): .* the smaller number first"),
    (("test", 1), "num_steps = 1: must be 2 or above, as the 1,710 problems"),
    (("train", 5, 1.1), r"noise = 1\.1: must be in \[0, 1\]"),
    (("train", 5, -0.1), r"noise = -0\.1: must be in \[0, 1\]"),
  ],
)
def test_bad_argument_is_named(arguments, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    chains.load_split(*arguments)


def test_number_of_problems_of_one_step_is_as_the_message_says():
  assert sum(map(len, chains._ALLOWED)) == 1710


def test_chains_are_a_kind_of_source(splits):
  found = sources.load_examples("chains", "train", num_steps=5, max_examples=3)
  assert found == splits["train"][:3]
