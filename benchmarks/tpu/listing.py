"""Reads a compiled TPU program as what it is: a schedule with memory layouts.

  %fusion.3 = bf16[8,2048]{1,0:T(8,128)(2,1)S(1)} fusion(%copy.1, %get.7), ...

The text of a program lists the operations of each computation in the order in
which they run. A layout says how an array lies: which axis is innermost, in
tiles of how many rows and columns, and, by S(n), that it is not in HBM.
"""

import dataclasses
import functools
import math
import re

_BITS = {"pred": 8}  # Of the types whose name has none.
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
# An attribute of a kernel is written over several lines.
_BREAK = re.compile(r'\n(?="|\}\})')
_ORDER = re.compile(r"^([\d,]+)(?::|$)")

# What reads only what it gives, and what writes only its operand of that index.
_SLICES = frozenset(("dynamic-slice", "gather", "slice"))
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of a program."""

  bits: int  # Of a number.
  dims: tuple[int, ...]
  layout: str  # "1,0:T(8,128)(2,1)S(1)": innermost axis first, tiles, memory.

  @property
  def is_in_hbm(self) -> bool:
    """Whether it is in the memory of the chip, not in that of the core."""
    return not re.search(r"S\(\d+\)", self.layout)

  @functools.cached_property
  def num_bytes(self) -> int:
    """Its size, with the padding of its tiles."""
    order = _ORDER.match(self.layout)
    dims = list(self.dims)
    if order:
      dims = [dims[int(axis)] for axis in reversed(order[1].split(","))]
    tile = re.search(r":T\(([\d,]+)\)", self.layout)
    sides = [int(side) for side in tile[1].split(",")] if tile else []
    for axis, side in enumerate(reversed(sides[-len(dims) :] if dims else [])):
      dims[-1 - axis] = -(-dims[-1 - axis] // side) * side
    return math.prod(dims) * self.bits // 8


def parse_arrays(shape: str) -> tuple[Array, ...]:
  """Returns the arrays of a shape, which may be a tuple."""
  found = []
  for kind, sizes, layout in _ARRAY.findall(shape):
    bits = _BITS.get(kind) or int(re.findall(r"\d+", kind)[0])
    dims = tuple(int(size) for size in sizes.split(",") if size)
    found.append(Array(bits, dims, layout))
  return tuple(found)


@dataclasses.dataclass(frozen=True)
class Op:
  """One operation: a line of a program."""

  name: str
  opcode: str
  shape: str
  operands: tuple[str, ...]
  line: str

  @functools.cached_property
  def results(self) -> tuple[Array, ...]:
    """What it gives."""
    return parse_arrays(self.shape)

  @property
  def hbm_bytes(self) -> int:
    """The size of what it gives, as far as it is in HBM."""
    return sum(x.num_bytes for x in self.results if x.is_in_hbm)

  @property
  def estimate(self) -> int:
    """Cycles by the cost model of XLA; 0 where it has none."""
    found = re.search(r'"estimated_cycles":"(\d+)"', self.line)
    return int(found[1]) if found else 0

  @property
  def source(self) -> str:
    """The names that JAX gave it, outermost first; may be empty."""
    found = re.search(r'op_name="([^"]*)"', self.line)
    return found[1] if found else ""

  @property
  def is_root(self) -> bool:
    """Whether its computation returns what it gives."""
    return self.line.lstrip().startswith("ROOT ")

  @property
  def index(self) -> int:
    """Which parameter, constant or element of a tuple it is."""
    return int(re.findall(r"(?:parameter\(|index=)(\d+)", self.line)[0])

  def called(self, role: str) -> str:
    """Returns the computation that it calls as `body`, `calls` ..."""
    return re.findall(rf"\b{role}=%?([\w.\-]+)", self.line)[0]

  def in_place(self) -> set[int]:
    """Returns which operands a custom call writes its results to."""
    found = re.search(r"output_to_operand_aliasing=\{(.*?\))\}", self.line)
    return set(map(int, re.findall(r"\((\d+),", found[1] if found else "")))

  def branches(self) -> list[str]:
    """Returns the computations of a conditional."""
    found = re.search(r"branch_computations=\{([^}]*)\}", self.line)
    if found:
      return [name.strip(" %") for name in found[1].split(",")]
    return [self.called("true_computation"), self.called("false_computation")]


def _closing(text: str, start: int) -> int:
  """Returns where the parenthesis that opens at `start` closes."""
  depth = 0
  for match in re.finditer(r"[()]", text[start:]):
    depth += 1 if match[0] == "(" else -1
    if depth == 0:
      return start + match.start()
  raise ValueError(f"program = {text[:80]!r}: a parenthesis is not closed")


def _parse_op(line: str) -> Op:
  left, _, right = line.strip().partition(" = ")
  end = _closing(right, 0) + 1 if right[0] == "(" else right.index(" ")
  shape, rest = right[:end], right[end:].lstrip()
  start = rest.index("(")
  inside = re.sub(r"/\*.*?\*/", "", rest[start : _closing(rest, start)])
  return Op(
    name=left.removeprefix("ROOT ").lstrip("%"),
    opcode=rest[:start],
    # Without the comments that count the elements of a tuple.
    shape=re.sub(r"/\*.*?\*/", "", shape),
    operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
    line=line,
  )


Computation = dict[str, Op]  # By name, in the order in which they run.


class Program:
  """A compiled program.

  computations: by name.
  entry: the name of the one that runs.
  """

  def __init__(self, text: str) -> None:
    """Reads `compiled.as_text()`."""
    self.computations: dict[str, Computation] = {}
    self.entry = ""
    current: Computation | None = None
    for line in _BREAK.sub("", text).splitlines():
      header = _HEADER.match(line)
      if header:
        current = self.computations.setdefault(header[2], {})
        self.entry = header[2] if header[1] else self.entry
      elif line.startswith("}"):
        current = None
      elif current is not None and " = " in line:
        op = _parse_op(line)
        current[op.name] = op

  def trips(self, op: Op, around: Computation) -> int:
    """Returns how often a while loops.

    1 where the program does not say it: the loop does not end at a constant.

    Args:
      op: the while; its counter starts at 0.
      around: the computation that it stands in.
    """
    inside = self.computations[op.called("condition")]
    for test in inside.values():
      if test.opcode != "compare" or "direction=LT" not in test.line:
        continue
      limit = inside.get(test.operands[1])
      if limit and limit.opcode == "get-tuple-element":
        start = around.get(op.operands[0])
        limit = around.get(start.operands[limit.index]) if start else None
      found = limit and re.search(r"constant\((\d+)\)", limit.line)
      if found:
        return int(found[1])
    return 1

  def hbm_bytes(self, op: Op, around: Computation) -> int:
    """Returns what an operation reads and writes in HBM."""
    operands = [around.get(name) for name in op.operands]
    sizes = [x.hbm_bytes if x else 0 for x in operands]
    if op.opcode in _SLICES:
      return op.hbm_bytes + bool(sizes[0]) * _whole(op)
    if op.opcode in _UPDATES:
      update = operands[_UPDATES[op.opcode]]
      return 2 * _whole(update) if op.hbm_bytes and update else 0
    written_to = op.in_place() if op.opcode == "custom-call" else set()
    if written_to:
      # A kernel that writes to a cache: as much as it is given besides.
      return 2 * sum(
        size for i, size in enumerate(sizes) if i not in written_to
      )
    if op.opcode != "fusion":
      return op.hbm_bytes + sum(sizes)
    written, total = op.hbm_bytes, 0
    body = self.computations[op.called("calls")]
    for parameter in body.values():
      if parameter.opcode == "parameter" and sizes[parameter.index]:
        read, in_place = self._touched(parameter, body)
        read = min(read, sizes[parameter.index])
        total += read
        written = min(written, read) if in_place else written
    return written + total

  def _touched(self, op: Op, body: Computation) -> tuple[int, bool]:
    """Returns (bytes of an array that its users touch, if they write to it)."""
    total, in_place = 0, False
    for user in body.values():
      for i, name in enumerate(user.operands):
        if name != op.name:
          continue
        if user.opcode in ("bitcast", "reshape") and not user.is_root:
          read, writes = self._touched(user, body)
        elif i == 0 and user.opcode in _SLICES:
          read, writes = _whole(user), False
        elif i == 0 and user.opcode in _UPDATES:
          update = body[user.operands[_UPDATES[user.opcode]]]
          read, writes = _whole(update), True
        elif user.opcode == "fusion" and self._only_slices(user):
          read, writes = _whole(user), False
        else:
          read, writes = _whole(op), False
        total, in_place = total + read, in_place or writes
    return total, in_place

  def _only_slices(self, op: Op) -> bool:
    body = self.computations[op.called("calls")]
    return any(x.opcode in _SLICES for x in body.values())


def _whole(op: Op) -> int:
  """Returns the size of what an operation gives, wherever it is."""
  return sum(x.num_bytes for x in op.results)
