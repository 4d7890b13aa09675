"""Files are whole or not there, and JSON is JSON."""

import errno
import json
import math
import os
import tempfile

import pytest

from skd_jax.reporting import files


def test_interrupted_write_keeps_the_old_file(tmp_path):
  path = tmp_path / "file"
  files.write_atomically(path, "old")
  with pytest.raises(UnicodeEncodeError):
    files.write_atomically(path, "new \ud800")
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file_and_leaves_no_other(
  tmp_path, monkeypatch, step
):
  path = tmp_path / "file"
  files.write_atomically(path, "old")

  def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, step, fail)
  with pytest.raises(OSError, match="No space left"):
    files.write_atomically(path, "new")
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_json_makes_its_folder_and_has_no_nan(tmp_path):
  path = tmp_path / "new" / "file.json"
  files.write_json(path, {"a": [math.nan, 1.0], "b": {"c": -math.inf}})
  assert json.loads(path.read_text()) == {"a": [None, 1.0], "b": {"c": None}}
  assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_lock_is_seen_by_another_holder_and_freed(tmp_path):
  path = tmp_path / "folder" / "lock"
  with files.locked(path) as first:
    assert first
    with files.locked(path, wait=False) as second:
      assert not second
  with files.locked(path, wait=False) as third:
    assert third


def test_nan_comes_back_from_what_was_written_as_null():
  scores = {"bleu": math.nan, "of_task": {"kl": math.nan, "chrf": 2.5}}
  found = files.with_nan(json.loads(json.dumps(files.finite(scores))))
  assert math.isnan(found["bleu"])
  assert math.isnan(found["of_task"]["kl"])
  assert found["of_task"]["chrf"] == 2.5


def test_folder_in_which_nothing_can_be_made_is_named(tmp_path, monkeypatch):
  (tmp_path / "checkpoints" / "teacher").mkdir(parents=True)
  (tmp_path / "file").write_text("")
  files.check_writable(tmp_path)
  assert len(list(tmp_path.rglob("*"))) == 3  # It leaves nothing.
  make = tempfile.TemporaryFile

  def refuse(dir):
    if dir.name == "teacher":
      raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/tmp")
    return make(dir=dir)

  monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
  with pytest.raises(PermissionError, match="checkpoints/teacher/tmp"):
    files.check_writable(tmp_path)
