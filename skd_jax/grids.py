"""What `skd_jax.compare` compares: each grid a few lines.

A variant is a method of skd_jax/methods.py with a few settings changed, and the
student that it starts from. Those called "GROUP, METHOD" are compared within
their group.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from skd_jax import methods

_NONE: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Start:
  """A student before distillation; trained once for all who start there."""

  name: str = "start"
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of the table.

  control_of: of a method of methods.CONTROLS, the variant of the same group
    that it is the control of; None: as CONTROLS says.
  same: what a control has as many of: `replaced` tokens, or `changed` ones,
    which differ from the student's. The latter needs the control `random` of
    the same group as well, whose blind replacements tell how many of them
    change a token.
  """

  name: str
  method: str
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  start: Start = Start()
  control_of: str | None = None
  same: str = "replaced"

  def __post_init__(self):
    if self.same not in ("replaced", "changed"):
      raise ValueError(f"same = {self.same!r}: must be replaced or changed")

  @property
  def needs(self) -> list[str]:
    """The variants whose runs, of the same seed, a control is made from."""
    if self.method not in methods.CONTROLS:
      return []
    of = self.control_of or methods.CONTROLS[self.method]
    needed = [rival(self.name, of)]
    if self.same == "changed":
      needed.append(rival(self.name, "random"))
    return needed


# What SKD claims to be better than, and all of them.
BASELINES = ("on_policy_kd", "supervised_kd", "teacher_kd")
_RIVALS = (*BASELINES, "skd")
_RAW = Start("raw", {"student.fit.num_steps": 0})
_SIZES = {
  "small": {
    "student.hidden_size": 32,
    "student.intermediate_size": 96,
    "student.num_layers": 1,
  },
  "middle": {
    "student.hidden_size": 64,
    "student.intermediate_size": 192,
    "student.num_layers": 2,
  },
  "large": {
    "student.hidden_size": 96,
    "student.intermediate_size": 288,
    "student.num_layers": 3,
  },
}


def _of(names: Sequence[str]) -> list[Variant]:
  return [Variant(name, name) for name in names]


def _vary(
  label: str, method: str, field: str, values: Sequence[Any]
) -> list[Variant]:
  return [Variant(f"{label}={v}", method, {field: v}) for v in values]


GRIDS: Mapping[str, Sequence[Variant]] = {
  # Look at the validation curve, not at the scores: to choose the rate by.
  "learning_rate": [
    Variant(f"{rate:g}, {method}", method, {"distill.learning_rate": rate})
    for rate in (3e-4, 1e-3, 3e-3)
    for method in _RIVALS
  ],
  "methods": _of(list(methods.METHODS)),
  "threshold_k": [
    *_vary("K", "skd", "rollout.threshold", (1.0, 5.0, 25.0, 50.0)),
    Variant("K=V", "skd", {"rollout.accept": "always"}),
    *_of(BASELINES),
  ],
  "threshold_tau": [
    *_vary(
      "tau", "prob_floor", "rollout.threshold", (0.05, 0.1, 0.25, 0.5, 0.75)
    ),
    *_of(BASELINES),
  ],
  "threshold_g": [
    *_vary("g", "mixture", "rollout.threshold", (0.05, 0.1, 0.2, 0.5)),
    *_of(BASELINES),
  ],
  "student_temperature": [
    Variant(f"T={t:g}, {method}", method, {"rollout.student_temperature": t})
    for t in (0.25, 0.5, 1.0)
    for method in ("on_policy_kd", "skd")
  ],
  # The tokens are the same: look at the seconds.
  "draft_length": _vary(
    "G", "skd", "rollout.num_draft_tokens", (1, 2, 4, 8, 16)
  ),
  "divergence": [
    *_vary("D", "skd", "loss.divergence", ("forward_kl", "reverse_kl", "jsd")),
    *_of(BASELINES),
  ],
  "start": [
    Variant(f"{start.name}, {method}", method, _NONE, start)
    for start in (Start(), _RAW)
    for method in _RIVALS
  ],
  "data_size": [
    Variant(f"{n} prompts, {method}", method, {"distill.max_examples": n})
    for n in (100, 1000)
    for method in _RIVALS
  ],
  "model_size": [
    Variant(f"{size}, {method}", method, _NONE, Start(size, changes))
    for size, changes in _SIZES.items()
    for method in _RIVALS
  ],
}


def in_group(name: str) -> str:
  """Returns what a variant is called within its group, if it has one."""
  return name.rpartition(", ")[2]


def rival(name: str, baseline: str) -> str:
  """Returns what a variant is compared with: the baseline of its group.

  Args:
    name: of the variant: "100 prompts, skd".
    baseline: as in its group: "on_policy_kd".

  Returns:
    "100 prompts, on_policy_kd".
  """
  return name.removesuffix(in_group(name)) + baseline


def choose(grid: str | None, names: Sequence[str]) -> list[Variant]:
  """Returns the variants of a grid, or of named methods; controls last.

  Args:
    grid: a name of GRIDS, or None.
    names: of methods, where there is no grid.

  Raises:
    ValueError: an unknown grid or method, both or neither of them, or a control
      without what it is the control of.
  """
  if (grid is None) == (not names):
    raise ValueError(
      f"--grid={grid}, --methods={','.join(names)}: one of them must be given"
    )
  if grid is not None and grid not in GRIDS:
    raise ValueError(f"--grid={grid}: must be one of {', '.join(GRIDS)}")
  unknown = [name for name in names if name not in methods.METHODS]
  if unknown:
    raise ValueError(
      f"--methods has {unknown[0]!r}: must be of {', '.join(methods.METHODS)}"
    )
  if len(set(names)) != len(names):
    raise ValueError(f"--methods={','.join(names)}: must be distinct")
  variants = list(GRIDS[grid]) if grid is not None else _of(names)
  return controls_last(variants)


def controls_last(variants: Sequence[Variant]) -> list[Variant]:
  """Orders variants so that a control follows what it is made from.

  Raises:
    ValueError: a control without what it is the control of.
  """
  found = {variant.name for variant in variants}
  for variant in variants:
    for name in variant.needs:
      if name not in found:
        raise ValueError(f"{variant.name!r} needs {name!r} beside it")
  return sorted(variants, key=lambda v: len(v.needs))
