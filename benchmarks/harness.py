"""Timing, tables and JSON: what every benchmark shares."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from benchmarks import targets
from skd_jax import results
from skd_jax.reporting import metric_log

Row = dict[str, Any]

RESULTS = pathlib.Path(__file__).parent / "results"
PEERS = ("torch", "transformers", "trl")
NOT_INSTALLED = "not installed"

_QUICK = flags.DEFINE_bool("quick", False, "Small sizes, about a minute.")
_JSON = flags.DEFINE_string(
  "json",
  None,
  "Where to write the result. By default benchmarks/results/NAME.DEVICE.json, "
  "and with --quick workdir/benchmarks/NAME.DEVICE.json.",
)


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds of each repeat, in the order of the repeats."""

  seconds: tuple[float, ...]

  @property
  def best(self) -> float:
    """The least: what the machine can do when nothing disturbs it."""
    return min(self.seconds)

  @property
  def median(self) -> float:
    """The middle one."""
    return statistics.median(self.seconds)


def command(name: str) -> str:
  """Returns the command line that runs, as a stranger would type it.

  Of an absolute path only the last part stays: where the folders of this
  machine lie is nobody's business, and no one else's are there.
  """

  def without_folder(argument: str) -> str:
    flag, equals, value = argument.rpartition("=")
    if value.startswith("/"):
      value = pathlib.PurePath(value).name
    return flag + equals + value

  arguments = [
    without_folder(argument)
    for argument in sys.argv[1:]
    if not argument.startswith("--json")
  ]
  return shlex.join(["python", "-m", f"benchmarks.{name}", *arguments])


def time_once(function: Callable[[], Any]) -> tuple[float, Any]:
  """Calls a function and waits for its arrays.

  Returns:
    (seconds, what it returned).
  """
  begun = time.perf_counter()
  result = jax.block_until_ready(function())
  return time.perf_counter() - begun, result


def interleaved(
  contestants: Mapping[str, Callable[[], Any]],
  repeats: int,
  warm_up: bool = True,
) -> dict[str, Timing]:
  """Times functions in turns: a b c a b c, so that noise hits all alike.

  Args:
    contestants: what to call, by name; JAX arrays that it returns are awaited.
    repeats: how often each is timed; at least 1.
    warm_up: call each once before, which also compiles.

  Returns:
    The timing of each.
  """
  if warm_up:
    for function in contestants.values():
      time_once(function)
  seconds: dict[str, list[float]] = {name: [] for name in contestants}
  for _ in range(repeats):
    for name, function in contestants.items():
      seconds[name].append(time_once(function)[0])
  return {name: Timing(tuple(values)) for name, values in seconds.items()}


def device_name() -> str:
  """Names the machine as in the files of results: cpu-2, nvidia-h200.

  A CPU has its number of cores, other kinds the number of devices if there are
  several.
  """
  devices = jax.devices()
  kind = re.sub(r"[^a-z0-9]+", "-", devices[0].device_kind.lower()).strip("-")
  if devices[0].platform == "cpu":
    return f"cpu-{len(os.sched_getaffinity(0))}"
  return kind if len(devices) == 1 else f"{kind}-{len(devices)}"


def available_bytes() -> int:
  """Returns the memory that a program could still take: of the device, or of
  the host where the device is a CPU.
  """
  stats = jax.devices()[0].memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"] - stats["bytes_in_use"]
  meminfo = pathlib.Path("/proc/meminfo")
  if meminfo.exists():
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text("utf-8"))
    if found:
      return int(found[1]) * 1024
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def installed(package: str) -> str | None:
  """Returns the version of an optional package, or None."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def result_object(
  name: str, rows: Sequence[Row], device: str
) -> dict[str, Any]:
  """Returns the JSON object of a benchmark that was measured on a device."""
  peers = {peer: installed(peer) or NOT_INSTALLED for peer in PEERS}
  return {
    "benchmark": name,
    "command": command(name),
    "versions": results.versions() | peers,
    "device": device,
    "git": results.git_revision(),
    "rows": list(rows),
  }


def format_value(value: Any) -> str:
  """Formats a cell: three digits; a dash where there is no value."""
  if value is None:
    return "-"
  if not isinstance(value, float):
    return str(value)
  if value == 0 or abs(value) >= 100:
    return f"{value:.0f}"
  if abs(value) < 0.001:
    return f"{value:.1e}"
  return f"{value:.3g}"


def format_table(
  rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> str:
  """Returns a Markdown table, aligned so that it can be read as it is.

  Args:
    rows: one mapping a row; a missing column is a dash.
    columns: which, and in what order. By default all, as they appear.
  """
  columns = list(columns or dict.fromkeys(c for row in rows for c in row))
  cells = [[format_value(row.get(c)) for c in columns] for row in rows]
  widths = [
    max(len(c), 3, *(len(line[i]) for line in cells)) if cells else len(c)
    for i, c in enumerate(columns)
  ]
  numeric = [
    any(isinstance(row.get(c), int | float) for row in rows) for c in columns
  ]

  def line(values: Sequence[str]) -> str:
    padded = [
      v.rjust(w) if n else v.ljust(w)
      for v, w, n in zip(values, widths, numeric, strict=True)
    ]
    return "| " + " | ".join(padded) + " |"

  rule = [
    "-" * (w - 1) + (":" if n else "-")
    for w, n in zip(widths, numeric, strict=True)
  ]
  return "\n".join([line(columns), line(rule), *map(line, cells)])


def write_json(path: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Writes the JSON object of a benchmark."""
  path.parent.mkdir(parents=True, exist_ok=True)
  metric_log.write_atomically(path, json.dumps(result, indent=1) + "\n")


def run(
  name: str,
  make_rows: Callable[[bool], Sequence[Row]],
  *,
  device: Callable[[bool], str] | None = None,
  is_whole: Callable[[], bool] = lambda: True,
  columns: Sequence[str] | None = None,
) -> None:
  """Runs a benchmark as a program: flags, table, JSON.

  Args:
    name: of the benchmark, as in `python -m benchmarks.NAME`.
    make_rows: `quick -> rows`.
    device: `quick -> name`, of what the result depends on; default: of this
      machine.
    is_whole: whether all was asked for. A part does not take the place of the
      whole in benchmarks/results.
    columns: of the table that is printed; default: all.
  """

  def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
      sys.exit(f"Error: unknown arguments: {' '.join(argv[1:])}")
    # Torch and JAX share a GPU: neither may take all of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Idle threads of torch sleep instead of spinning, which takes the cores of
    # whoever is timed next, and on a busy machine those of torch itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
      rows = make_rows(_QUICK.value)
      named = device(_QUICK.value) if device else device_name()
      result = result_object(name, rows, named)
    except (ValueError, FileNotFoundError) as error:
      sys.exit(f"Error: {error}")
    print(f"\n{name} on {result['device']}\n")
    print(format_table(result["rows"], columns))
    aims = targets.table(name, result["rows"])
    if aims and result["device"].startswith("cpu") and not _QUICK.value:
      print("\n" + format_table(aims))
    is_kept = is_whole() and not _QUICK.value
    folder = RESULTS if is_kept else pathlib.Path("workdir/benchmarks")
    file_name = f"{name}.{result['device']}.json"
    path = pathlib.Path(_JSON.value) if _JSON.value else folder / file_name
    write_json(path, result)
    print(f"\nWritten to {path}")

  app.run(main)
