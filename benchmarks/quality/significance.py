"""Is a method better than another? sacrebleu's own test, over all seeds.

A sentence is resampled with its answers of every seed, which are no independent
sentences: three seeds do not make a test set three times as large.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric, Score, Signature
from sacrebleu.significance import PairedTest

from skd_jax.evaluation import metrics as metrics_lib

# Of each seed, the answer to every sentence.
Answers = Mapping[int, Sequence[str]]


class _Seeds:
  """Adds the counts of a sentence up over its answers of several seeds.

  sacrebleu takes a system as one answer a sentence; here it is a tuple of them.
  Counting is nearly all the time of a test, and each method is tested against
  several baselines: what was counted is kept. Of one set of references.
  """

  def __init__(self) -> None:
    super().__init__()
    self._counts: dict[tuple[str, ...], list[list[float]]] = {}

  def _extract_corpus_statistics(self, hypotheses, references):
    extract = super()._extract_corpus_statistics  # pyrefly: ignore
    seeds = list(zip(*hypotheses, strict=True))
    for answers in seeds:
      if answers not in self._counts:
        self._counts[answers] = extract(list(answers), references)
    return np.sum([self._counts[answers] for answers in seeds], axis=0).tolist()


class _Bleu(_Seeds, BLEU):
  pass


class _Chrf(_Seeds, CHRF):
  pass


class _Mean(_Seeds, Metric):
  """A mean over sentences, as a metric of sacrebleu: [sum, how many]."""

  def __init__(self, name: str) -> None:
    super().__init__()
    self._name = name

  def _preprocess_segment(self, sent):
    return sent

  def _extract_reference_info(self, refs):
    return {"reference": refs[0]}

  def _compute_segment_statistics(self, hypothesis, ref_kwargs):
    values, _ = metrics_lib.score(
      [self._name], [""], [hypothesis], [ref_kwargs["reference"]]
    )
    return [values[self._name], 1.0]

  def _compute_score_from_stats(self, stats):
    return Score(self._name, stats[0] / stats[1])

  def _aggregate_and_compute(self, stats):
    return self._compute_score_from_stats(np.sum(stats, axis=0))

  def get_signature(self):
    return Signature({"num_refs": 1})


METRICS: Mapping[str, Callable[[], Metric]] = {
  "bleu": _Bleu,
  "chrf": _Chrf,
  "accuracy": functools.partial(_Mean, "accuracy"),
  "rougeL": functools.partial(_Mean, "rougeL"),
}


# Trials of the test, resamples of the interval.
_NUM_TRIALS = 5000
_NUM_RESAMPLES = 1000


class Test(TypedDict):
  """A method against the baseline, by one metric."""

  seeds: list[int]  # That both have.
  difference: float  # Of the scores over these seeds.
  low: float  # The 95 % confidence interval of the difference.
  high: float
  p_value: float  # Two-sided, of no difference.
  signature: str


def compare(
  answers: Mapping[str, Answers],
  rivals: Mapping[str, Mapping[str, str]],
  references: Sequence[str],
  metrics: Sequence[str],
) -> dict[str, dict[str, dict[str, Test]]]:
  """Tests methods against others, sentence by sentence.

  p is sacrebleu's paired approximate randomization: how often are systems at
  least as far apart that swap their answers to every second sentence, drawn by
  lot? (Its bootstrap test gives half of that, as it is one-sided.) The interval
  is a paired bootstrap: both systems on the same resampled sentences.

  Args:
    answers: of each method.
    rivals: {name of a baseline: {method: which method it is tested against}}.
    references: one for each sentence.
    metrics: of METRICS.

  Returns:
    {baseline: {method: {metric: Test}}}, of those that have a common seed with
    their rival.

  Raises:
    ValueError: a seed lacks answers.
  """
  scorers = {name: METRICS[name]() for name in metrics}
  return {
    baseline: {
      name: {
        metric: _compare(
          answers[rival], answers[name], references, metric, scorer
        )
        for metric, scorer in scorers.items()
      }
      for name, rival in pairs.items()
      if answers[name].keys() & answers[rival].keys()
    }
    for baseline, pairs in rivals.items()
  }


def _compare(
  baseline: Answers,
  answers: Answers,
  references: Sequence[str],
  metric: str,
  scorer: Metric,
) -> Test:
  seeds = sorted(baseline.keys() & answers.keys())
  for system in (baseline, answers):
    for seed in seeds:
      if len(system[seed]) != len(references):
        raise ValueError(
          f"seed {seed} has {len(system[seed])} answers, must have "
          f"{len(references)}"
        )
  both = [
    list(zip(*[system[seed] for seed in seeds], strict=True))
    for system in (baseline, answers)
  ]
  systems: Any = list(zip(("baseline", "method"), both, strict=True))
  test = PairedTest(
    systems,
    {metric: scorer},
    [list(references)],
    test_type="ar",
    n_samples=_NUM_TRIALS,
  )
  signatures, found = test()
  (name,) = signatures
  results: Any = found[name]
  first, second = results
  difference = second.score - first.score
  counts = [
    np.asarray(scorer._extract_corpus_statistics(system, [list(references)]))
    for system in both
  ]
  low, high = _interval(*counts, scorer)
  return Test(
    seeds=seeds,
    difference=float(difference),
    low=low,
    high=high,
    # sacrebleu takes no trial of equal systems as a chance difference, and so
    # gives them the least p there is.
    p_value=float(second.p_value) if difference else 1.0,
    signature=str(signatures[name]),
  )


def _interval(
  baseline: np.ndarray, method: np.ndarray, scorer: Metric
) -> tuple[float, float]:
  """Returns the 95 % interval of the difference; counts [sentences, counts]."""

  def score(counts):
    return scorer._compute_score_from_stats(counts).score

  sentences = len(baseline)
  drawn = np.random.default_rng(0).integers(
    sentences, size=(_NUM_RESAMPLES, sentences)
  )
  differences = [
    score(method[rows].sum(0)) - score(baseline[rows].sum(0)) for rows in drawn
  ]
  low, high = np.percentile(differences, [2.5, 97.5])
  return float(low), float(high)
