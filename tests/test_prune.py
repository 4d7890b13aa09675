"""Layers of a folder, from the command line."""

import dataclasses
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from safetensors import numpy as safetensors

from skd_jax import models
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.reporting import manifest
from tests import command_lines
from tests.toy_models import GEMMA, noisy_params

prune = command_lines.load("skd_jax.prune")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A model of three layers in bfloat16, with a tokenizer and eos ids.

  It has no manifest, like those of other programs: the tests change its files.
  """
  path = tmp_path_factory.mktemp("whole") / "model"
  tokenizer = tokenizer_lib.train_bpe(["a b c"], 260, path.parent / "tokenizer")
  # More rows than tokens, as many published models have.
  config = dataclasses.replace(
    GEMMA,
    vocab_size=len(tokenizer) + 4,
    query_pre_attn_scalar=7,
    attention_soft_cap=None,
  )
  models.save(
    path,
    config,
    noisy_params(config),
    dtype="bfloat16",
    eos_token_id=[2, 3],
    write_more=tokenizer.save_pretrained,
  )
  generation = {"eos_token_id": [2, 3], "temperature": 0.7, "do_sample": True}
  (path / "generation_config.json").write_text(json.dumps(generation))
  (path / manifest.NAME).unlink()
  return path


def run(capsys, **settings):
  """Runs main with flags by name; returns what it prints."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  values = {name: str(value) for name, value in settings.items()}
  values["keep"] = values.get("keep", "0,2").split(",")
  with flagsaver.flagsaver(**values):
    prune.main(["prune"])
  return capsys.readouterr().out


def tensors_of(folder):
  return safetensors.load_file(folder / "model.safetensors")


def test_folder_of_the_layers_has_all_else_of_the_whole_one(
  folder, tmp_path, capsys
):
  output = tmp_path / "pruned"
  said = run(capsys, path=folder, output=output)
  whole = models.load_model(folder, dtype="bfloat16")
  again = models.load_model(output, dtype="bfloat16")
  expected = models.prune_layers(whole, (0, 2))
  assert again.config == expected.config
  assert again.config.layer_windows == (4, 4)
  jax.tree.map(np.testing.assert_array_equal, again.params, expected.params)
  assert said.count("\n") == 1
  count = sum(x.size for x in jax.tree.leaves(again.params))
  assert f"{output}: 2 of 3 layers, {count:,} weights, bfloat16" in said

  before = tokenizer_lib.load_tokenizer(folder)
  after = tokenizer_lib.load_tokenizer(output)
  assert after.get_vocab() == before.get_vocab()
  assert after.chat_template == before.chat_template is not None
  assert tokenizer_lib.eos_ids(after, output) == (2, 3)
  name = "generation_config.json"
  assert (output / name).read_text() == (folder / name).read_text()
  config = json.loads((output / "config.json").read_text())
  assert config["eos_token_id"] == [2, 3]
  assert (config["bos_token_id"], config["pad_token_id"]) == (1, 0)


@pytest.mark.parametrize(
  ("stored", "written"),
  [
    (ml_dtypes.bfloat16, ml_dtypes.bfloat16),
    (np.float16, np.float32),
    (np.float32, np.float32),
  ],
)
def test_weights_are_written_as_they_were_or_wider(
  folder, tmp_path, capsys, stored, written
):
  before = {name: x.astype(stored) for name, x in tensors_of(folder).items()}
  path = shutil.copytree(folder, tmp_path / "whole")
  safetensors.save_file(before, path / "model.safetensors")
  run(capsys, path=path, keep="1", output=tmp_path / "pruned")
  after = tensors_of(tmp_path / "pruned")
  assert {x.dtype for x in after.values()} == {np.dtype(written)}
  name = "model.layers.{}.mlp.up_proj.weight"
  np.testing.assert_array_equal(
    after[name.format(0)].astype(np.float32),
    before[name.format(1)].astype(np.float32),
  )
  assert name.format(1) not in after


def test_one_wide_tensor_is_not_rounded(folder, tmp_path, capsys):
  path = shutil.copytree(folder, tmp_path / "whole")
  norm = np.linspace(0, 1, GEMMA.hidden_size, dtype=np.float32)
  tensors = tensors_of(folder) | {"model.norm.weight": norm}
  safetensors.save_file(tensors, path / "model.safetensors")
  run(capsys, path=path, keep="1", output=tmp_path / "pruned")
  after = tensors_of(tmp_path / "pruned")
  np.testing.assert_array_equal(after["model.norm.weight"], norm)


def test_earlier_export_is_replaced(folder, tmp_path, capsys):
  output = tmp_path / "pruned"
  for keep, num_layers in (("0,2", 2), ("1", 1)):
    run(capsys, path=folder, keep=keep, output=output)
    assert models.load_config(output).num_layers == num_layers
  assert [path.name for path in tmp_path.iterdir()] == ["pruned"]


def error_of(capsys, **settings):
  """The line on stderr of a command line that fails."""
  with pytest.raises(SystemExit) as stopped:
    run(capsys, **settings)
  assert stopped.value.code == 1
  output = capsys.readouterr()
  assert output.out == ""
  assert output.err.startswith("Error: ")
  assert output.err.count("\n") == 1
  return output.err.removeprefix("Error: ").strip()


@pytest.mark.parametrize(
  ("keep", "said"),
  [
    ("0,3", "keep = (0, 3): must be increasing layer numbers in [0, 2], one"),
    ("2,0", "keep = (2, 0): must be increasing layer numbers in [0, 2], one"),
    ("0,x", "--keep=0,x: must be layer numbers joined by commas, such as"),
    ("", "--keep=: must be layer numbers joined by commas, such as"),
  ],
)
def test_bad_layers_are_one_line_and_no_weight_is_read(
  folder, tmp_path, capsys, monkeypatch, keep, said
):
  def refuse(*_, **__):
    raise AssertionError("the weights are read")

  monkeypatch.setattr(models, "load_model", refuse)
  output = tmp_path / "pruned"
  error = error_of(capsys, path=folder, keep=keep, output=output)
  assert error.startswith(said)
  assert not output.exists()


def test_folder_that_cannot_be_read_is_one_line(folder, tmp_path, capsys):
  output = tmp_path / "pruned"
  missing = tmp_path / "none"
  assert str(missing) in error_of(capsys, path=missing, output=output)
  broken = shutil.copytree(folder, tmp_path / "broken")
  (broken / "model.safetensors").write_bytes(b"no tensors")
  said = error_of(capsys, path=broken, output=output)
  assert "model.safetensors is not a safetensors file" in said
  (broken / "model.safetensors").unlink()
  assert "model.safetensors" in error_of(capsys, path=broken, output=output)
  for name in ("tokenizer.json", "tokenizer_config.json"):
    (broken / name).unlink()
  assert "tokenizer" in error_of(capsys, path=broken, output=output)
  assert not output.exists()


def test_nothing_but_an_earlier_export_is_replaced(folder, tmp_path, capsys):
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  said = error_of(capsys, path=folder, output=folder)
  assert said == f"--output={folder}: must be another folder than --path"
  assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
  other = tmp_path / "other"
  other.mkdir()
  (other / "notes.txt").write_text("mine")
  said = error_of(capsys, path=folder, output=other)
  assert f"{str(other)!r} is not empty and no earlier export" in said
  said = error_of(capsys, path=folder, output=other / "notes.txt")
  assert said == f"--output={other / 'notes.txt'}: must be a folder"
  assert (other / "notes.txt").read_text() == "mine"
  assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.slow
def test_command_shows_one_line_alone(folder, tmp_path):
  done = command_lines.run(
    *("-m", "skd_jax.prune", f"--path={folder}", "--keep=0"),
    f"--output={tmp_path / 'pruned'}",
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.count("\n") == 1
  assert models.load_config(tmp_path / "pruned").num_layers == 1
