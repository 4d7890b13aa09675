"""Reads what the compiler made: collectives, loops, donated and called.

  %all-reduce.4 = (bf16[8,16]{1,0}, f32[]) all-reduce(...), channel_id=5, ...

A collective belongs to the computation whose lines it stands among. It is in a
loop if that computation is the body of a while, or is called, directly or not,
from one.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)


_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(
  rf"= (?P<shapes>.*?) (?P<kind>{'|'.join(KINDS)})(?P<half>-start|-done)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
  r"(?:to_apply|calls|body|condition|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(
  r"(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_BODY = re.compile(r"\bwhile\(.*?\bbody=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a program."""

  kind: str  # One of KINDS.
  shapes: tuple[tuple[int, ...], ...]  # Of what it gives to each device.
  num_bytes: int  # Of these.
  loop_depth: int  # While loops around it.
  source: str  # The operation of JAX that it was made for; may be empty.


@dataclasses.dataclass(frozen=True)
class _Line:
  computation: str
  text: str


def _item_bytes(dtype: str) -> float:
  """Bytes of a number: f32 is 4, s8 is 1, s4 is a half."""
  if dtype == "pred":
    return 1
  bits = re.search(r"\d+", dtype)
  return int(bits[0]) / 8 if bits else 0


def _lines(text: str) -> Iterator[_Line]:
  computation = ""
  for line in text.splitlines():
    begins = _COMPUTATION.match(line)
    if begins:
      computation = begins[1]
    elif computation:
      yield _Line(computation, line)


def _loop_depths(lines: Sequence[_Line]) -> dict[str, int]:
  """How many while loops are around each computation."""
  callers: dict[str, set[tuple[str, int]]] = {}
  for line in lines:
    bodies = set(_BODY.findall(line.text))
    names = set(_CALLED.findall(line.text))
    for branches in _BRANCHES.findall(line.text):
      names |= {name.strip(" %") for name in branches.split(",")}
    for name in names:
      deeper = int(name in bodies)
      callers.setdefault(name, set()).add((line.computation, deeper))

  @functools.cache
  def depth(name: str) -> int:
    around = callers.get(name, ())
    return max((depth(caller) + deeper for caller, deeper in around), default=0)

  return {line.computation: depth(line.computation) for line in lines}


def collectives(text: str) -> list[Collective]:
  """Returns the collectives of a compiled program, in its order.

  The TPU compiler spreads one over several operations, its start, its end and
  steps in between, that have one channel; it counts once. Of a start, which
  names what it reads as well, only what it gives counts.

  Args:
    text: `compiled.as_text()`.
  """
  lines = list(_lines(text))
  depths = _loop_depths(lines)
  found: dict[str, Collective] = {}
  for number, line in enumerate(lines):
    match = _COLLECTIVE.search(line.text)
    if not match or match["half"] == "-done":
      continue
    channel = re.search(r"channel_id=(\d+)", line.text)
    name = channel[1] if channel else f"line {number}"
    if name in found:
      continue
    arrays = [
      (dtype, tuple(int(n) for n in sizes.split(",") if n))
      for dtype, sizes in _ARRAY.findall(_given(match))
    ]
    source = re.search(r'op_name="([^"]*)"', line.text)
    found[name] = Collective(
      kind=match["kind"],
      shapes=tuple(shape for _, shape in arrays),
      num_bytes=int(
        sum(_item_bytes(d) * math.prod(shape) for d, shape in arrays)
      ),
      loop_depth=depths[line.computation],
      source=source[1] if source else "",
    )
  return list(found.values())


def _given(match: re.Match[str]) -> str:
  """Returns the shapes of what a collective gives.

    all-gather(...)          what it gives
    all-gather-start(x)      (what it reads, what it gives, ...)
    all-gather-start(x, y)   ((x, y), (what they give), ...)

  The start of a sum names only what it gives.
  """
  shapes = re.sub(r"\{[^}]*\}", "", match["shapes"])  # Without layouts.
  if not match["half"] or match["kind"] == "all-reduce":
    return shapes
  groups = re.findall(r"\([^()]*\)", shapes)
  return groups[1] if len(groups) > 1 else " ".join(shapes.split(", ")[1:2])


def bytes_by_kind(found: Sequence[Collective]) -> dict[str, int]:
  """Sums up one run of each operation: {"all-reduce": ..., ...}.

  An operation in a loop is counted once here, and under another name:
  "all-reduce in loop".
  """
  totals: dict[str, int] = {}
  for collective in found:
    name = collective.kind + (" in loop" if collective.loop_depth else "")
    totals[name] = totals.get(name, 0) + collective.num_bytes
  return totals


def num_donated(text: str) -> int:
  """Counts the arguments whose memory the results take over."""
  header = text.split("\n", 1)[0]
  return header.count("may-alias") + header.count("must-alias")


def host_calls(text: str) -> list[str]:
  """Returns what the program asks of the host while it runs."""
  targets = re.findall(r'custom_call_target="([^"]+)"', text)
  asked = [name for name in targets if "callback" in name or "Host" in name]
  transfers = re.findall(r" (infeed|outfeed|send|recv)\(", text)
  return asked + transfers
