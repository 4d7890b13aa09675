"""What each process of a test runs; see tests/parallel/test_processes.py.

  python -m tests.in_processes PART FOLDER HOST:PORT COUNT ID

Prints what PART returns, as a line of JSON.
"""

import itertools
import json
import pathlib
import sys
import time

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skd_jax import models, stages, structs
from skd_jax.parallel import processes, sharding
from skd_jax.training import checkpoint, health, loop
from skd_jax.training.cadence import Cadence
from tests.toy_models import LLAMA, noisy_params
from tests.training.test_loop import Numbers

PARTS = {}


def part(function):
  """Makes a function a PART."""
  PARTS[function.__name__] = function
  return function


def spread(values, *axes):
  """The array over the devices of all processes, split as `axes` say."""
  values = np.asarray(values)
  mesh = Mesh(np.array(jax.devices()), ("x",))
  sharding = NamedSharding(mesh, PartitionSpec(*axes))
  return jax.make_array_from_callback(
    values.shape, sharding, values.__getitem__
  )


def state(step, scale):
  """A state whose arrays are split by rows, by columns, or not at all."""
  rows = np.float32(scale) * np.arange(32, dtype=np.float32).reshape(8, 4)
  return structs.TrainState(
    step=spread(np.int32(step)),
    params={"rows": spread(rows, "x"), "columns": spread(rows.T, None, "x")},
    opt_state=(
      spread((rows / 7).astype(ml_dtypes.bfloat16), "x"),
      spread(np.int32(step)),
    ),
  )


def message_of(function, *arguments):
  """[name, message] of what a call raises."""
  try:
    function(*arguments)
  except Exception as error:
    return [type(error).__name__, str(error)]
  return None


@part
def talk(folder):
  """What the processes tell each other."""
  mine = folder / str(jax.process_index())
  mine.mkdir()

  def fail():
    raise FileNotFoundError("no such data")

  processes.barrier("here")
  processes.barrier("here")
  here = jax.process_index()
  return {
    "is_first": processes.is_first(),
    "description": processes.describe(),
    "gathered": processes.to_host(
      {
        "rows": spread(np.arange(8), "x"),
        "whole": spread(np.arange(3)),
        "host": np.arange(2),
      }
    ),
    "cut": processes.to_host(spread(np.arange(16).reshape(8, 2), "x")[:, :1]),
    "one": processes.any_process(here == jax.process_count() - 1),
    "none": processes.any_process(False),
    "value": processes.on_first(lambda: ("of process", here, "ä" * 5000)),
    "nothing": processes.on_first(lambda: None),
    "failed": message_of(processes.on_first, fail),
    "shared": message_of(processes.check_shared, folder),
    "apart": message_of(processes.check_shared, mine),
    "left": [path.name for path in mine.iterdir()],
  }


@part
def deal(folder):
  """Reads its part of a batch, for every mesh of these devices."""
  del folder
  whole = np.arange(16).reshape(8, 2)
  found = {}
  count = jax.device_count()
  for data, fsdp in itertools.product((1, 2, 4), repeat=2):
    tensor = count // (data * fsdp)
    if data * fsdp * tensor != count:
      continue
    mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)
    reader = sharding.reader(mesh, len(whole))
    # What the others have to read is not there.
    read = np.split(whole, reader[1])[reader[0]]
    placed = sharding.place_rows(read, mesh, len(whole))
    found[f"{data}x{fsdp}x{tensor}"] = {
      "reader": reader,
      "whole": processes.to_host(placed).tolist() == whole.tolist(),
    }
  return found


@part
def write(folder):
  """What is written once for all processes."""
  calls = []

  def finish(seed):
    def run():
      calls.append(seed)
      return {"process": jax.process_index()}

    return stages.cached(folder, "teacher", {"seed": seed}, run)

  finished, again = finish(0), finish(0)
  params = jax.tree.map(
    # What does not divide among the devices is not split.
    lambda x: spread(x, *["x"][: x.shape[0] % jax.device_count() == 0]),
    noisy_params(LLAMA),
  )
  models.save(folder / "export", LLAMA, params, max_shard_bytes=10_000)
  (folder / "other").mkdir(exist_ok=True)
  (folder / "other" / "notes.txt").touch()
  return {
    "finished": finished,
    "again": again,
    "stale": message_of(finish, 1),
    "calls": calls,
    "refused": message_of(models.save, folder / "other", LLAMA, params),
  }


@part
def save(folder):
  """Saves two checkpoints."""
  with checkpoint.open_manager(folder) as manager:
    for step in (6, 7):
      checkpoint.save(manager, state(step, step), {"next": step})
  return {}


@part
def restore(folder):
  """Restores the newest, split among these devices."""
  like = state(0, 0.0)
  with checkpoint.open_manager(folder) as manager:
    restored, data = checkpoint.restore(manager, like)
  for found, wanted, before in zip(
    jax.tree.leaves(processes.to_host(restored)),
    jax.tree.leaves(processes.to_host(state(data["next"], data["next"]))),
    jax.tree.leaves(like),
    strict=True,
  ):
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == before.dtype
  assert restored.params["rows"].sharding == like.params["rows"].sharding
  return {"data": data}


@part
def train(folder):
  """Trains until it is stopped."""
  update = jax.jit(
    lambda old: structs.TrainState(
      old.step + 1, jax.tree.map(lambda x: x / 2 + 1, old.params), old.opt_state
    )
  )

  try:
    with loop.open_loop(
      state(0, 1.0),
      Numbers(),
      workdir=folder,
      name="teacher",
      stage="teacher",
      seed=0,
      num_steps=100_000,
      cadence=Cadence(log_every_steps=1),
      guards=health.Guards(),
    ) as training:
      for _, batch in training:
        time.sleep(0.02)
        metrics = {"loss": 1.0, "grad_norm": 1.0, "min_token_loss": 0.0}
        training.record(
          update(training.state), metrics | {"tokens": batch}, {"train": 1.0}
        )
  except loop.Interrupted as stop:
    return {"stopped": str(stop)}
  return {}


@part
def fail(folder):
  """The last process fails while the others wait for it."""
  if jax.process_index() == jax.process_count() - 1:
    raise ValueError("this process alone")
  processes.barrier("never")
  return {}


def main():
  """Runs one part."""
  name, folder, address, count, process = sys.argv[1:]
  processes.initialize(address, int(count), int(process))
  assert jax.process_count() == int(count)
  result = PARTS[name](pathlib.Path(folder))
  print(json.dumps(result, default=lambda array: array.tolist()), flush=True)


if __name__ == "__main__":
  main()
