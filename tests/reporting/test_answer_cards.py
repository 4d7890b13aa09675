"""Which answers are shown, of many."""

import pytest

from skd_jax.reporting import answer_cards
from skd_jax.reporting.answer_cards import Answer, Example
from tests.finished_run import make_sample


def example(number, start, *students, samples=()):
  """An example of runs with one start and these scores of their students."""
  answers = [
    Answer(f"run {i}", model, model, "x", score)
    for i, after in enumerate(students)
    for model, score in {"student_init": start, "student": after}.items()
  ]
  return Example(number, "", "chrF", "p", "r", answers, samples)


def in_filter(cards, name):
  """The numbers of the cards of a filter, in its order."""
  ranks = {c.ranks[name]: c.example.number for c in cards if name in c.ranks}
  assert sorted(ranks) == list(range(len(ranks)))
  return [ranks[rank] for rank in sorted(ranks)]


def test_hardest_are_those_with_the_lowest_scores():
  scores = [(7 * n) % 100 for n in range(100)]
  cards = answer_cards.choose([example(n, 0, s) for n, s in enumerate(scores)])
  assert [scores[n] for n in in_filter(cards, "hardest")] == list(range(20))
  assert in_filter(cards, "regressed") == []


def test_regression_in_one_run_is_one():
  worse, level = example(1, 50, 90, 10), example(2, 50, 50)
  better = example(3, 50, 60, 70)
  cards = answer_cards.choose([better, level, worse])
  assert in_filter(cards, "regressed") == [1]
  assert worse.gain == -40
  # The mean over the runs: 50, 50 and 65; of equals the first in the split.
  assert in_filter(cards, "hardest") == [2, 1, 3]


def test_most_corrected_are_by_share_of_all_kept_rollouts():
  kept = {1: (1, 0), 2: (4, 3), 3: (0, 0), 4: (2, 3)}
  examples = [
    example(n, 0, 1, samples=[("", make_sample("p", 0, c)) for c in counts])
    for n, counts in kept.items()
  ]
  cards = answer_cards.choose(examples)
  assert in_filter(cards, "corrected") == [2, 4, 1]
  assert examples[1].replaced == 7 / 8


def test_of_many_examples_some_are_shown_over_the_whole_split():
  examples = [example(n, 0, 0 if n < 500 else 1) for n in range(1000)]
  shown = [card.example.number for card in answer_cards.choose(examples)]
  assert shown == [*range(20), *range(50, 1000, 50)]


def test_answers_that_are_one_share_a_row():
  rows = example(1, 0, 1, 2).rows
  assert [name for name, _ in rows] == [
    "student_init, student_init",
    "student, student",
  ]


def test_one_answer_has_no_interval():
  (table,) = answer_cards.score_tables([example(1, 20, 30)])
  assert [row[1:] for row in table.rows] == [["20.00", ""], ["30.00", "+10.00"]]
  assert answer_cards.score_tables([]) == []


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21])
def test_of_few_examples_all_are_shown(count):
  cards = answer_cards.choose([example(n, 0, 1) for n in range(count)])
  assert len(cards) == count
