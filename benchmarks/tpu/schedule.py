"""Adds up the cycles of a compiled TPU program, by the parts of a step.

The schedule is the larger of two times, for each operation:

  code    the bundles that it issues, each loop times its trips
  memory  the bytes that it reads and writes in HBM, at the chip's bandwidth

Copies run beside the operations that stand between their start and their end,
loops among them, in the bandwidth that those leave, one after the other; what
is left of a copy at its end is waited for:

  copy-start   fusion   fusion   copy-done
  ---------- the copy ----------|--wait--|

A lower bound: without latency, without the start of an operation and without
the network. Nothing was measured on hardware.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping

from benchmarks.tpu import chips, listing

# Parts of the rollout and of the train step, as jax.named_scope names them.
DRAFT_STEP = "draft step"  # What `propose` repeats.
PARTS = ("propose", "verify", "commit", "refill", "hidden", "loss", "update")
OTHER = "other"  # What stands in none of them: weights that are cast once.

_STARTS = frozenset(("copy-start", "slice-start", "async-start"))
_DONES = frozenset(("copy-done", "slice-done", "async-done"))
# Operations without instructions of their own.
_FREE = (
  _STARTS
  | _DONES
  | frozenset(
    (
      "parameter",
      "constant",
      "get-tuple-element",
      "tuple",
      "bitcast",
      "after-all",
      "partition-id",
    )
  )
)


@dataclasses.dataclass
class Cost:
  """What a part of a program takes."""

  num_ops: int = 0  # That run instructions; those of a loop count once.
  schedule: float = 0.0  # Cycles, see the module.
  estimate: float = 0.0  # Cycles by the cost model of XLA, where it has one.
  hbm_bytes: float = 0.0

  def add(self, other: "Cost", times: int = 1) -> None:
    """Adds what runs several times."""
    self.num_ops += other.num_ops
    self.schedule += times * other.schedule
    self.estimate += times * other.estimate
    self.hbm_bytes += times * other.hbm_bytes


Costs = dict[str, Cost]  # By part.


def costs(
  program: listing.Program, bundles: Mapping[str, int], chip: chips.Chip
) -> Costs:
  """Returns what each part of a program takes.

  A loop whose trips are not a constant counts once: one round, one draft step,
  one chunk of the loss. Of a conditional the cheapest branch counts.

  Args:
    program: the compiled program.
    bundles: by operation; see bundles.py.
    chip: what it was compiled for.
  """
  counter = _Counter(program, bundles, chip)
  return counter.walk(program.entry, OTHER)[0]


def part_of(op: listing.Op, before: str) -> str:
  """Returns the part of an operation; without a name, that of the one before.

  jit(rollout)/while/body/propose/while/body/dot_general   draft step
  jit(step)/transpose(jvp(hidden))/mul                     hidden
  jit(rollout)/convert_element_type                        other
  """
  if "propose/while/body" in op.source:
    return DRAFT_STEP
  for part in PARTS:
    if re.search(rf"[/(]{part}(?:[/)]|$)", op.source):
      return part
  return OTHER if op.source else before


class _Copies:
  """The copies under way, the oldest first."""

  def __init__(self) -> None:
    self._left: dict[str, float] = {}  # Bytes.

  def start(self, op: listing.Op) -> int:
    """Adds a copy; returns its bytes, those in HBM counted once."""
    arrays = [x for x in op.results if x.dims]
    is_read = any(x.is_in_hbm for x in arrays)
    size = min(x.num_bytes for x in arrays) if is_read else 0
    self._left[op.name] = size
    return size

  def go_on(self, room: float) -> None:
    """Lets them take some bytes of bandwidth that nothing else uses."""
    for name, left in list(self._left.items()):
      taken = min(left, room)
      room -= taken
      self._left[name] = left - taken

  def wait(self, name: str) -> float:
    """Ends a copy, and all before it; returns the bytes to wait for."""
    total = 0.0
    while name in self._left:
      total += self._left.pop(next(iter(self._left)))
    return total


class _Counter:
  """Walks over a program in the order of its schedule."""

  def __init__(
    self,
    program: listing.Program,
    bundles: Mapping[str, int],
    chip: chips.Chip,
  ) -> None:
    self.program, self.bundles = program, bundles
    self.bytes_per_cycle = chip.hbm_bytes_per_s / chip.clock_hz
    # Equal operations share the code of one of them.
    self.shared: dict[tuple[str, ...], int] = {}
    for around in program.computations.values():
      for name in around.keys() & bundles.keys():
        key = self._key(around[name], around)
        self.shared[key] = max(self.shared.get(key, 0), bundles[name])

  @staticmethod
  def _key(op: listing.Op, around: listing.Computation) -> tuple[str, ...]:
    shapes = [around[x].shape for x in op.operands if x in around]
    return op.opcode, str(op.estimate), op.shape, *shapes

  def walk(self, name: str, part: str) -> tuple[Costs, str]:
    """Returns (costs of a computation, the part that it ends in)."""
    around = self.program.computations[name]
    total: Costs = collections.defaultdict(Cost)
    copies = _Copies()
    for op in around.values():
      part = part_of(op, part)
      if op.opcode == "while":
        inside, _ = self.walk(op.called("body"), part)
        trips = self.program.trips(op, around)
        _add(total, inside, trips)
        copies.go_on(trips * self._room(inside))
      elif op.opcode == "conditional":
        branches = [self.walk(branch, part)[0] for branch in op.branches()]
        cheapest = min(branches, key=_cycles)
        _add(total, cheapest)
        copies.go_on(self._room(cheapest))
      elif op.opcode in _STARTS:
        total[part].add(Cost(hbm_bytes=copies.start(op)))
      elif op.opcode in _DONES:
        waited = copies.wait(op.operands[0]) / self.bytes_per_cycle
        total[part].add(Cost(schedule=waited))
      elif op.opcode not in _FREE:
        total[part].add(self._one(op, around, copies))
    return dict(total), part

  def _room(self, found: Costs) -> float:
    """Returns the bytes that more could be moved while something runs."""
    cycles = sum(cost.schedule for cost in found.values())
    moved = sum(cost.hbm_bytes for cost in found.values())
    return max(cycles * self.bytes_per_cycle - moved, 0.0)

  def _one(
    self, op: listing.Op, around: listing.Computation, copies: _Copies
  ) -> Cost:
    size = self.program.hbm_bytes(op, around)
    code = self.bundles.get(op.name) or self.shared.get(
      self._key(op, around), 0
    )
    cycles = max(code, size / self.bytes_per_cycle)
    copies.go_on(cycles * self.bytes_per_cycle - size)
    return Cost(1, cycles, op.estimate, size)


def _add(total: Costs, inside: Costs, times: int = 1) -> None:
  for part, cost in inside.items():
    total[part].add(cost, times)


def _cycles(found: Costs) -> float:
  return sum(cost.schedule + cost.estimate for cost in found.values())
