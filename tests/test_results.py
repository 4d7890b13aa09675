"""What a run leaves for people is of the seeds that it is asked for."""

import json
import shutil

import pytest

from skd_jax import experiment, results
from skd_jax.reporting import report
from tests import tiny_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return tiny_run.finish(tmp_path_factory)


def result_of(workdir, stage):
  record = (workdir / "stages" / f"{stage}.json").read_text("utf-8")
  return json.loads(record)["result"]


def entry_of(workdir, seed):
  """What train.train_and_evaluate has of a seed of a finished run."""
  names = {"student": f"distill_seed_{seed}"}
  names |= {name: name for name in ("teacher", "student_init")}
  scores = {m: result_of(workdir, f"evaluate_{n}") for m, n in names.items()}
  totals = {"student": result_of(workdir, f"distill_seed_{seed}")}
  return {"seed": seed, "scores": scores, "totals": totals}


def test_report_shows_the_seeds_that_are_asked_for_alone(
  finished, tmp_path, monkeypatch
):
  shutil.copytree(finished, tmp_path / "w")
  for seed in (0, 1):
    line = {"stage": "distill", "seed": seed, "step": 6, "warning_inert": 1}
    line |= {"replacement_rate": 0.0, "accepted_per_round": 3.0}
    with (tmp_path / "w" / "metrics.jsonl").open("a") as file:
      file.write(json.dumps(line) + "\n")
  drawn = []
  monkeypatch.setattr(
    report, "plot_history", lambda lines, *_: drawn.append(list(lines))
  )
  for seeds in ((0, 1), (1,), (0,)):
    config = tiny_run.config(finished.parent / "data")
    config.seeds = seeds
    opened = experiment.open_experiment(config, tmp_path / "w")
    entries = [entry_of(finished, seed) for seed in seeds]
    found = results.write(
      opened,
      entries,
      {"teacher": {}, "student_init": {}},
      clock_seconds=1.0,
      command="",
    )
    assert [entry["seed"] for entry in found["per_seed"]] == list(seeds)
    lines = [line for line in drawn[-1] if line["stage"] == "distill"]
    assert {line["seed"] for line in lines} == set(seeds)
    # The seed of the teacher and of the start is another one.
    assert {"teacher", "student_init"} < {x["stage"] for x in drawn[-1]}
    inert = [text for text in found["warnings"] if "inert" in text]
    assert [text[:15] for text in inert] == [
      f"distill, seed {s}" for s in seeds
    ]
    # Rollouts are kept of the first seed of the finished run, which is 0.
    page = (tmp_path / "w" / "report.html").read_text("utf-8")
    assert ('<p class="response">' in page) == (0 in seeds)
