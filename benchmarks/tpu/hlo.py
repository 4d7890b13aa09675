"""Reads compiled programs: collectives, loops, donated memory, host calls.

  %all-reduce.4 = (bf16[8,16]{1,0}, f32[]) all-reduce(...), channel_id=5, ...

A collective belongs to the computation among whose lines it stands. It is in a
loop if that computation is the body of a while, or is called from one, directly
or not.
"""

import dataclasses
import functools
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
_ARRAY = re.compile(r"\b[a-z]+\d*\[([\d,]*)\]")
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
  shapes: tuple[tuple[int, ...], ...]  # Of its results on each device.
  loop_depth: int  # While loops around it.
  source: str  # The operation of JAX that it was made for; may be empty.


def _lines(text: str) -> Iterator[tuple[str, str]]:
  """Yields (computation, line)."""
  computation = ""
  for line in text.splitlines():
    start = _COMPUTATION.match(line)
    if start:
      computation = start[1]
    elif computation:
      yield computation, line


def _loop_depths(lines: Sequence[tuple[str, str]]) -> dict[str, int]:
  """Returns how many while loops are around each computation."""
  callers: dict[str, set[tuple[str, int]]] = {}
  for computation, line in lines:
    bodies = set(_BODY.findall(line))
    names = set(_CALLED.findall(line))
    for branches in _BRANCHES.findall(line):
      names |= {name.strip(" %") for name in branches.split(",")}
    for name in names:
      deeper = int(name in bodies)
      callers.setdefault(name, set()).add((computation, deeper))

  @functools.cache
  def depth(name: str) -> int:
    around = callers.get(name, ())
    return max((depth(caller) + deeper for caller, deeper in around), default=0)

  return {computation: depth(computation) for computation, _ in lines}


def collectives(text: str) -> list[Collective]:
  """Returns the collectives of a compiled program, in its order.

  The TPU compiler splits one into several operations, its start, its end and
  steps in between, that share a channel; it counts once.

  Args:
    text: `compiled.as_text()`.
  """
  lines = list(_lines(text))
  depths = _loop_depths(lines)
  found: dict[str, Collective] = {}
  for number, (computation, line) in enumerate(lines):
    match = _COLLECTIVE.search(line)
    if not match or match["half"] == "-done":
      continue
    channel = re.search(r"channel_id=(\d+)", line)
    source = re.search(r'op_name="([^"]*)"', line)
    collective = Collective(
      kind=match["kind"],
      shapes=tuple(
        tuple(int(n) for n in sizes.split(",") if n)
        for sizes in _ARRAY.findall(_results(match))
      ),
      loop_depth=depths[computation],
      source=source[1] if source else "",
    )
    found.setdefault(channel[1] if channel else f"line {number}", collective)
  return list(found.values())


def _results(match: re.Match[str]) -> str:
  """Returns the shapes of the results of a collective.

    all-gather(...)          (results)
    all-gather-start(x)      (argument, result, ...)
    all-gather-start(x, y)   ((arguments), (results), ...)

  The start of a sum names only its results.
  """
  shapes = re.sub(r"\{[^}]*\}", "", match["shapes"])  # Without layouts.
  if not match["half"] or match["kind"] == "all-reduce":
    return shapes
  groups = re.findall(r"\([^()]*\)", shapes)
  return groups[1] if len(groups) > 1 else " ".join(shapes.split(", ")[1:2])


def num_donated(text: str) -> int:
  """Counts the arguments whose memory the results take over."""
  header = text.split("\n", 1)[0]
  return header.count("may-alias") + header.count("must-alias")


def host_calls(text: str) -> list[str]:
  """Returns what the program asks of the host while it runs."""
  targets = re.findall(r'custom_call_target="([^"]+)"', text)
  asked = [name for name in targets if "callback" in name or "Host" in name]
  return asked + re.findall(r" (infeed|outfeed|send|recv)\(", text)
