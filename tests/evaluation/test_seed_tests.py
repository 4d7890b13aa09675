"""Tests over seeds: against slow versions, and right under the null."""

import functools
import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from scipy import stats

from skd_jax.evaluation import metrics, seed_tests

WORDS = ("the", "a", "dog", "cat", "man", "sees", "tree", "ball", "red", "blue")


def corrupted(references, share, seed):
  rng = random.Random(seed)
  return [
    " ".join(
      rng.choice(WORDS) if rng.random() < share else word
      for word in sentence.split()
    )
    for sentence in references
  ]


@pytest.fixture(scope="module")
def references():
  rng = random.Random(0)
  return [" ".join(rng.choices(WORDS, k=9)) for _ in range(60)]


def test_paired_is_the_t_test_of_the_common_seeds():
  method = {3: 25.0, 0: 24.1, 1: 26.2, 2: 24.9, 9: 99.0}
  baseline = {0: 23.0, 1: 26.0, 2: 24.0, 3: 23.5, 8: 0.0}
  found = seed_tests.paired(method, baseline)
  seeds = (0, 1, 2, 3)
  expected = stats.ttest_rel(
    [method[s] for s in seeds], [baseline[s] for s in seeds]
  )
  interval = expected.confidence_interval(0.95)
  differences = [method[s] - baseline[s] for s in seeds]
  assert found.seeds == seeds
  assert found.difference == pytest.approx(sum(differences) / 4)
  assert found.deviation == pytest.approx(np.std(differences, ddof=1))
  assert found.t == pytest.approx(expected.statistic)
  assert found.p_value == pytest.approx(expected.pvalue)
  assert (found.low, found.high) == pytest.approx(tuple(interval))


def test_paired_turned_around_is_the_same_with_the_other_sign():
  method, baseline = {0: 2.0, 1: 4.0, 2: 4.5}, {0: 1.0, 1: 3.5, 2: 4.0}
  found, turned = (
    seed_tests.paired(method, baseline),
    seed_tests.paired(baseline, method),
  )
  assert turned.difference == -found.difference
  assert (turned.low, turned.high) == (-found.high, -found.low)
  assert turned.p_value == found.p_value


def test_what_all_runs_of_a_seed_share_does_not_widen_the_interval():
  method = {seed: 10.0 * seed + 0.1 * (seed % 2) for seed in range(6)}
  baseline = {seed: 10.0 * seed - 0.5 for seed in range(6)}
  found = seed_tests.paired(method, baseline)
  assert found.high - found.low < 0.2
  assert found.p_value < 1e-4


def test_one_seed_has_a_difference_and_no_test():
  found = seed_tests.paired({0: 3.0, 1: 1.0}, {0: 1.0, 2: 1.0})
  assert (found.seeds, found.difference) == ((0,), 2.0)
  rest = (found.low, found.high, found.deviation, found.t, found.p_value)
  assert rest == (None,) * 5
  with pytest.raises(ValueError, match=r"\[0\] and \[1\]: must have one"):
    seed_tests.paired({0: 1.0}, {1: 1.0})


def test_without_deviation_p_is_one_of_equal_scores_and_else_zero():
  same = seed_tests.paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
  assert (same.difference, same.t, same.p_value) == (0, 0, 1)
  assert (same.low, same.high) == (0, 0)
  less = seed_tests.paired({0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0})
  assert (less.difference, less.t, less.p_value) == (-2, -np.inf, 0)
  assert (less.low, less.high) == (-2, -2)


def test_p_of_paired_is_uniform_where_there_is_no_difference():
  rng = np.random.default_rng(1)
  found = [
    seed_tests.paired(
      dict(enumerate(rng.normal(size=4) + shared)),
      dict(enumerate(rng.normal(size=4) + shared)),
    )
    for shared in rng.normal(scale=5, size=(1000, 4))
  ]
  assert stats.kstest([test.p_value for test in found], "uniform").pvalue > 0.01
  covered = np.mean([test.low < 0 < test.high for test in found])
  assert 0.93 < covered < 0.97


def slow_bootstrap(method, baseline, score, num_resamples):
  """One resample after the other, item by item; the draws are the same."""
  rng = np.random.default_rng(0)
  num_seeds, num_items, _ = method.shape
  differences = []
  for start in range(0, num_resamples, 200):
    size = min(200, num_resamples - start)
    of_items, of_seeds = (
      rng.multinomial(n, [1 / n] * n, size=size) for n in (num_items, num_seeds)
    )
    for item_times, seed_times in zip(of_items, of_seeds, strict=True):
      items = [i for i, times in enumerate(item_times) for _ in range(times)]
      seeds = [s for s, times in enumerate(seed_times) for _ in range(times)]
      of_both = [
        sum(score(sum(counts[s][i] for i in items)) for s in seeds) / num_seeds
        for counts in (method, baseline)
      ]
      differences.append(of_both[0] - of_both[1])
  count = len(differences)
  below = sum(d <= 0 for d in differences)
  above = sum(d >= 0 for d in differences)
  p = min(1, 2 * (min(below, above) + 1) / (count + 1))
  return *np.percentile(differences, [2.5, 97.5]), p


def test_bootstrap_is_that_of_the_slow_version(references):
  counts = [
    np.stack(
      [
        seed_tests.item_counts("bleu", answers, references[:12])
        for answers in (
          corrupted(references[:12], share, seed) for seed in range(3)
        )
      ]
    )
    for share in (0.3, 0.4)
  ]
  score = functools.partial(seed_tests.score_of_counts, "bleu")
  found = seed_tests.bootstrap(*counts, score, num_resamples=230)
  low, high, p = slow_bootstrap(*counts, score, 230)
  assert (found.low, found.high) == pytest.approx((low, high))
  assert found.p_value == pytest.approx(p)
  measured = [
    np.mean([score(of_seed.sum(0)) for of_seed in of_arm]) for of_arm in counts
  ]
  assert found.difference == pytest.approx(measured[0] - measured[1])


def mean(counts):
  return counts[..., 0] / counts[..., 1]


def drawn(rng, of_seeds, of_items, difference=0.0, seeds=10, items=40):
  """Values [seeds, items, 2] whose mean differs by seed and by item."""
  values = (
    difference
    + of_seeds * rng.normal(size=(seeds, 1))
    + of_items * rng.normal(size=(1, items))
    + 0.1 * rng.normal(size=(seeds, items))
  )
  return np.stack([values, np.ones_like(values)], -1)


@pytest.mark.parametrize(
  ("of_seeds", "of_items"), [(1.0, 0.0), (0.0, 1.0), (0.3, 1.0)]
)
def test_bootstrap_seldom_finds_what_is_not_there(of_seeds, of_items):
  # Neither other seeds nor other items: each alone would find it often.
  rng = np.random.default_rng(2)
  found = [
    seed_tests.bootstrap(
      drawn(rng, of_seeds, of_items),
      drawn(rng, of_seeds, of_items),
      mean,
      num_resamples=300,
    )
    for _ in range(200)
  ]
  rejected = np.mean([test.p_value < 0.05 for test in found])
  # Of ten seeds their spread is taken to be 5 % smaller than it is.
  assert 0.01 < rejected < 0.13
  covered = np.mean([test.low < 0 < test.high for test in found])
  assert covered == pytest.approx(1 - rejected, abs=0.03)


def test_bootstrap_finds_what_is_there():
  rng = np.random.default_rng(3)
  found = seed_tests.bootstrap(
    drawn(rng, 0.1, 0.5, difference=1.0), drawn(rng, 0.1, 0.5), mean
  )
  assert found.low < 1 < found.high
  assert found.low > 0
  assert found.p_value == pytest.approx(2 / 2001)


def test_bootstrap_of_equal_arms_finds_nothing():
  counts = drawn(np.random.default_rng(4), 1.0, 1.0)
  found = seed_tests.bootstrap(counts, counts, mean, num_resamples=50)
  assert found == seed_tests.BootstrapTest(0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("shape", [(3, 5, 2), (2, 4, 2)])
def test_bootstrap_of_other_seeds_or_items_is_refused(shape):
  with pytest.raises(ValueError, match=r"\(2, 5, 2\) and .* must be one"):
    seed_tests.bootstrap(np.ones((2, 5, 2)), np.ones(shape), mean)
  with pytest.raises(ValueError, match="at least 2 seeds"):
    seed_tests.bootstrap(np.ones((1, 5, 2)), np.ones((1, 5, 2)), mean)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_bleu_of_summed_counts_is_that_of_the_corpus(references, share):
  answers = [*corrupted(references, share, 1)[:-2], "", "dog"]
  counts = seed_tests.item_counts("bleu", answers, references)
  assert counts.shape == (60, 10)
  assert counts.dtype == np.int64
  expected = BLEU().corpus_score(answers, [references]).score
  assert seed_tests.score_of_counts("bleu", counts.sum(0)) == expected
  both = np.stack([counts.sum(0), counts[:9].sum(0)])
  first, part = seed_tests.score_of_counts("bleu", both[None])[0]
  assert first == expected
  assert part == BLEU().corpus_score(answers[:9], [references[:9]]).score


def test_bleu_of_nothing_right_is_that_of_the_corpus():
  answers, references = ["x y", ""], ["a b c d e", "f g h i"]
  counts = seed_tests.item_counts("bleu", answers, references)
  expected = BLEU().corpus_score(answers, [references]).score
  assert seed_tests.score_of_counts("bleu", counts.sum(0)) == expected


# The metric `math` needs an extra, and formulas.
@pytest.mark.parametrize("metric", sorted({*metrics.MEANS} - {"math"}))
def test_mean_of_summed_counts_is_the_score(metric):
  references = [f"{n}+1={n + 1};{n + 1}+2={n + 3} #### {n}" for n in range(9)]
  answers = [r if n % 3 else "0+1=1;#### 7" for n, r in enumerate(references)]
  counts = seed_tests.item_counts(metric, answers, references)
  assert counts.shape == (9, 2)
  values, _ = metrics.score([metric], [""] * 9, answers, references)
  found = seed_tests.score_of_counts(metric, counts.sum(0))
  assert found == pytest.approx(values[metric])
  assert 0 < found < 100


@pytest.mark.parametrize("metric", sorted({*seed_tests.COUNTED} - {"math"}))
def test_counts_are_those_of_the_composed_form(metric):
  composed = ["M\u00e4nner \u00fcber B\u00fcsche"]
  given = ["Ma\u0308nner u\u0308ber Bu\u0308sche"]
  counts = seed_tests.item_counts(metric, given, composed)
  expected = seed_tests.item_counts(metric, composed, composed)
  np.testing.assert_array_equal(counts, expected)


def test_what_has_no_counts_is_named():
  for metric in ("chrf", "comet"):
    with pytest.raises(ValueError, match=f"'{metric}': must be one of bleu, r"):
      seed_tests.item_counts(metric, ["a"], ["a"])
    with pytest.raises(ValueError, match=f"'{metric}': must be one of bleu, r"):
      seed_tests.score_of_counts(metric, np.ones(2))
  with pytest.raises(
    ValueError, match="answers = 1: must be one for each of 2"
  ):
    seed_tests.item_counts("bleu", ["a"], ["a", "b"])


def test_collapsed_seeds_are_those_below_half_of_the_start():
  scores = {2: 9.9, 0: 30.0, 1: 10.0, 3: 0.0, 4: 19.0}
  assert seed_tests.collapsed(scores, 20.0) == (2, 3)
  # A student that knew nothing has nothing to lose.
  assert seed_tests.collapsed({0: 0.0}, 0.0) == ()
