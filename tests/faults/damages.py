"""Files of runs and of model folders are damaged one by one."""

import hashlib
import pathlib
import random
import shutil
from collections.abc import Iterator

import jax
import numpy as np

from skd_jax import experiment as experiment_lib
from skd_jax import methods, preparation
from skd_jax.reporting import manifest
from tests import damage
from tests.faults import program, runs

# What a run continues from or reads again.
_FOLDERS = (
  "checkpoints/teacher",
  "checkpoints/distill_seed_0",
  "stages",
  "tokenizer",
  "teacher",
  "student_init",
  "students/seed_0",
  "export",
)
_FLIPS = 100
_LARGE_BYTES = 4096  # Of a file that as many bits are flipped in at once.


def damage_files(
  data: pathlib.Path, folder: pathlib.Path, every: int, rng: random.Random
) -> Iterator[tuple[str, str]]:
  """Damages the files of a finished run one by one; yields what came."""
  finished, copy = folder / "whole", folder / "damaged"
  whole = runs.results(finished)
  names = [
    f"{part}/{name}"
    for part in _FOLDERS
    for name in damage.files_of(finished / part)
  ]
  sizes = {name: (finished / name).stat().st_size for name in names}
  cases = [(n, kind) for n in names if sizes[n] for kind in damage.KINDS]
  cases += [(n, "") for n in names if sizes[n] >= _LARGE_BYTES]
  for name, kind in cases[::every]:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(finished, copy)
    if kind:
      damage.KINDS[kind](copy / name)
    else:
      for _ in range(_FLIPS):
        damage.flip_somewhere(copy / name, rng)
    if name.startswith("checkpoints/"):
      # The stage goes on from its checkpoint: its result is not known.
      (copy / "stages" / f"{name.split('/')[1]}.json").unlink()
    what = kind or f"flipped in {_FLIPS} places"
    yield f"{name} {what}", _outcome(data, copy, name, whole)


def _outcome(
  data: pathlib.Path, workdir: pathlib.Path, name: str, whole: dict[str, str]
) -> str:
  try:
    program.run(data, workdir)
  except (ValueError, OSError) as error:
    is_named = str(workdir / name) in str(error)
    return "named" if is_named else f"FAILED: not named in {error}"
  return runs.compare(workdir, whole)


def flip_bits(
  folder: pathlib.Path, num_files: int, rng: random.Random
) -> Iterator[tuple[str, str]]:
  """Flips single bits of the largest files; asks their manifests alone.

  Args:
    folder: with a whole run, FOLDER/whole.
    num_files: so many of the largest.
    rng: of the places.
  """
  whole = folder / "whole"
  verified = [
    (owner.parent, name)
    for part in _FOLDERS
    for owner in (whole / part).rglob(manifest.NAME)
    for name in damage.files_of(owner.parent)
    if name != manifest.NAME
  ]
  verified.sort(key=lambda found: -(found[0] / found[1]).stat().st_size)
  for owner, name in verified[:num_files]:
    path = owner / name
    data = path.read_bytes()
    noticed = 0
    for _ in range(_FLIPS):
      damage.flip_somewhere(path, rng)
      noticed += manifest.fault(owner).startswith(f"{path}: ")
      path.write_bytes(data)
    assert not manifest.fault(owner)
    missed = _FLIPS - noticed
    outcome = f"FAILED: {missed} not noticed" if missed else "named"
    yield f"{path.relative_to(whole)}, each of {_FLIPS} bits", outcome


def damage_model(
  data: pathlib.Path, folder: pathlib.Path, every: int
) -> Iterator[tuple[str, str]]:
  """Damages the files of a model folder that a run takes; yields what came.

  Args:
    data: of the run.
    folder: with a whole run, FOLDER/whole.
    every: such a part of the cases.
  """
  origin, copy = folder / "whole" / "teacher", folder / "model"
  whole = _read(data, folder / "reads", origin)
  cases = [
    (name, kind, has_manifest)
    for has_manifest in (True, False)
    for name in damage.files_of(origin)
    if has_manifest or name != manifest.NAME
    for kind in damage.KINDS
  ]
  for name, kind, has_manifest in cases[::every]:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(origin, copy)
    if not has_manifest:
      (copy / manifest.NAME).unlink()
    damage.KINDS[kind](copy / name)
    of = "model folder" if has_manifest else "model folder without manifest"
    try:
      is_same = _read(data, folder / "reads", copy) == whole
    except (ValueError, OSError) as error:
      # A template is named as transformers does, by its field.
      is_named = any(n in str(error) for n in (str(copy), "chat_template: "))
      outcome = "named" if is_named else f"FAILED: not named in {error}"
    except Exception as error:
      outcome = f"FAILED: {type(error).__name__}: {error}"
    else:
      other = "FAILED: other model" if has_manifest else "unverified"
      outcome = "same" if is_same else other
    yield f"{of}: {name} {kind}", outcome


def _read(
  data: pathlib.Path, workdir: pathlib.Path, teacher: pathlib.Path
) -> str:
  """Returns a checksum of all that a run takes from the teacher's folder."""
  shutil.rmtree(workdir, ignore_errors=True)
  config = methods.change(program.config(data), {"teacher.path": str(teacher)})
  opened = experiment_lib.open_experiment(config, workdir)
  with jax.set_mesh(opened.mesh):
    model, _ = preparation.prepare_model(opened, "teacher")
  tasks = opened.tasks
  digest = hashlib.sha256()
  arrays = (model.params, opened.stop_table, tasks.train.prompts)
  for array in jax.tree.leaves((*arrays, tasks.train.responses)):
    digest.update(np.asarray(array).tobytes())
  digest.update(repr((model.config, tasks.eos_ids, tasks.vocab_size)).encode())
  digest.update(tasks.tokenizer.backend_tokenizer.to_str().encode())
  digest.update(str(tasks.tokenizer.chat_template).encode())
  return digest.hexdigest()
