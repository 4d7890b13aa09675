"""Each arm of a comparison against the baselines of its group.

lines (records.py), answers  ->  run_tests  ->  tests.json

  {BASELINE: {ARM: {
    "rival": the baseline in the group of this arm,
    "score": the main metric,
    "test": {"seeds", "difference", "low", "high", "deviation", "t", "p_value"},
    "validation": the same of the last validation, or null,
    "bootstrap": {"difference", "low", "high", "p_value"}, or null}}}

What needs lines only is computed from them each time. The bootstrap needs the
answers; without them it is taken from tests.json, if it is of the same runs.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from skd_jax import grids, records
from skd_jax.evaluation import seed_tests

Test = Mapping[str, Any]  # The fields of SeedTest or BootstrapTest.


class Tested(TypedDict):
  """An arm against one baseline; see the drawing above."""

  rival: str
  score: str
  test: Test
  validation: Test | None
  bootstrap: Test | None


Tests = Mapping[str, Mapping[str, Tested]]  # By baseline and arm.


def tests_path(path: pathlib.Path) -> pathlib.Path:
  """Returns where the tests of a file of lines are."""
  return path.with_name("tests.json")


def read(path: pathlib.Path) -> Tests:
  """Reads the tests beside the lines `path`; none where there is no file."""
  beside = tests_path(path)
  if not beside.exists():
    return {}
  return json.loads(beside.read_text("utf-8"))


def choose_baselines(asked: Sequence[str], names: Sequence[str]) -> list[str]:
  """Returns what the others are tested against, as called in their groups.

  Args:
    asked: for; if nothing is, those of grids.BASELINES that are compared, or
      else the first arm.
    names: of the arms.

  Raises:
    ValueError: one that was asked for is not among the arms.
  """
  found = list(dict.fromkeys(grids.in_group(name) for name in names))
  if any(name not in found for name in asked):
    raise ValueError(
      f"--baselines={','.join(asked)}: must be of {', '.join(found)}"
    )
  usual = [name for name in grids.BASELINES if name in found]
  return list(asked) or usual or found[:1]


def run_tests(
  lines: records.Records,
  baselines: Sequence[str],
  *,
  workdir: pathlib.Path | None = None,
  kept: Tests | None = None,
) -> dict[str, dict[str, Tested]]:
  """Tests each arm against each baseline of its group, by their main metric.

  Args:
    lines: of the comparison.
    baselines: as called in their groups.
    workdir: where the answers of the runs are, if they are anywhere.
    kept: tests of before, for the bootstraps of runs whose answers are gone.

  Returns:
    As in tests.json. A pair without a common seed is left out.
  """
  arms = records.arms(lines)
  counts = {} if workdir is None else _count(lines, workdir)
  tests: dict[str, dict[str, Tested]] = {}
  for baseline in baselines:
    tests[baseline] = {}
    for name, runs in arms.items():
      rival = grids.rival(name, baseline)
      if rival == name or rival not in arms:
        continue
      tested = _test(name, runs, rival, arms[rival])
      if tested is not None:
        before = (kept or {}).get(baseline, {}).get(name)
        tested["bootstrap"] = _bootstrap(tested, name, counts) or _keep(
          tested, before
        )
        tests[baseline][name] = tested
  return tests


def final_scores(runs: records.Records) -> dict[int, float]:
  """Returns the main score of each seed; those that are not numbers left out.

  Args:
    runs: the lines of one arm.
  """
  scores = {run["seed"]: run["metrics"][run["score"]] for run in runs}
  return {seed: score for seed, score in scores.items() if score is not None}


def validation_scores(runs: records.Records) -> dict[int, float]:
  """Returns the last validation score of each seed that has one."""
  return {
    run["seed"]: run["curve"][-1][-1]
    for run in runs
    if run["curve"] and run["curve"][-1][-1] is not None
  }


def _test(
  name: str, runs: records.Records, rival: str, rivals: records.Records
) -> Tested | None:
  test = _paired(final_scores(runs), final_scores(rivals))
  if test is None:
    return None
  return {
    "rival": rival,
    "score": runs[0]["score"],
    "test": test,
    "validation": _paired(validation_scores(runs), validation_scores(rivals)),
    "bootstrap": None,
  }


def _paired(
  method: Mapping[int, float], baseline: Mapping[int, float]
) -> dict[str, Any] | None:
  if not method.keys() & baseline.keys():
    return None
  test = dataclasses.asdict(seed_tests.paired(method, baseline))
  return test | {"seeds": list(test["seeds"])}


def _count(
  lines: records.Records, workdir: pathlib.Path
) -> dict[tuple[str, int], np.ndarray]:
  """Returns the counts [items, k] of each run whose answers are here."""
  counts = {}
  for runs in records.arms(lines).values():
    for run in runs:
      if run["score"] not in seed_tests.COUNTED:
        continue
      answers = records.answers(workdir, run)
      if answers is not None:
        counts[run["method"], run["seed"]] = seed_tests.item_counts(
          run["score"], answers, records.references(workdir, run)
        )
  return counts


def _bootstrap(
  tested: Tested,
  name: str,
  counts: Mapping[tuple[str, int], np.ndarray],
) -> dict[str, Any] | None:
  """Resamples the seeds of a test; None if the answers of one are not here."""
  seeds = tested["test"]["seeds"]
  pairs = [(arm, seed) for arm in (name, tested["rival"]) for seed in seeds]
  if len(seeds) < 2 or not all(pair in counts for pair in pairs):
    return None
  method, baseline = (
    np.stack([counts[arm, seed] for seed in seeds])
    for arm in (name, tested["rival"])
  )
  score = functools.partial(seed_tests.score_of_counts, tested["score"])
  return dataclasses.asdict(seed_tests.bootstrap(method, baseline, score))


def _keep(tested: Tested, before: Tested | None) -> Test | None:
  """Returns the bootstrap of before, if it is of these very runs."""
  if before is None:
    return None
  fields = ("seeds", "difference")
  same = all(tested["test"][f] == before["test"][f] for f in fields)
  return before["bootstrap"] if same else None
