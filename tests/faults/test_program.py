"""The functions at which the fault suite stops a run are there."""

import pytest

from tests.faults import program


@pytest.mark.parametrize("phase", program.PHASES)
def test_a_phase_begins_with_a_function_of_the_run(phase):
  assert callable(getattr(*program.owner_of(phase)))
