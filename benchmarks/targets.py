"""What the benchmarks are meant to show, and whether they do."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Target:
  """A bound on one figure of a benchmark."""

  text: str
  bound: float
  at_least: bool  # Otherwise the figure must be at most the bound.
  figure: Callable[[Rows], float | None]  # None: not measured.

  def row(self, rows: Rows) -> dict[str, Any]:
    """Returns a row of the table of targets; `missed_by` where it is missed."""
    found = self.figure(rows)
    sign = ">=" if self.at_least else "<="
    row = {"target": self.text, "wanted": f"{sign} {self.bound:g}"}
    if found is None:
      return row | {"measured": None, "verdict": "not measured"}
    met = found >= self.bound if self.at_least else found <= self.bound
    verdict = "met" if met else f"missed by {abs(1 - found / self.bound):.0%}"
    return row | {"measured": found, "verdict": verdict}


def _value(rows: Rows, column: str, **wanted: Any) -> float | None:
  """The column of the row that has the wanted values."""
  for row in rows:
    if all(row.get(name) == value for name, value in wanted.items()):
      return row.get(column)
  return None


def _ratio(a: float | None, b: float | None) -> float | None:
  return a / b if a is not None and b else None


def _speed_ratio(what: str, batch: int, peer: str, peer_batch: int):
  def figure(rows: Rows) -> float | None:
    return _ratio(
      _value(rows, "tokens_per_s", what=what, batch=batch),
      _value(rows, "tokens_per_s", what=peer, batch=peer_batch),
    )

  return figure


def _step_ratio(what: str):
  return lambda rows: _value(rows, "ratio_to_on_policy", what=what)


def _queue(rows: Rows) -> float | None:
  return _ratio(
    _value(rows, "tokens_per_s", what="queue_on"),
    _value(rows, "tokens_per_s", what="queue_off"),
  )


def _against_gkd(rows: Rows) -> float | None:
  return _ratio(
    _value(rows, "seconds", what="trl_gkd"),
    _value(rows, "seconds", what="skd_2pct"),
  )


def _largest(column: str):
  return lambda rows: _value(rows, column, vocab=256_000, length=2048)


TARGETS: dict[str, tuple[Target, ...]] = {
  "rollout_speed": (
    Target(
      "SKD, all accepted, batch 16, over transformers' teacher at batch 1",
      10,
      True,
      _speed_ratio("skd_all_accepted", 16, "hf_teacher", 1),
    ),
    Target(
      "the same over transformers' teacher at batch 16",
      1.5,
      True,
      _speed_ratio("skd_all_accepted", 16, "hf_teacher", 16),
    ),
    Target(
      "SKD, 2 % replaced, batch 16, over transformers' teacher at batch 1",
      8,
      True,
      _speed_ratio("skd_2pct", 16, "hf_teacher", 1),
    ),
    Target(
      "SKD, 10 % replaced, batch 16, over transformers' teacher at batch 1",
      5,
      True,
      _speed_ratio("skd_10pct", 16, "hf_teacher", 1),
    ),
    Target(
      "refill queue over none, lengths that vary by 8x", 1.5, True, _queue
    ),
  ),
  "step_cost": (
    Target(
      "SKD step over on-policy, 2 %", 1.15, False, _step_ratio("skd_2pct")
    ),
    Target(
      "SKD step over on-policy, 10 %", 1.3, False, _step_ratio("skd_10pct")
    ),
    Target("TRL's GKD step over an SKD step, 2 %", 3, True, _against_gkd),
  ),
  "loss_memory": (
    Target(
      "peak memory, chunked over plain, V = 256k, T = 2048",
      0.1,
      False,
      _largest("memory_ratio"),
    ),
    Target("time, likewise", 1.2, False, _largest("time_ratio")),
  ),
  "method_cost": (),
  "products": (),
  "scaling": (),
  "tpu_plan": (),
  "scaling_sheet": (),
}


def table(name: str, rows: Rows) -> list[dict[str, Any]]:
  """Returns one row for each target of a benchmark."""
  return [target.row(rows) for target in TARGETS[name]]


def whats(rows: Iterable[Mapping[str, Any]]) -> list[str]:
  """Returns the distinct `what` of rows, in order."""
  return list(dict.fromkeys(row["what"] for row in rows))
