"""Models are initialized, saved and loaded with what they compute in."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from skd_jax import models
from skd_jax.data import tokenizer as tokenizer_lib
from skd_jax.models import loading
from skd_jax.parallel import sharding
from skd_jax.reporting import manifest
from tests import damage
from tests.toy_models import LLAMA, noisy_params

SMALL = dataclasses.replace(LLAMA, num_layers=1)


def dtypes_of(params):
  return {x.dtype for x in jax.tree.leaves(params)}


def logits_of(loaded):
  tokens = jnp.asarray([[3, 1, 4, 1, 5]])
  hidden, _ = loaded.model.apply(
    loaded.params, tokens, jnp.arange(5)[None], None
  )
  return loaded.model.head(loaded.model.head_params(loaded.params), hidden)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder and the model in it."""
  folder = tmp_path_factory.mktemp("saved") / "model"
  loaded = loading.LoadedModel(SMALL, models.create(SMALL), noisy_params(SMALL))
  models.save_model(folder, loaded)
  return folder, loaded


def test_dtype_is_that_of_the_backend_unless_it_is_given():
  assert jax.default_backend() != "cpu" or (
    loading.compute_dtype() == loading.compute_dtype("auto") == jnp.float32
  )
  for given in ("bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")):
    assert loading.compute_dtype(given) == jnp.bfloat16


def test_loaded_model_computes_what_was_saved(saved):
  folder, loaded = saved
  again = models.load_model(folder, dtype="float32")
  assert again.config == SMALL
  jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
  np.testing.assert_array_equal(logits_of(again), logits_of(loaded))


def test_head_is_cut_to_the_vocabulary_that_is_asked_for(saved):
  folder, loaded = saved
  cut = models.load_model(folder, vocab_size=50, dtype="float32")
  assert cut.config == dataclasses.replace(SMALL, vocab_size=50)
  np.testing.assert_allclose(
    logits_of(cut), logits_of(loaded)[..., :50], atol=1e-6
  )


def test_weights_have_the_dtype_of_the_activations_unless_it_is_given(saved):
  folder, _ = saved
  narrow = models.load_model(folder, dtype="bfloat16")
  assert dtypes_of(narrow.params) == {jnp.dtype("bfloat16")}
  trained = models.load_model(
    folder, dtype="bfloat16", param_dtype=jnp.float32, remat=True
  )
  assert dtypes_of(trained.params) == {jnp.dtype("float32")}
  for loaded in (narrow, trained):
    cache = loaded.model.init_cache(1, 4)
    assert dtypes_of(cache) == {jnp.dtype("bfloat16")}


@pytest.mark.slow
def test_initialized_weights_depend_on_the_seed_and_are_placed():
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  placement = loading.Placement(mesh, sharding.TRAINED)
  one, same, other = (
    models.init_model(SMALL, seed=seed, dtype="bfloat16", placement=where)
    for seed, where in ((0, placement), (0, None), (1, None))
  )
  assert dtypes_of(one.params) == {jnp.dtype("float32")}
  jax.tree.map(np.testing.assert_array_equal, one.params, same.params)
  assert np.any(one.params["embedding"] != other.params["embedding"])
  assert jax.tree.map(lambda x: x.sharding, one.params) == placement.shardings(
    SMALL
  )


def test_folder_holds_the_tokenizer_and_its_special_tokens(saved, tmp_path):
  _, loaded = saved
  tokenizer = tokenizer_lib.train_bpe(["a b c"], 260, tmp_path / "tokenizer")

  def config_of(name, **arguments):
    models.save_model(tmp_path / name, loaded, **arguments)
    return json.loads((tmp_path / name / "config.json").read_text())

  plain = config_of("plain", tokenizer=tokenizer)
  assert plain["eos_token_id"] in (2, [2])
  assert (plain["bos_token_id"], plain["pad_token_id"]) == (1, 0)
  again = tokenizer_lib.load_tokenizer(tmp_path / "plain")
  assert again.get_vocab() == tokenizer.get_vocab()
  given = config_of("given", tokenizer=tokenizer, eos_ids=(2, 3))
  assert given["eos_token_id"] == [2, 3]
  assert tokenizer_lib.eos_ids(again, tmp_path / "given") == (2, 3)
  alone = config_of("alone", eos_ids=(5,))
  assert alone["eos_token_id"] in (5, [5])
  assert not (tmp_path / "alone" / "tokenizer.json").exists()


def test_vocabulary_that_the_tokenizer_came_from_is_exported_again(
  saved, tmp_path
):
  tokenizer_lib.train_bpe(["a b c"], 260, tmp_path / "tokenizer")
  # As in the folders of Gemma, of which transformers reads tokenizer.json.
  (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(b"pieces")
  tokenizer = tokenizer_lib.load_tokenizer(tmp_path / "tokenizer")
  models.save_model(tmp_path / "m", saved[1], tokenizer)
  assert (tmp_path / "m" / "tokenizer.model").read_bytes() == b"pieces"
  assert "tokenizer.model" in json.loads(
    (tmp_path / "m" / manifest.NAME).read_text()
  )


def test_card_may_be_edited_but_its_change_shows_in_the_manifest(
  saved, tmp_path
):
  tokenizer = tokenizer_lib.train_bpe(["a b c"], 260, tmp_path / "tokenizer")
  folder = tmp_path / "m"
  models.save_model(folder, saved[1], tokenizer, card="# A model\n")
  assert (folder / "README.md").read_text("utf-8") == "# A model\n"
  assert manifest.fault(folder) == ""
  (folder / "README.md").write_text("# My model\n")
  assert "README.md" in manifest.fault(folder)
  read(folder)


def test_export_in_bfloat16_says_so_and_has_half_the_size(saved, tmp_path):
  models.save_model(tmp_path / "m", saved[1], dtype="bfloat16")
  config = json.loads((tmp_path / "m" / "config.json").read_text())
  assert config["dtype"] == "bfloat16"
  tensors = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
  assert {value.dtype.name for value in tensors.values()} == {"bfloat16"}


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
  """A folder as a run exports it: weights, settings, tokenizer, manifest."""
  path = tmp_path_factory.mktemp("exported")
  tokenizer = tokenizer_lib.train_bpe(["a b c"], 260, path / "tokenizer")
  models.save_model(path / "model", saved[1], tokenizer)
  return path / "model"


def read(folder):
  tokenizer = tokenizer_lib.load_tokenizer(folder)
  return tokenizer, models.load_model(folder)


@pytest.mark.parametrize("kind", damage.KINDS)
def test_any_damaged_file_of_an_exported_folder_is_named(
  exported, tmp_path, kind
):
  names = damage.files_of(exported)
  assert {"model.safetensors", "tokenizer.json", manifest.NAME} < set(names)
  for number, name in enumerate(names):
    folder = shutil.copytree(exported, tmp_path / str(number))
    damage.KINDS[kind](folder / name)
    if (kind, name) == ("deleted", manifest.NAME):
      read(folder)  # As one that another program has written.
      continue
    # A manifest with a flipped bit accuses one of the others.
    is_accuser = (kind, name) == ("flipped", manifest.NAME)
    with pytest.raises(ValueError, match=f"^{folder}/") as said:
      read(folder)
    assert str(said.value).startswith(f"{folder / name}: ") or is_accuser
    assert f"or delete {folder / manifest.NAME} to acc" in str(said.value)
    assert "\n" not in str(said.value)


def test_settings_changed_by_hand_are_accepted_without_the_manifest(
  exported, tmp_path
):
  folder = shutil.copytree(exported, tmp_path / "model")
  path = folder / "config.json"
  before = models.load_config(folder).max_position_embeddings
  path.write_text(path.read_text().replace(str(before), str(before + 1)))
  for function in (models.load_config, tokenizer_lib.load_tokenizer):
    with pytest.raises(ValueError, match=f"^{path}: .* to accept the folder"):
      function(folder)
  (folder / manifest.NAME).unlink()
  assert models.load_config(folder).max_position_embeddings == before + 1
