"""Files of weights: who may read them, and what a full disk says."""

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from skd_jax.models import weight_files

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T}


def test_weights_are_as_readable_as_what_lies_beside_them(tmp_path):
  path = tmp_path / "model.safetensors"
  weight_files.write(path, TENSORS.items())
  beside = tmp_path / "config.json"
  beside.write_text("{}")
  assert path.stat().st_mode == beside.stat().st_mode
  found = safetensors.numpy.load_file(path)
  np.testing.assert_array_equal(found["a"], TENSORS["a"])


def test_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
  """The library raises what is no OSError, which would be a traceback."""

  def full(*_, **__):
    raise safetensors.SafetensorError("I/O error: No space left on device")

  monkeypatch.setattr(safetensors.numpy, "save_file", full)
  path = tmp_path / "model.safetensors"
  with pytest.raises(OSError, match=f"{path}: .*No space left on device"):
    weight_files.write(path, TENSORS.items())
