"""The cost of a step of each method, all in turns."""

import jax
import pytest

from skd_jax import comparison, comparison_runs, grids
from skd_jax.parallel import sharding
from tests import command_lines, tiny_run

method_cost = command_lines.load(
  "benchmarks.speed.method_cost", keep_flags=False
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run, whose teacher and start are compared from."""
  return tiny_run.finish(tmp_path_factory)


@pytest.mark.slow
def test_steps_of_methods_are_timed_in_turns(finished, tmp_path, monkeypatch):
  names = ["on_policy_kd", "skd", "skd_k1", "random"]
  asked = comparison.open_comparison(
    tiny_run.from_finished(finished), tmp_path, methods=names
  )
  turns = []
  generate_responses = method_cost.generation.generate_responses

  def watched(spec, *arguments):
    *_, step = arguments
    turns.append((spec.mode, spec.rule.accept, step))
    return generate_responses(spec, *arguments)

  monkeypatch.setattr(method_cost.generation, "generate_responses", watched)
  with jax.set_mesh(sharding.make_mesh(**asked.config.mesh)):
    prepared = comparison_runs.prepare(asked, grids.Start())
    rows = method_cost.make_rows(prepared, names, 2)
  on_policy, skd, first_only, control = rows
  assert on_policy["ratio_to_on_policy_kd"] == 1
  assert on_policy["replacement_rate"] is None
  # The rollout of SKD has verified what the others have to show the teacher.
  assert on_policy["verify"] > 0
  assert skd["verify"] == 0
  # The top 25 of this teacher are nearly all that its student proposes.
  assert (skd["replacement_rate"] or 0) < first_only["replacement_rate"]
  assert (control["replacement_rate"] or 0) < 0.1
  # Compiled one by one, then in turns, at the first and the last step.
  assert [step for *_, step in turns] == [0, 5] * 4 + [0] * 4 + [5] * 4
  assert turns[8:12] == turns[0:8:2]
