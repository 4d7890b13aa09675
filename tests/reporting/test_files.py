"""Files are whole or not there, and JSON is JSON."""

import json
import math

import pytest

from skd_jax.reporting import files


def test_interrupted_write_keeps_the_old_file(tmp_path):
  path = tmp_path / "file"
  files.write_atomically(path, "old")
  with pytest.raises(UnicodeEncodeError):
    files.write_atomically(path, "new \ud800")
  assert path.read_text() == "old"


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
