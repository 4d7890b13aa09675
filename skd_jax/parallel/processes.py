"""A run of several processes: one program in each, as JAX has it.

Every process runs the same lines in the same order; an array may be spread over
the devices of all of them, and a computation on it is one that all take part
in. What only one may do, such as writing a file, is done by the first, and the
others wait for it:

  process 0    step  step  on_first(write_report) ------> step
  process 1    step  step  on_first(waits.......) ------> step

In a run of one process nothing here communicates.
"""

import importlib.util
import json
import os
import pathlib
import tempfile
import urllib.request
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

P = ParamSpec("P")
T = TypeVar("T")

# What srun sets for each of its processes, and JAX asks for.
_SLURM = (
  "SLURM_JOB_ID",
  "SLURM_STEP_NODELIST",
  "SLURM_NTASKS",
  "SLURM_PROCID",
  "SLURM_LOCALID",
)
# How long a process that ends waits for the others to end as well.
_SHUTDOWN_S = 60
# The first process may train a tokenizer or write a large model. That the
# others wait for a process that has died, JAX finds out sooner.
_PATIENCE_S = 24 * 3600


class FirstProcessError(RuntimeError):
  """The first process has failed at what the others waited for."""


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the other processes of this run, if there are any.

  Without arguments the environment decides, see `num_launched`: in a SLURM step
  of several tasks, and on a TPU slice of several hosts, jax.distributed finds
  out the rest; anywhere else nothing is done. To be called before anything asks
  JAX for its devices.

  When all processes fail alike, as by a bad config, all end at once. When one
  fails alone, it says why and waits at most a minute for the others; then, or
  when nothing was heard of it for 100 s, as after a kill -9, JAX's distributed
  service aborts all that still run, with exit code 134 and a trace of its own.

  Processes on CPUs communicate by gloo, the default of JAX 0.10 and newer.

  Args:
    coordinator_address: HOST:PORT, a free port of the host of process 0.
    num_processes: of the run.
    process_id: of this process, from 0.

  Raises:
    ValueError: only some of the arguments are given, or one is out of range.
  """
  given: dict[str, Any] = {
    "coordinator_address": coordinator_address,
    "num_processes": num_processes,
    "process_id": process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if missing and len(missing) < len(given):
    raise ValueError(
      f"--{missing[0]} is missing: --coordinator_address, --num_processes and "
      "--process_id are given together, or none of them"
    )
  options: dict[str, Any] = {}
  if not missing:
    _check(**given)
    # By hand, a process has all devices that it sees; SLURM's has one GPU.
    options = {**given, "cluster_detection_method": "deactivate"}
  elif num_launched() == 1:
    return
  # JAX's service would take SIGTERM for the whole process, between two stages
  # as well, where nobody asks it. The loop also agrees on Ctrl-C and on clocks,
  # by four bytes a step; a step waits for the gradient of all anyway.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(**options, shutdown_timeout_seconds=_SHUTDOWN_S)


def _check(
  coordinator_address: str, num_processes: int, process_id: int
) -> None:
  host, _, port = coordinator_address.rpartition(":")
  if not (host and port.isdecimal()):
    raise ValueError(
      f"--coordinator_address={coordinator_address}: must be HOST:PORT"
    )
  if num_processes < 1:
    raise ValueError(f"--num_processes={num_processes}: must be at least 1")
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f"--process_id={process_id}: must be in [0, {num_processes})"
    )


def num_launched() -> int:
  """Returns how many processes this run has, as the environment says.

  The tasks of a SLURM step (srun), or the hosts of a TPU slice: as listed by
  TPU_PROCESS_ADDRESSES or TPU_WORKER_HOSTNAMES on GKE, and by the metadata
  server on a TPU VM. 1 anywhere else.
  """
  if all(name in os.environ for name in _SLURM):
    return int(os.environ["SLURM_NTASKS"])
  platforms = jax.config.values["jax_platforms"]
  if platforms and "tpu" not in platforms:
    return 1
  if importlib.util.find_spec("libtpu") is None:
    return 1
  for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
    if os.environ.get(name):
      return len(os.environ[name].split(","))
  # JAX sets this where it finds no chips.
  if "TPU_SKIP_MDS_QUERY" in os.environ:
    return 1
  return _tpu_vm_workers()


def _tpu_vm_workers() -> int:
  """The workers of the TPU VM that this is; 1 where it is none."""
  server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    f"http://{server}/computeMetadata/v1/instance/attributes/"
    "worker-network-endpoints",
    headers={"Metadata-Flavor": "Google"},
  )
  # Not by way of a proxy.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with opener.open(request, timeout=10) as answer:
      return len(answer.read().decode().split(","))
  except OSError:  # No such server, or no such attribute.
    return 1


def is_first() -> bool:
  """Whether this is the process that writes and shows."""
  return jax.process_index() == 0


def describe() -> str:
  """Returns " in process 1 of 4" for a message, "" where it is the only one."""
  if jax.process_count() == 1:
    return ""
  return f" in process {jax.process_index()} of {jax.process_count()}"


def barrier(name: str) -> None:
  """Waits until every process has come here.

  Args:
    name: of the place; a place may be passed again.
  """
  if jax.process_count() == 1:
    return
  # Imported here: most programs have one process, and orbax is large.
  from orbax.checkpoint import multihost

  # By the distributed service: collectives of devices are not for long waits.
  wait = multihost.get_barrier_sync_fn()
  wait(key=f"skd_jax.{name}", timeout_ms=_PATIENCE_S * 1000)


def on_first(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
  """Calls a function in the first process; the others wait for its value.

  Args:
    function: returns what JSON can hold.
    *args: of the function.
    **kwargs: of the function.

  Returns:
    The value, the same in every process; of several processes, as JSON reads
    it back: tuples are lists.

  Raises:
    FirstProcessError: in the other processes, where it raises in the first.
  """
  if jax.process_count() == 1:
    return function(*args, **kwargs)
  text, error = "", None
  if is_first():
    try:
      text = json.dumps({"value": function(*args, **kwargs)})
    except Exception as raised:
      error = raised
      text = json.dumps({"error": str(raised) or type(raised).__name__})
  barrier("on_first")
  outcome = json.loads(_from_first(text))
  if error is not None:
    raise error
  if "error" in outcome:
    raise FirstProcessError(outcome["error"])
  return outcome["value"]


def _from_first(text: str) -> str:
  """Gives the text of the first process to all."""
  data = text.encode()
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  # Every size is compiled once: few sizes.
  buffer = np.zeros(-(-length // 4096) * 4096, np.uint8)
  if is_first():
    buffer[:length] = np.frombuffer(data, np.uint8)
  buffer = multihost_utils.broadcast_one_to_all(buffer)
  return bytes(buffer[:length]).decode()


def any_process(flag: bool) -> bool:
  """Returns whether the flag is true in some process."""
  return bool(largest(int(flag)))


def largest(value: int) -> int:
  """Returns the largest of the values that the processes have."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.process_allgather(np.int32(value)).max())


def to_host(tree: Any) -> Any:
  """Returns the tree with numpy arrays, each the whole value, in every process.

  What is on the devices of several processes is brought together array by
  array, so all of them must call this alike. Arrays of this process alone are
  taken as they are: each process must hold the same.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)

  def fetch(leaf):
    if not isinstance(leaf, jax.Array):
      return leaf
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
      return jax.device_get(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)

  return jax.tree.map(fetch, tree)


def check_shared(folder: pathlib.Path) -> None:
  """Checks that all processes see one and the same folder.

  What the first process writes, such as the tokenizer and the teacher, the
  others read there, and each writes its part of a checkpoint.

  Raises:
    ValueError: some process does not see a file that the first has just made.
  """
  if jax.process_count() == 1:
    return
  mark = folder / on_first(_make_mark, folder)
  is_missed = any_process(not mark.exists())
  if is_first():
    mark.unlink()
  if is_missed:
    raise ValueError(
      f"workdir = {folder}: must be a folder that all {jax.process_count()} "
      "processes share, on a network file system or in a mounted bucket"
    )


def _make_mark(folder: pathlib.Path) -> str:
  handle, path = tempfile.mkstemp(prefix=".seen_by_all.", dir=folder)
  os.close(handle)
  return pathlib.Path(path).name
