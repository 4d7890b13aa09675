"""Is a method better than another? Tests whose unit is the run of a seed.

  scores by seed           paired     do the seeds agree?
  counts by seed and item  bootstrap  would other seeds and other items agree?

Both are paired: runs of one seed saw the same examples in the same order. A
score of one test set says nothing of another run, so a test over sentences
alone finds differences that the next seed does not have.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sacrebleu.metrics import BLEU
from scipy import stats

from skd_jax.evaluation import metrics as metrics_lib

# What has counts for each answer that add up. chrF has them, but sacrebleu does
# not show them; comet is scored as a whole.
COUNTED = ("bleu", *metrics_lib.MEANS)

_LEVEL = 0.95
_BLOCK = 200  # Resamples at once: [200, items] weights.


@dataclasses.dataclass(frozen=True)
class SeedTest:
  """A method less its baseline, over the seeds that both have.

  With one seed the last five are None: nothing is known of other seeds.
  """

  seeds: tuple[int, ...]  # In order.
  difference: float  # The mean over the seeds.
  low: float | None  # The 95 % confidence interval of the mean.
  high: float | None
  deviation: float | None  # Of the differences, with n - 1.
  t: float | None
  p_value: float | None  # Two-sided, of no difference.


@dataclasses.dataclass(frozen=True)
class BootstrapTest:
  """A method less its baseline, over resampled seeds and items."""

  difference: float  # As measured.
  low: float  # The 95 % percentile interval.
  high: float
  p_value: float  # Two-sided; at least 2 / (resamples + 1).


def paired(
  method: Mapping[int, float], baseline: Mapping[int, float]
) -> SeedTest:
  """Tests the differences of the common seeds with Student's t.

  Without deviation there is no t: equal scores at every seed give p = 1, and a
  difference that all seeds share to the last bit gives p = 0, t = ±inf.

  Args:
    method: the score of each seed.
    baseline: the same.

  Raises:
    ValueError: they have no seed in common.
  """
  seeds = tuple(sorted(method.keys() & baseline.keys()))
  if not seeds:
    raise ValueError(
      f"seeds = {sorted(method)} and {sorted(baseline)}: must have one in "
      "common"
    )
  differences = [method[seed] - baseline[seed] for seed in seeds]
  mean = statistics.fmean(differences)
  if len(seeds) < 2:
    return SeedTest(seeds, mean, None, None, None, None, None)
  deviation = statistics.stdev(differences)
  if deviation == 0:
    t = math.copysign(math.inf, mean) if mean else 0.0
    return SeedTest(seeds, mean, mean, mean, 0.0, t, 0.0 if mean else 1.0)
  freedom = len(seeds) - 1
  error = deviation / math.sqrt(len(seeds))
  margin = error * float(stats.t.ppf((1 + _LEVEL) / 2, freedom))
  return SeedTest(
    seeds=seeds,
    difference=mean,
    low=mean - margin,
    high=mean + margin,
    deviation=deviation,
    t=mean / error,
    p_value=2 * float(stats.t.sf(abs(mean / error), freedom)),
  )


def bootstrap(
  method: np.ndarray,
  baseline: np.ndarray,
  score: Callable[[np.ndarray], np.ndarray],
  *,
  num_resamples: int = 2000,
) -> BootstrapTest:
  """Resamples seeds and items, both with replacement, by a fixed generator.

  A resample has the same seeds and items for both, and the same items for all
  its seeds. Its value is the mean over its seeds of `score`, of the counts
  added up over its items. p is twice the share of resamples on the smaller
  side of zero. Of a few seeds prefer `paired`, as the bootstrap takes their
  spread to be smaller than it is; what seeds and items do together it counts
  more than once (Owen, The pigeonhole bootstrap, 2007).

  Args:
    method: counts [seeds, items, k].
    baseline: the same, of the same seeds and items.
    score: counts [..., k] to scores [...].
    num_resamples: how many.

  Raises:
    ValueError: the counts are of other seeds or items, or of one seed.
  """
  if method.shape != baseline.shape or method.ndim != 3 or len(method) < 2:
    raise ValueError(
      f"counts = {method.shape} and {baseline.shape}: must be one [seeds, "
      "items, k] with at least 2 seeds"
    )
  num_seeds, num_items, num_counts = method.shape
  rng = np.random.default_rng(0)
  # [items, 2 * seeds * k], floats as these have a fast product; exact for
  # counts below 2^53.
  both = np.stack([method, baseline]).astype(np.float64)
  flat = both.transpose(2, 0, 1, 3).reshape(num_items, -1)
  found = []
  for start in range(0, num_resamples, _BLOCK):
    size = min(_BLOCK, num_resamples - start)
    of_items = _weights(rng, size, num_items)
    of_seeds = _weights(rng, size, num_seeds)
    sums = (of_items @ flat).reshape(size, 2, num_seeds, num_counts)
    scores = score(sums)  # [size, 2, seeds]
    differences = scores[:, 0] - scores[:, 1]
    found.append((differences * of_seeds).sum(-1) / num_seeds)
  drawn = np.concatenate(found)
  tail = 100 * (1 - _LEVEL) / 2
  low, high = np.percentile(drawn, [tail, 100 - tail])
  smaller = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
  measured = score(both.sum(2)).mean(-1)
  return BootstrapTest(
    difference=float(measured[0] - measured[1]),
    low=float(low),
    high=float(high),
    p_value=min(1.0, 2 * (1 + int(smaller)) / (1 + num_resamples)),
  )


def _weights(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
  """Returns how often each is drawn in `count` draws: float64 [size, count]."""
  drawn = rng.multinomial(count, np.full(count, 1 / count), size=size)
  return drawn.astype(np.float64)


def item_counts(
  metric: str, answers: Sequence[str], references: Sequence[str]
) -> np.ndarray:
  """Returns what each answer adds to a score.

  Args:
    metric: of COUNTED.
    answers: one for each reference.
    references: one for each item.

  Returns:
    [items, k]. "bleu": int64, the lengths of answer and reference, then the
    matching n-grams of order 1 to 4, then all of them. The others: float64, the
    value of the answer and 1.

  Raises:
    ValueError: an unknown metric, or other answers than references.
  """
  _check(metric)
  if len(answers) != len(references):
    raise ValueError(
      f"answers = {len(answers)}: must be one for each of {len(references)} "
      "references"
    )
  answers = metrics_lib.composed(answers)
  references = metrics_lib.composed(references)
  if metric == "bleu":
    # What this option changes is the score; without it each sentence warns.
    scorer = BLEU(effective_order=True)
    scored = [
      scorer.sentence_score(answer, [reference])
      for answer, reference in zip(answers, references, strict=True)
    ]
    return np.array(
      [[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scored], np.int64
    ).reshape(len(scored), -1)
  values = metrics_lib.MEANS[metric](answers, references)
  return np.stack([np.asarray(values, np.float64), np.ones(len(values))], -1)


def score_of_counts(metric: str, counts: np.ndarray) -> np.ndarray:
  """Returns the scores of counts that were added up over items.

  That of "bleu" is sacrebleu's for the corpus, with its defaults.

  Args:
    metric: of COUNTED.
    counts: [..., k], sums of `item_counts`.

  Returns:
    float64 [...], from 0 to 100.

  Raises:
    ValueError: an unknown metric.
  """
  _check(metric)
  if metric != "bleu":
    return 100 * counts[..., 0] / counts[..., 1]
  rows = counts.reshape(-1, counts.shape[-1]).astype(np.int64).tolist()
  scores = [
    BLEU.compute_bleu(row[2:6], row[6:], *row[:2], smooth_method="exp").score
    for row in rows
  ]
  return np.array(scores, np.float64).reshape(counts.shape[:-1])


def collapsed(scores: Mapping[int, float], start: float) -> tuple[int, ...]:
  """Returns the seeds whose student was ruined, in order.

  Those are the ones that end below half of the score of the student before
  distillation. A student that is a little worse than before, or that has
  learned nothing, is none of them.

  Args:
    scores: the final score of each seed, from 0 to 100.
    start: that of the student before distillation.
  """
  return tuple(
    sorted(seed for seed, score in scores.items() if score < start / 2)
  )


def _check(metric: str) -> None:
  if metric not in COUNTED:
    raise ValueError(
      f"metric = {metric!r}: must be one of {', '.join(COUNTED)}"
    )
