"""The launch scripts, with a stand-in for the tools of the cluster."""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = "https://cloud.google.com/sdk/gcloud/reference"
# The documented flags of the commands in use (the pages of gcloud 528.0.0), of
# those with a value as NAME=. The path of the page is that of the command.
_GCLOUD_WIDE = {"--project=", "--format=", "--quiet"}
_SURFACE = {
  "compute/tpus/queued-resources/create": {
    *("--zone=", "--runtime-version=", "--accelerator-type=", "--topology="),
    *("--type=", "--node-id=", "--node-count=", "--node-prefix=", "--async"),
    *("--data-disk=", "--description=", "--guaranteed", "--internal-ips"),
    *("--labels=", "--metadata=", "--metadata-from-file=", "--network="),
    *("--range=", "--reserved", "--scopes=", "--service-account=", "--spot"),
    *("--shielded-secure-boot", "--subnetwork=", "--tags="),
    *("--valid-after-duration=", "--valid-after-time="),
    *("--valid-until-duration=", "--valid-until-time="),
  },
  "compute/tpus/queued-resources/describe": {"--zone="},
  "compute/tpus/queued-resources/delete": {"--zone=", "--async", "--force"},
  "compute/tpus/tpu-vm/describe": {"--zone="},
  "compute/tpus/tpu-vm/ssh": {
    *("--zone=", "--worker=", "--command=", "--output-directory=", "--plain"),
    *("--dry-run", "--force-key-file-overwrite", "--internal-ip"),
    *("--ssh-flag=", "--ssh-key-file=", "--strict-host-key-checking="),
    *("--ssh-key-expiration=", "--ssh-key-expire-after="),
  },
  "compute/tpus/tpu-vm/scp": {
    *("--zone=", "--worker=", "--recurse", "--compress", "--plain"),
    *("--dry-run", "--force-key-file-overwrite", "--internal-ip"),
    *("--scp-flag=", "--ssh-key-file=", "--strict-host-key-checking="),
    *("--ssh-key-expiration=", "--ssh-key-expire-after="),
  },
  "storage/rsync": {
    *("--recursive", "--exclude=", "--checksums-only", "--no-clobber"),
    *("--continue-on-error", "--delete-unmatched-destination-objects"),
    *("--dry-run", "--skip-unsupported", "--preserve-posix"),
  },
}
_SAFE = ("--name=demo", "--zone=us-central1-a", "--project=my-project")
_SLICE = ("--type=v5litepod-8", "--version=v2-alpha-tpuv5-lite", "--poll=0")
_BUCKET = "--bucket=gs://my-bucket/runs"
_NASTY = (
  """--config.data.prompt=a  "b" it's $(touch pwned); `date` & | * \\ \n?"""
)
_MODULE = ("--", "skd_jax.main", "--config=configs/wmt.py", _NASTY)
_DELETE = (
  "gcloud compute tpus queued-resources delete demo --zone=us-central1-a "
  "--project=my-project --force --quiet"
)

# Records its arguments; says what it was told to say, in each step's turn.
_STAND_IN = """#!{python} -IS
import json, os, sys
folder = {folder!r}
arguments = sys.argv[1:]
with open(folder + "/told.json") as file:
  told = json.load(file)
words = [a for a in arguments if not a.startswith("-")]
command = next((a for a in arguments if a.startswith("--command=")), "")
step = words[3] if words[0] == "compute" else "fetch"
if words[0] == "compute" and words[2] == "tpu-vm":
  step = {{"describe": "node", "scp": "copy", "ssh": "run"}}[step]
if step == "copy" and words[-2].startswith("demo:"):
  step = "fetch"
if step == "run" and "tpu_worker.sh run" not in command:
  step = "setup"
with open(folder + "/calls.jsonl", "a+") as file:
  file.write(json.dumps([step, arguments]) + "\\n")
  file.seek(0)
  turn = sum(json.loads(line)[0] == step for line in file) - 1
answers = told.get(step, [])
answer = answers[min(turn, len(answers) - 1)] if answers else 0
if step in ("describe", "node"):
  print(answer or {{"describe": "ACTIVE", "node": "READY"}}[step])
  answer = 0
if answer == "sleep":
  print("sleeping", flush=True)
  os.execvp("sleep", ["sleep", "60"])
sys.exit(answer)
"""


class Cloud:
  """A stand-in gcloud, and the launcher under test."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    (folder / "bin").mkdir()
    gcloud = folder / "bin" / "gcloud"
    gcloud.write_text(
      _STAND_IN.format(python=sys.executable, folder=str(folder)), "utf-8"
    )
    gcloud.chmod(0o755)
    self.told({})

  def told(self, answers):
    """Sets exit codes, or states, by step; the last one is repeated."""
    (self.folder / "told.json").write_text(json.dumps(answers), "utf-8")

  def popen(
    self, *arguments, program=_ROOT / "launch" / "tpu_vm.sh", **options
  ):
    path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
      [program, *arguments],
      cwd=self.folder,
      env=os.environ | {"PATH": path, "TMPDIR": str(self.folder)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      **options,
    )

  def run(self, *arguments, module=_MODULE):
    process = self.popen(*_SAFE, *_SLICE, *arguments, *module)
    output, errors = process.communicate(timeout=30)
    return subprocess.CompletedProcess((), process.returncode, output, errors)

  @property
  def calls(self):
    path = self.folder / "calls.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  @property
  def steps(self):
    """The steps in order, each series of the same step once."""
    return [step for step, _ in itertools.groupby(s for s, _ in self.calls)]


@pytest.fixture
def cloud(tmp_path):
  return Cloud(tmp_path)


_ALL_STEPS = ["create", "describe", "copy", "setup", "run", "fetch", "delete"]


def test_steps_are_called_in_order_once(cloud):
  cloud.told({"describe": ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]})
  result = cloud.run()
  assert result.returncode == 0, result.stderr
  assert cloud.steps == _ALL_STEPS
  assert [step for step, _ in cloud.calls].count("describe") == 3
  assert "demo is PROVISIONING" in result.stderr
  assert not list(cloud.folder.glob("tmp.*"))  # The packed checkout is gone.


@pytest.mark.parametrize("bucket", [(), (_BUCKET, "--spot")])
def test_dry_run_prints_what_a_run_calls_and_calls_nothing(cloud, bucket):
  printed = cloud.run("--dry-run", *bucket)
  assert printed.returncode == 0, printed.stderr
  assert not cloud.calls
  assert not (cloud.folder / "workdir").exists()
  # What is printed is a script that does the same.
  pasted = cloud.popen("-ec", printed.stdout, program="bash")
  assert pasted.wait(timeout=30) == 0
  by_paste = cloud.calls
  (cloud.folder / "calls.jsonl").unlink()
  shutil.rmtree(cloud.folder / "workdir")
  cloud.run(*bucket)
  by_run = cloud.calls
  archives = [
    call.pop(4) for step, call in (*by_paste, *by_run) if step == "copy"
  ]
  assert archives
  assert by_paste == by_run


@pytest.mark.parametrize("bucket", [(), (_BUCKET, "--spot")])
def test_only_documented_flags_are_given(cloud, bucket):
  if bucket:  # After a preemption, which is asked for.
    cloud.told({"run": [1, 0], "node": ["PREEMPTED"]})
  assert cloud.run(*bucket).returncode == 0
  assert set(cloud.steps) == {*_ALL_STEPS, *(["node"] if bucket else [])}
  for _, arguments in cloud.calls:
    words = list(itertools.takewhile(lambda a: a[0] != "-", arguments))
    page = next(p for p in _SURFACE if "/".join(words).startswith(p))
    allowed = _SURFACE[page] | _GCLOUD_WIDE
    for flag in (a for a in arguments if a.startswith("-")):
      name, equals, _ = flag.partition("=")
      assert name + equals in allowed, f"{flag}: {_PAGES}/{page}"


@pytest.mark.parametrize("step", _ALL_STEPS)
def test_failed_step_stops_and_names_the_clean_up(cloud, step):
  cloud.told({step: ["FAILED"] if step == "describe" else [3]})
  result = cloud.run()
  assert result.returncode == (1 if step == "describe" else 3)
  assert cloud.steps == _ALL_STEPS[: _ALL_STEPS.index(step) + 1]
  assert _DELETE in result.stderr
  assert "Done" not in result.stderr


def test_nothing_is_created_where_the_checkout_cannot_be_packed(cloud):
  (cloud.folder / "bin" / "tar").write_text("#!/bin/sh\nexit 2\n")
  (cloud.folder / "bin" / "tar").chmod(0o755)
  result = cloud.run()
  assert result.returncode == 2
  assert not cloud.calls
  assert "delete" not in result.stderr


def test_interrupt_stops_and_names_the_clean_up(cloud):
  cloud.told({"run": ["sleep"]})
  process = cloud.popen(*_SAFE, *_SLICE, *_MODULE, start_new_session=True)
  assert process.stdout.readline() == "sleeping\n"
  os.killpg(process.pid, signal.SIGINT)  # As Ctrl-C does: to all of them.
  _, errors = process.communicate(timeout=10)
  assert process.returncode == 130
  assert _DELETE in errors
  assert cloud.steps == _ALL_STEPS[:5]


# Each time ACTIVE when it is made, and still at the first look after the loss.
_TWICE_SUSPENDED = ["ACTIVE", "ACTIVE", "SUSPENDED"] * 2 + ["ACTIVE"]


@pytest.mark.parametrize(
  "told",
  [
    {"run": [255, 255, 0], "describe": _TWICE_SUSPENDED},
    {"run": [255, 255, 0], "node": ["READY", "PREEMPTED"]},
    {"copy": [1, 1, 0], "node": ["TERMINATED"]},
    {"describe": ["SUSPENDED"] * 6 + ["ACTIVE"]},
    {"run": [1, 1, 0], "describe": ["ACTIVE", "FAILED"] * 2 + ["ACTIVE"]},
  ],
)
def test_preempted_spot_slice_is_created_again_until_done(cloud, told):
  cloud.told(told)
  result = cloud.run("--spot", _BUCKET)
  assert result.returncode == 0, result.stderr
  steps = [s for s in cloud.steps if s in ("create", "delete", "fetch")]
  assert steps == ["create", "delete"] * 2 + ["create", "fetch", "delete"]
  creates = [call for step, call in cloud.calls if step == "create"]
  assert all("--spot" in call for call in creates)
  # The run finds its checkpoints by the same folder of the bucket.
  setups = [c for s, c in cloud.calls if s == "setup" and "bucket" in str(c)]
  assert all("setup my-bucket runs/demo" in str(call) for call in setups)


def test_attempts_end(cloud):
  cloud.told({"run": [255], "node": ["PREEMPTED"]})
  result = cloud.run("--spot", _BUCKET, "--max-attempts=2")
  assert result.returncode == 255
  assert cloud.steps.count("create") == 2
  assert _DELETE in result.stderr


def test_failed_program_on_a_healthy_spot_slice_is_not_run_again(cloud):
  cloud.told({"run": [1]})
  result = cloud.run("--spot", _BUCKET)
  assert result.returncode == 1
  assert cloud.steps.count("create") == 1
  assert _DELETE in result.stderr


def test_slice_that_never_was_active_is_not_created_again(cloud):
  cloud.told({"describe": ["WAITING_FOR_RESOURCES", "FAILED"]})
  result = cloud.run("--spot", _BUCKET, "--poll=0")
  assert result.returncode == 1
  assert cloud.steps.count("create") == 1
  assert "demo is FAILED" in result.stderr
  assert _DELETE in result.stderr


def test_slice_on_demand_is_not_created_again(cloud):
  cloud.told({"run": [255], "node": ["PREEMPTED"]})
  assert cloud.run().returncode == 255
  assert cloud.steps.count("create") == 1


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--name=Demo"], "--name=Demo"),
    (["--name="], "--name is missing"),
    (["--name=a;b"], "--name=a;b"),
    (["--zone=-h"], "--zone=-h"),
    (["--project=$(id)"], "--project=$(id)"),
    (["--nme=demo"], "--nme=demo"),
    (["--timeout=soon"], "--timeout=soon"),
    (["--poll=often"], "--poll=often"),
    (["--max-attempts=0"], "--max-attempts=0"),
    (["--bucket=my-bucket"], "--bucket=my-bucket"),
    (["--output=host:folder"], "--output=host:folder"),
    (["--output=bin"], "--output=bin"),
    (["--spot"], "--bucket"),
    (["--type=v5litepod-16"], "--bucket"),
    (["--", "skd_jax.main", "--workdir=x"], "--workdir=x"),
    (["--", "skd_jax.main; id"], "skd_jax.main; id"),
    (["--"], "module"),
    (["skd_jax.main"], "skd_jax.main"),
  ],
)
def test_bad_flag_is_one_line_and_calls_nothing(cloud, arguments, words):
  result = cloud.run(*arguments, module=())
  assert result.returncode == 1
  (line,) = result.stderr.splitlines()
  assert line.startswith("Error: ")
  assert words in line
  assert not cloud.calls


@pytest.fixture
def checkout(tmp_path):
  """A checkout whose run.sh and setup.sh only say how they were called."""
  launch = tmp_path / "home" / "skd_jax" / "launch"
  launch.mkdir(parents=True)
  for name in ("tpu_worker.sh", "slurm.sh"):
    shutil.copy(_ROOT / "launch" / name, launch)
  _script(launch / "setup.sh", "exit 0")
  return launch.parent


def _script(path, text):
  path.write_text(f"#!/usr/bin/env bash\n{text}\n", "utf-8")
  path.chmod(0o755)


_SAY = 'printf "%s\\0" "$EXTRA" "$@"'


def _said(output):
  return output.split("\0")[:-1]


def test_arguments_reach_the_module_on_the_workers_as_given(cloud, checkout):
  _script(checkout / "launch" / "run.sh", f"{_SAY}; exit 7")
  cloud.run()
  call = next(call for step, call in cloud.calls if step == "run")
  command = next(a for a in call if a.startswith("--command="))
  # gcloud and ssh hand it to the login shell of the worker.
  result = subprocess.run(
    ["bash", "-c", command.removeprefix("--command=")],
    cwd=checkout.parent,
    capture_output=True,
    text=True,
    timeout=20,
    check=False,
  )
  assert _said(result.stdout) == ["tpu", *_MODULE[1:]]
  assert result.returncode == 7
  assert not list(cloud.folder.rglob("pwned"))


def test_lost_connection_joins_the_run_in_progress(checkout):
  _script(
    checkout / "launch" / "run.sh",
    'echo begun; until [ -e go ]; do sleep 0.05; done; echo "ended: $1"',
  )
  command = [checkout / "launch" / "tpu_worker.sh", "run", "a.module"]
  options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
  first = subprocess.Popen(command, **options)
  try:
    assert first.stdout.readline() == "begun\n"
    os.killpg(first.pid, signal.SIGKILL)
    again = subprocess.Popen(command, **options)
    assert again.stdout.readline() == "begun\n"
  finally:
    (checkout / "go").touch()
  output, _ = again.communicate(timeout=20)
  assert output == "ended: a.module\n"  # In all: begun once, ended once.
  assert again.returncode == 0


def test_worker_mounts_the_bucket_and_puts_the_workdir_there(
  checkout, tmp_path
):
  bin_folder = tmp_path / "bin"
  bin_folder.mkdir()
  _script(bin_folder / "gcsfuse", 'echo "$@"')
  _script(bin_folder / "mountpoint", "exit 1")
  result = subprocess.run(
    [checkout / "launch" / "tpu_worker.sh", "setup", "my-bucket", "runs/demo"],
    env=os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}"},
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.endswith(" my-bucket bucket\n")
  (checkout / "workdir" / "report.md").write_text("report")
  assert (checkout / "bucket" / "runs" / "demo" / "report.md").exists()


class Slurm:
  """sbatch by hand: the script, with stand-ins for srun and scontrol."""

  def __init__(self, checkout, folder):
    self.checkout = checkout
    self.bin = folder / "bin"
    self.bin.mkdir()
    _script(self.bin / "srun", 'shift; exec "$@"')
    _script(self.bin / "scontrol", f'echo "$@" >>{folder}/scontrol')
    self.log = folder / "scontrol"
    self.started: list[subprocess.Popen] = []
    # SLURM runs a copy of the script.
    self.script = folder / "slurm_script"
    shutil.copy(_ROOT / "launch" / "slurm.sh", self.script)

  def popen(self, *arguments, **environment):
    job = {
      "SLURM_JOB_ID": "41",
      "SLURM_SUBMIT_DIR": str(self.checkout),
      "SLURM_NTASKS_PER_NODE": "8",
      "SLURM_GPUS_ON_NODE": "8",
      "PATH": f"{self.bin}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
      [self.script, *arguments],
      env=os.environ | job | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    self.started.append(process)
    return process

  def end(self):
    """Ends what a failed test may have left behind."""
    for process in self.started:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def slurm(checkout, tmp_path):
  slurm = Slurm(checkout, tmp_path)
  yield slurm
  slurm.end()


def test_slurm_hands_arguments_on_and_ends_as_the_run_ends(slurm, checkout):
  _script(checkout / "launch" / "run.sh", f"{_SAY}; exit 5")
  process = slurm.popen("skd_jax.main", _NASTY)
  output, _ = process.communicate(timeout=20)
  assert _said(output) == ["cuda", "skd_jax.main", _NASTY]
  assert process.returncode == 5
  assert not slurm.log.exists()


_STOPS_CLEANLY = """
trap 'echo saved; exit 130' TERM
echo begun
while true; do sleep 0.05; done"""


def test_slurm_job_near_its_limit_saves_and_is_queued_again(slurm, checkout):
  _script(checkout / "launch" / "run.sh", _STOPS_CLEANLY)
  process = slurm.popen("skd_jax.main")
  assert process.stdout.readline() == "begun\n"
  process.send_signal(signal.SIGUSR1)
  output, _ = process.communicate(timeout=20)
  assert output == "saved\n"
  assert slurm.log.read_text() == "requeue 41\n"
  assert process.returncode == 0


def test_cancelled_slurm_job_is_not_queued_again(slurm, checkout):
  pid = checkout / "pid"
  _script(checkout / "launch" / "run.sh", f"echo $$ >{pid}{_STOPS_CLEANLY}")
  process = slurm.popen("skd_jax.main")
  assert process.stdout.readline() == "begun\n"
  process.send_signal(signal.SIGTERM)  # To the script, which waits,
  time.sleep(0.2)
  os.kill(int(pid.read_text()), signal.SIGTERM)  # and to the processes.
  output, _ = process.communicate(timeout=20)
  assert output == "saved\n"
  assert process.returncode == 130
  assert not slurm.log.exists()


def test_slurm_needs_one_process_per_gpu(slurm, checkout):
  _script(checkout / "launch" / "run.sh", "echo begun")
  process = slurm.popen("skd_jax.main", SLURM_NTASKS_PER_NODE="1")
  _, errors = process.communicate(timeout=20)
  assert process.returncode == 1
  assert errors.startswith("Error: --ntasks-per-node=1 ")


def test_scripts_pass_shellcheck():
  # Of the test extra, beside the interpreter, wherever PATH leads.
  shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
  scripts = [*_ROOT.glob("launch/*.sh"), _ROOT / "check.sh", _ROOT / ".ci/run"]
  assert len(scripts) > 7
  result = subprocess.run(
    [shellcheck, *scripts], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stdout
