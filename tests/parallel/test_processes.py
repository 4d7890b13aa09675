"""Several processes of this machine do together what one does alone."""

import http.server
import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from skd_jax import models
from skd_jax.parallel import processes
from skd_jax.training import checkpoint
from tests import damage, tiny_run
from tests.toy_models import LLAMA, noisy_params

_ROOT = pathlib.Path(__file__).parents[2]
_SLURM = {
  "SLURM_JOB_ID": "41",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_NTASKS": "16",
  "SLURM_PROCID": "3",
  "SLURM_LOCALID": "3",
}


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ({"num_processes": 2, "process_id": 0}, "--coordinator_address is missing"),
    ({"process_id": 0}, "--coordinator_address is missing"),
    ({"coordinator_address": "host:1"}, "--num_processes is missing"),
    (
      {"coordinator_address": "host:1", "num_processes": 2},
      "--process_id is missing",
    ),
    (("host", 2, 0), "--coordinator_address=host: must be HOST:PORT"),
    (("host:", 2, 0), "--coordinator_address=host:: must be HOST:PORT"),
    (("host:1", 0, 0), "--num_processes=0: must be at least 1"),
    (("host:1", 2, 2), r"--process_id=2: must be in \[0, 2\)"),
    (("host:1", 2, -1), r"--process_id=-1: must be in \[0, 2\)"),
  ],
)
def test_flags_that_do_not_fit_together_are_an_error(arguments, said):
  if isinstance(arguments, tuple):
    names = ("coordinator_address", "num_processes", "process_id")
    arguments = dict(zip(names, arguments, strict=True))
  with pytest.raises(ValueError, match=said):
    processes.initialize(**arguments)
  assert not jax.distributed.is_initialized()


def test_what_processes_run_computes_nothing_when_it_is_imported():
  # JAX joins processes only before its first computation.
  program = (
    "import tests.in_processes; from jax._src import xla_bridge; "
    "assert not xla_bridge.backends_are_initialized()"
  )
  subprocess.run([sys.executable, "-c", program], check=True, cwd=_ROOT)


@pytest.fixture
def environment(monkeypatch):
  """An environment without a launcher, to be changed."""
  for name in os.environ:
    if name.startswith(("SLURM_", "TPU_", "GCE_")):
      monkeypatch.delenv(name)
  return monkeypatch


def test_without_a_launcher_nothing_is_initialized(environment):
  assert processes.num_launched() == 1
  processes.initialize()
  assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
  ("changes", "count"),
  [
    ({}, 16),
    ({"SLURM_NTASKS": "1"}, 1),  # As in an interactive shell.
    ({"SLURM_PROCID": None}, 1),  # As in the batch script.
  ],
)
def test_slurm_step_is_found_in_the_environment(environment, changes, count):
  for name, value in (_SLURM | changes).items():
    if value is not None:
      environment.setenv(name, value)
  assert processes.num_launched() == count


@pytest.fixture
def tpu_host(environment):
  """The environment of a TPU host, as far as it is looked at."""
  find_spec = importlib.util.find_spec
  environment.setattr(
    importlib.util,
    "find_spec",
    lambda name: name if name == "libtpu" else find_spec(name),
  )
  before = jax.config.values["jax_platforms"]
  jax.config.update("jax_platforms", None)
  yield environment
  jax.config.update("jax_platforms", before)


def test_tpu_hosts_are_found_in_the_environment(tpu_host):
  tpu_host.setenv("TPU_WORKER_HOSTNAMES", "host-0,host-1,host-2")
  assert processes.num_launched() == 3
  tpu_host.setenv("TPU_PROCESS_ADDRESSES", "local")
  assert processes.num_launched() == 1
  # Where JAX is told to use the CPU, the slice does not matter.
  tpu_host.delenv("TPU_PROCESS_ADDRESSES")
  jax.config.update("jax_platforms", "cpu")
  assert processes.num_launched() == 1


class _Metadata(http.server.BaseHTTPRequestHandler):
  """A metadata server of a TPU VM of four workers."""

  def do_GET(self):
    """Answers as the real one."""
    found = self.headers["Metadata-Flavor"] == "Google" and self.path == (
      "/computeMetadata/v1/instance/attributes/worker-network-endpoints"
    )
    self.send_response(200 if found else 404)
    self.end_headers()
    if found:
      self.wfile.write(b"a:b:10.0.0.2,a:b:10.0.0.3,a:b:10.0.0.4,a:b:10.0.0.5")

  def log_message(self, *_):
    """Says nothing."""


def test_workers_of_a_tpu_vm_are_found_on_its_metadata_server(tpu_host):
  server = http.server.HTTPServer(("127.0.0.1", 0), _Metadata)
  address = f"127.0.0.1:{server.server_port}"
  threading.Thread(target=server.serve_forever, daemon=True).start()
  tpu_host.setenv("GCE_METADATA_IP", address)
  try:
    assert processes.num_launched() == 4
    tpu_host.setenv("TPU_SKIP_MDS_QUERY", "1")  # JAX has found no chips.
    assert processes.num_launched() == 1
    tpu_host.delenv("TPU_SKIP_MDS_QUERY")
    tpu_host.setenv("GCE_METADATA_IP", f"{address}/elsewhere?")
    assert processes.num_launched() == 1
  finally:
    server.shutdown()
    server.server_close()
  tpu_host.setenv("GCE_METADATA_IP", address)  # Nothing answers.
  assert processes.num_launched() == 1


def test_one_process_has_nobody_to_wait_for(tmp_path):
  assert processes.is_first()
  assert processes.describe() == ""
  processes.barrier("here")
  assert processes.any_process(True) is True
  assert processes.any_process(False) is False
  assert processes.on_first(lambda a, b: (a, b), 1, b={2}) == (1, {2})
  with pytest.raises(FileNotFoundError):
    processes.on_first((tmp_path / "none").read_text)
  processes.check_shared(tmp_path / "none")
  found = processes.to_host({"a": jnp.arange(3), "b": 2.0})
  assert isinstance(found["a"], np.ndarray)
  np.testing.assert_array_equal(found["a"], [0, 1, 2])
  assert found["b"] == 2.0


class Group:
  """Processes of one run, started together; their output goes to files."""

  def __init__(self, folder, count, num_devices, command):
    folder.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k}
    environment |= {
      "JAX_PLATFORMS": "cpu",
      "JAX_ENABLE_COMPILATION_CACHE": "0",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
    }
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      address = f"127.0.0.1:{free.getsockname()[1]}"
    self._outputs = [folder / f"process_{i}" for i in range(count)]
    self.processes = []
    for number, path in enumerate(self._outputs):
      arguments = command(address, str(count), str(number))
      with (
        path.with_suffix(".out").open("w") as output,
        path.with_suffix(".err").open("w") as errors,
      ):
        self.processes.append(
          subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=_ROOT,
            env=environment,
            stdout=output,
            stderr=errors,
          )
        )

  def wait(self, timeout=240):
    """The exit codes, once all have ended."""
    end = time.monotonic() + timeout
    return [
      process.wait(max(end - time.monotonic(), 0.1))
      for process in self.processes
    ]

  def wait_for(self, is_reached, timeout=180):
    """Waits until something is so, while all of them run."""
    end = time.monotonic() + timeout
    while not is_reached():
      assert time.monotonic() < end
      assert all(p.poll() is None for p in self.processes), self.errors
      time.sleep(0.05)

  @property
  def errors(self):
    """What each has written to stderr."""
    return [path.with_suffix(".err").read_text() for path in self._outputs]

  @property
  def results(self):
    """What each has returned."""
    assert self.wait() == [0] * len(self.processes), self.errors
    # Gloo, too, writes to stdout.
    return [
      json.loads(path.with_suffix(".out").read_text().splitlines()[-1])
      for path in self._outputs
    ]

  def end(self):
    """Ends what a failed test may have left behind."""
    for process in self.processes:
      process.kill()
      process.wait()


@pytest.fixture
def start(tmp_path):
  """start(PART, FOLDER, number of processes, devices of each) -> Group."""
  started = []

  def start_part(name, folder, count, num_devices):
    def command(*whom):
      return ["tests.in_processes", name, str(folder), *whom]

    output = tmp_path / "output" / str(len(started))
    started.append(Group(output, count, num_devices, command))
    return started[-1]

  yield start_part
  for group in started:
    group.end()


@pytest.mark.slow
def test_processes_agree(start, tmp_path):
  folder = tmp_path / "shared"
  folder.mkdir()
  first, second = start("talk", folder, 2, 2).results
  assert (first["is_first"], second["is_first"]) == (True, False)
  assert second["description"] == " in process 1 of 2"
  for found in (first, second):
    assert found["gathered"] == {
      "rows": list(range(8)),
      "whole": [0, 1, 2],
      "host": [0, 1],
    }
    assert found["cut"] == [[2 * i] for i in range(8)]
    assert found["one"] is True
    assert found["none"] is False
    assert found["value"] == ["of process", 0, "ä" * 5000]
    assert found["nothing"] is None
    assert found["shared"] is None
    name, message = found["apart"]
    assert name == "ValueError"
    assert "must be a folder that all 2 processes share" in message
    assert found["left"] == []
  assert first["failed"] == ["FileNotFoundError", "no such data"]
  assert second["failed"] == ["FirstProcessError", "no such data"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_each_process_reads_the_rows_of_its_devices(start, tmp_path, count):
  results = start("deal", tmp_path, count, 4 // count).results
  # Neighbours along `tensor` hold the same rows, and read them both.
  for mesh, parts in {
    "4x1x1": count,
    "1x4x1": count,
    "2x2x1": count,
    "2x1x2": 2,
    "1x2x2": 2,
    "1x1x4": 1,
  }.items():
    found = [result[mesh] for result in results]
    assert all(one["whole"] for one in found), mesh
    assert [one["reader"] for one in found] == [
      [number * parts // count, parts] for number in range(count)
    ], mesh


@pytest.mark.slow
def test_first_process_writes_for_all(start, tmp_path):
  folder = tmp_path / "shared"
  folder.mkdir()
  results = start("write", folder, 2, 2).results
  for found in results:
    assert found["finished"] == found["again"] == {"process": 0}
    assert found["calls"] == [0]
    assert found["stale"][0] == "ValueError"
    assert "seed was 0 and is 1" in found["stale"][1]
    assert "no earlier export" in found["refused"][1]
  assert len(list((folder / "export").glob("*.safetensors"))) > 1
  loaded = models.load_params(folder / "export", LLAMA)
  jax.tree.map(np.testing.assert_array_equal, loaded, noisy_params(LLAMA))


@pytest.mark.slow
def test_checkpoint_of_two_processes_is_restored_by_one_and_by_four(
  start, tmp_path
):
  folder = tmp_path / "checkpoints"
  assert start("save", folder, 2, 2).results
  for count, num_devices in ((1, 1), (4, 1), (1, 2), (2, 2)):
    found = start("restore", folder, count, num_devices).results
    assert found == [{"data": {"next": 7}}] * count
  # The manifest is of the files of both; all take what the first has chosen.
  names = damage.files_of(folder / "7" / "state" / "ocdbt.process_1")
  damage.KINDS["flipped"](folder / "7" / "state" / "ocdbt.process_1" / names[0])
  group = start("restore", folder, 2, 1)
  assert group.results == [{"data": {"next": 6}}] * 2
  assert "that of step 6 is used" in group.errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_one_process_stops_all_after_the_same_step(
  start, tmp_path, number
):
  group = start("train", tmp_path, 2, 1)
  log = tmp_path / "metrics.jsonl"
  group.wait_for(lambda: log.exists() and log.read_text().count("\n") > 3)
  group.processes[1].send_signal(number)
  first, second = group.results
  assert first == second
  folder = checkpoint.folder(tmp_path, "teacher")
  with checkpoint.open_manager(folder) as manager:
    (step,) = manager.all_steps()
  assert first == {"stopped": f"Stopped after step {step} of 'teacher'"}
  # The first process alone has written the log.
  lines = [json.loads(line) for line in log.read_text().splitlines()]
  assert [line["step"] for line in lines] == list(range(1, step + 1))
  assert len(list(tmp_path.rglob("events.*"))) == 1


@pytest.mark.slow
def test_process_that_fails_alone_ends_the_others(start, tmp_path):
  group = start("fail", tmp_path, 2, 1)
  codes = group.wait(timeout=150)
  assert 0 not in codes
  assert "ValueError: this process alone" in group.errors[1]


# Short, so that roundings do not grow into other tokens. The models differ, so
# that a divergence is no small difference of large numbers.
_EXPERIMENT = """
import pathlib
from tests import tiny_run

def get_config():
  config = tiny_run.config(pathlib.Path({data!r}))
  config.seeds = (0,)
  config.teacher.fit.update(num_steps=10, log_every_steps=1, learning_rate=1e-2)
  config.student.fit.update(num_steps=4, log_every_steps=1, learning_rate=2e-3)
  config.distill.num_steps = {num_steps}
  config.distill.evaluate_every_steps = 0
  return config
"""


@pytest.fixture
def start_main(tmp_path):
  """start_main(WORKDIR, number of processes, devices of each) -> Group.

  PROCESS in WORKDIR is the number of the process.
  """
  started = []
  (tmp_path / "data").mkdir()
  tiny_run.write_data(tmp_path / "data")

  def start(workdir, count, num_devices, *, num_steps=4, **mesh):
    experiment = tmp_path / f"steps_{num_steps}.py"
    experiment.write_text(
      _EXPERIMENT.format(data=str(tmp_path / "data"), num_steps=num_steps)
    )

    def command(address, count, number):
      return [
        "skd_jax.main",
        f"--config={experiment}",
        f"--workdir={str(workdir).replace('PROCESS', number)}",
        f"--coordinator_address={address}",
        f"--num_processes={count}",
        f"--process_id={number}",
        *[f"--config.mesh.{axis}={size}" for axis, size in mesh.items()],
      ]

    output = tmp_path / "output" / str(len(started))
    started.append(Group(output, count, num_devices, command))
    return started[-1]

  yield start
  for group in started:
    group.end()


def _losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
  logged = [json.loads(line) for line in lines]
  keys = [(line["stage"], line["step"]) for line in logged if "loss" in line]
  losses = [line["loss"] for line in logged if "loss" in line]
  assert len(set(keys)) == len(keys)
  return dict(zip(keys, losses, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_several_processes_train_as_one(start_main, tmp_path):
  found = {}
  for count, num_devices, mesh in (
    (1, 1, {}),
    (2, 2, {"data": 2, "fsdp": 2}),
    (4, 1, {"fsdp": 2, "tensor": 2}),
  ):
    workdir = tmp_path / f"workdir_{count}"
    group = start_main(workdir, count, num_devices, **mesh)
    assert group.wait(timeout=580) == [0] * count, group.errors
    found[count] = _losses(workdir)
    assert (workdir / "report.json").exists()
    assert (workdir / "report.html").exists()
    # The bar and the messages of the run are shown once.
    assert "distill" in group.errors[0]
    assert not any("distill" in errors for errors in group.errors[1:])
  assert len(found[1]) == 18
  for count in (2, 4):
    assert found[count] == pytest.approx(found[1], rel=1e-5)
    ours, one = (
      safetensors.load_file(
        tmp_path / f"workdir_{n}" / "export" / "model.safetensors"
      )
      for n in (count, 1)
    )
    for name, array in one.items():
      np.testing.assert_allclose(ours[name], array, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_signal_to_one_process_ends_the_whole_run(start_main, tmp_path):
  group = start_main(tmp_path / "workdir", 2, 1, num_steps=100_000)
  log = tmp_path / "workdir" / "metrics.jsonl"
  group.wait_for(
    lambda: log.exists() and log.read_text("utf-8").count('"distill"') > 2,
    timeout=500,
  )
  group.processes[1].send_signal(signal.SIGINT)
  assert group.wait() == [130, 130], group.errors
  said = [errors.count("Stopped after step") for errors in group.errors]
  assert said == [1, 0]
  folder = checkpoint.folder(tmp_path / "workdir", "distill_seed_0")
  with checkpoint.open_manager(folder) as manager:
    step = manager.latest_step()
  assert f"Stopped after step {step} of 'distill_seed_0'" in group.errors[0]


@pytest.mark.slow
def test_folders_apart_are_one_clear_line(start_main, tmp_path):
  # As of two machines without a common disk.
  group = start_main(tmp_path / "PROCESS" / "workdir", 2, 1)
  assert group.wait() == [1, 1], group.errors
  for number, errors in enumerate(group.errors):
    line = errors.strip().splitlines()[-1]
    assert line.startswith(f"Error in process {number} of 2: workdir = ")
    assert "must be a folder that all 2 processes share" in line
