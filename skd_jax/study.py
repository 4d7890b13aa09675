"""A study: a question, and all that is fixed before a run answers it.

A study is a file, committed before it is run, with the settings of its runs and
what is asked of them:

  def get_config() -> ml_collections.ConfigDict: ...   as in configs/
  STUDY = study.Study(name="few_prompts", question=..., arms={...}, ...)

  python -m skd_jax.compare --study=FILE --workdir=WORKDIR

The same command again continues, on this machine or on several at once.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from skd_jax import grids


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to distil.

  method: a name of methods.METHODS.
  changes: of settings, by dotted names, on top of the method.
  control_of: of the method `random`, the arm whose replaced tokens it places
    blindly.
  same: what a control has as many of, see grids.Variant.
  """

  method: str
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  control_of: str | None = None
  same: str = "replaced"


@dataclasses.dataclass(frozen=True)
class Study:
  """What is compared, on what, how often, and what decides.

  name: of its folder.
  question: that the study answers.
  regimes: changes of settings by regime; the student's start is trained anew in
    each. Of one regime, {"": {}} will do.
  arms: by name.
  baselines: the arms that the others are tested against.
  seeds: how many runs of each arm in each regime.
  metric: of the test split; what decides.
  stopping: when the study ends, and what is chosen by the validation split.
  alpha: below which p a difference counts.
  first_seed: the runs have this seed, the next, ... A study that confirms what
    another has shown needs seeds that the other did not have.
  """

  name: str
  question: str
  regimes: Mapping[str, Mapping[str, Any]]
  arms: Mapping[str, Arm]
  baselines: Sequence[str]
  seeds: int
  metric: str
  stopping: str
  alpha: float = 0.01
  first_seed: int = 0

  def __post_init__(self):
    if self.seeds < 1:
      raise ValueError(f"seeds = {self.seeds}: must be 1 or above")
    if self.first_seed < 0:
      raise ValueError(f"first_seed = {self.first_seed}: must be 0 or above")
    if not 0 < self.alpha < 1:
      raise ValueError(f"alpha = {self.alpha}: must be in (0, 1)")
    for field in ("regimes", "arms", "baselines"):
      if not getattr(self, field):
        raise ValueError(f"{field} = {getattr(self, field)}: must have one")
    for name in [*self.regimes, *self.arms]:
      if "," in name:
        raise ValueError(f"{name!r}: must have no comma")
    for name in self.baselines:
      self._check_arm(name, "baselines has")
    for name, arm in self.arms.items():
      if arm.control_of is not None:
        self._check_arm(arm.control_of, f"arms.{name}.control_of =")

  def _check_arm(self, name: str, where: str) -> None:
    if name not in self.arms:
      raise ValueError(f"{where} {name!r}: must be of {', '.join(self.arms)}")

  def only(self, regimes: Sequence[str]) -> "Study":
    """Returns the study of some of its regimes.

    Raises:
      ValueError: an unknown regime.
    """
    for name in regimes:
      if name not in self.regimes:
        raise ValueError(
          f"--regimes has {name!r}: must be of {', '.join(self.regimes)}"
        )
    chosen = {name: self.regimes[name] for name in regimes}
    return dataclasses.replace(self, regimes=chosen)

  def variants(self) -> list[grids.Variant]:
    """Returns the rows of the study's tables."""
    found = []
    for regime, changes in self.regimes.items():
      start = grids.Start(regime or "start", changes)
      prefix = f"{regime}, " if regime else ""
      found += [
        grids.Variant(
          prefix + name,
          arm.method,
          arm.changes,
          start,
          control_of=arm.control_of,
          same=arm.same,
        )
        for name, arm in self.arms.items()
      ]
    return grids.controls_last(found)


def load(path: str | pathlib.Path) -> Study:
  """Reads the study of a file.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it has no STUDY.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"--study={path}: no such file")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  if spec is None or spec.loader is None:
    raise ValueError(f"--study={path}: must be a Python file")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not isinstance(getattr(module, "STUDY", None), Study):
    raise ValueError(f"--study={path}: must have a STUDY, see skd_jax/study.py")
  return module.STUDY
