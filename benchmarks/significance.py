"""Is a method better than another? sacrebleu's own test, over all seeds.

A sentence is resampled with its answers of every seed, which are no independent
sentences: three seeds do not make a test set three times as large.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

# Of each seed, the answer to every sentence.
Answers = Mapping[int, Sequence[str]]


class _Seeds:
  """Adds the counts of a sentence up over its answers of several seeds.

  sacrebleu takes a system as one answer a sentence; here it is a tuple of them.
  """

  def _extract_corpus_statistics(self, hypotheses, references):
    extract = super()._extract_corpus_statistics  # pyrefly: ignore
    per_seed = [
      extract(list(answers), references)
      for answers in zip(*hypotheses, strict=True)
    ]
    return np.sum(per_seed, axis=0).tolist()


class _Bleu(_Seeds, BLEU):
  pass


class _Chrf(_Seeds, CHRF):
  pass


METRICS = {"bleu": _Bleu, "chrf": _Chrf}


@dataclasses.dataclass(frozen=True)
class Test:
  """A method against the baseline, by one metric."""

  difference: float  # Of the scores over all common seeds.
  interval: float  # Half the 95 % confidence interval of the method's score.
  p_value: float  # Two-sided, of the difference; 1 where there is none.
  signature: str


def compare(
  baseline: Answers,
  answers: Answers,
  references: Sequence[str],
  metric: str,
) -> Test:
  """Runs sacrebleu's paired bootstrap test, 1000 resamples.

  Args:
    baseline: the answers of the baseline.
    answers: those of the method.
    references: one for each sentence.
    metric: of METRICS.

  Raises:
    ValueError: there is no common seed, or a seed lacks answers.
  """
  seeds = sorted(baseline.keys() & answers.keys())
  if not seeds:
    raise ValueError(f"seeds = {sorted(answers)}: none is the baseline's too")
  for system in (baseline, answers):
    for seed in seeds:
      if len(system[seed]) != len(references):
        raise ValueError(
          f"seed {seed} has {len(system[seed])} answers, must have "
          f"{len(references)}"
        )
  systems: Any = [
    (name, list(zip(*[system[seed] for seed in seeds], strict=True)))
    for name, system in (("baseline", baseline), ("method", answers))
  ]
  test = PairedTest(
    systems, {metric: METRICS[metric]()}, [list(references)], test_type="bs"
  )
  signatures, scores = test()
  (name,) = signatures
  results: Any = scores[name]
  first, second = results
  difference = second.score - first.score
  return Test(
    difference=float(difference),
    interval=float(second.ci),
    # sacrebleu takes no resample of equal systems as a chance difference, and
    # so gives them the least p there is.
    p_value=float(second.p_value) if difference else 1.0,
    signature=str(signatures[name]),
  )
