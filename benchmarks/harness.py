"""Timing, tables and JSON: what every benchmark shares."""

import concurrent.futures
import importlib.metadata
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import tabulate
from absl import app, flags, logging

from skd_jax import messages
from skd_jax.reporting import files, provenance

Row = dict[str, Any]

RESULTS = pathlib.Path(__file__).parent / "results"
PEERS = ("torch", "transformers", "trl")
NOT_INSTALLED = "not installed"
_PARTIAL = ".partial"  # After the name of a result that is not whole.
_QUICK_RESULTS = pathlib.Path("workdir/benchmarks")

# The columns of the tables; the other ones are in the JSON.
COLUMNS: dict[str, str] = {
  "step_cost": "what seconds ratio_to_on_policy replacement_rate "
  "num_draft_tokens",
  "method_cost": "what seconds ratio_to_on_policy_kd generate verify train "
  "replacement_rate",
  "speculative_decoding": "what batch acceptance by_position tokens_per_pass "
  "draft_cost round_cost predicted_speedup tree_bound speedup tokens_per_s "
  "same_tokens",
  "loss_memory": "vocab length memory_ratio time_ratio plain_gib chunked_gib",
  "long_sequences": "shape length rows memory_ratio peak_gib least_gib seconds",
  "packing": "packed_length rows fill seconds time_ratio",
  "device_limits": "shape what batch length seconds tokens_per_s gbytes_per_s "
  "tflops_per_s of_limit",
  "gpu_kernels": "config layers part kernels",
  "gpu_plan": "config slice batch microbatches teacher_gib student_gib "
  "optimizer_gib caches_gib peak_gib available_gib",
  "tpu_plan": "config slice mesh batch microbatches teacher_gib student_gib "
  "optimizer_gib caches_gib peak_gib hbm_gib step_s bound",
  "tpu_cycles": "config slice layers part ops schedule estimate hbm_mb limit "
  "of_limit",
}

_QUICK = flags.DEFINE_bool("quick", False, "Small sizes, about a minute.")
_JSON = flags.DEFINE_string(
  "json",
  None,
  "Where to write the result. The default is a file in benchmarks/results, or "
  "in workdir/benchmarks with --quick.",
)


def time_once(function: Callable[[], Any]) -> tuple[float, Any]:
  """Calls a function and waits for its arrays.

  Returns:
    (seconds, what the function returned).
  """
  start_time = time.perf_counter()
  result = jax.block_until_ready(function())
  return time.perf_counter() - start_time, result


def interleaved(
  contestants: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
  """Times functions in turns, a b c a b c, so that noise hits all alike.

  Args:
    contestants: what to call, by name. Each is called once before, which also
      compiles it; the JAX arrays that it returns are awaited.
    repeats: how often each is timed; at least 1.

  Returns:
    Seconds of each repeat. The minimum is what the machine does when nothing
    disturbs it.
  """
  for function in contestants.values():
    time_once(function)
  seconds: dict[str, list[float]] = {name: [] for name in contestants}
  for _ in range(repeats):
    for name, function in contestants.items():
      seconds[name].append(time_once(function)[0])
  return seconds


def compile_all(functions: Iterable[Callable[[], Any]]) -> None:
  """Calls functions at once, so that what they jit is compiled side by side."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for future in [pool.submit(function) for function in functions]:
      jax.block_until_ready(future.result())


def available_bytes() -> int:
  """Returns the free memory of the device; of a Linux host on a CPU."""
  stats = jax.devices()[0].memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"] - stats["bytes_in_use"]
  meminfo = pathlib.Path("/proc/meminfo").read_text("utf-8")
  (kilobytes,) = re.findall(r"MemAvailable:\s+(\d+) kB", meminfo)
  return int(kilobytes) * 1024


def installed(package: str) -> str | None:
  """Returns the version of an optional package, or None."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def result_object(
  name: str, rows: Sequence[Row], device: str, *, program: str = ""
) -> dict[str, Any]:
  """Returns the JSON object of a benchmark.

  Args:
    name: of the benchmark and of its table.
    rows: the measurements.
    device: what they were measured on.
    program: the module below benchmarks; by default the name.
  """
  peers = {peer: installed(peer) or NOT_INSTALLED for peer in PEERS}
  return {
    "benchmark": name,
    "command": messages.command_line(f"benchmarks.{program or name}"),
    "versions": provenance.versions() | peers,
    "device": device,
    "git": provenance.git_revision(),
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
  return f"{value:.1e}" if abs(value) < 0.001 else f"{value:.3g}"


def format_table(
  rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> str:
  """Returns a Markdown table; columns with numbers are aligned to the right.

  Args:
    rows: one mapping per row; a missing column is a dash.
    columns: which ones, in which order; by default all, as they appear.
  """
  columns = list(columns or dict.fromkeys(c for row in rows for c in row))
  return tabulate.tabulate(
    [[format_value(row.get(c)) for c in columns] for row in rows],
    columns,
    "pipe",
    disable_numparse=True,
    colalign=[
      "right"
      if any(isinstance(row.get(c), int | float) for row in rows)
      else "left"
      for c in columns
    ],
  )


def benchmark_table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table of a benchmark; its notes only if there are some."""
  columns = COLUMNS.get(name, "").split()
  if columns and any(row.get("note") for row in rows):
    columns.append("note")
  return format_table(rows, columns)


def write_json(path: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Writes the JSON object of a benchmark."""
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_json(path, result)


def run(
  name: str,
  make_rows: Callable[[bool], Iterable[Row]],
  *,
  program: str,
  result: str,
  device: Callable[[bool], str] = lambda quick: provenance.device_name(),
  is_whole: Callable[[], bool] = lambda: True,
) -> None:
  """Runs a benchmark as a program: flags, table, JSON.

  Args:
    name: of the benchmark and of its table.
    make_rows: `quick -> rows`; those of an iterator are written as they come.
    program: what `python -m benchmarks.PROGRAM` runs.
    result: file of the result in benchmarks/results; `{device}` is replaced.
    device: `quick -> name` of what the result depends on.
    is_whole: whether everything was asked for. A part does not replace the
      kept result.
  """

  def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
      sys.exit(f"Error: unknown arguments: {' '.join(argv[1:])}")
    # Torch and JAX share a GPU: neither may take all of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Idle threads of torch must not spin: they would slow whoever comes next.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quick = _QUICK.value
    folder = RESULTS if is_whole() and not quick else _QUICK_RESULTS
    rows: list[Row] = []

    def write(suffix: str) -> pathlib.Path:
      # Not asked before there is a row: a benchmark may choose its devices.
      found = result_object(name, rows, device(quick), program=program)
      kept = folder / result.format(device=found["device"])
      path = pathlib.Path(_JSON.value) if _JSON.value else kept
      write_json(path.with_name(path.name + suffix), found)
      return path

    try:
      for row in make_rows(quick):
        rows.append(row)
        write(_PARTIAL)  # What was measured stays if the rest is not.
    except (ValueError, FileNotFoundError) as error:
      sys.exit(f"Error: {error}")
    print(f"\n{name} on {device(quick)}\n")
    print(benchmark_table(name, rows))
    path = write("")
    path.with_name(path.name + _PARTIAL).unlink(missing_ok=True)
    print(f"\nWritten to {path}")

  app.run(main)
