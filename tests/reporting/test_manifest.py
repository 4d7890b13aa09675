"""A folder is what was written, or the file that is not is named."""

import json

import pytest

from skd_jax.reporting import manifest
from tests import damage


@pytest.fixture
def folder(tmp_path):
  """A folder with a manifest of two files, one of them in a folder."""
  (tmp_path / "d").mkdir()
  (tmp_path / "a.json").write_text('{"a": 1}')
  (tmp_path / "d" / "b").write_bytes(bytes(range(256)))
  (tmp_path / "later").write_text("not yet")
  manifest.write(tmp_path, leave_out=("later",))
  return tmp_path


def test_manifest_names_the_files_and_is_written_again_the_same(folder):
  text = (folder / manifest.NAME).read_text()
  assert set(json.loads(text)) == {"a.json", "d/b"}
  assert json.loads(text)["d/b"]["bytes"] == 256
  manifest.write(folder, leave_out=("later",))
  assert (folder / manifest.NAME).read_text() == text


def test_digest_is_of_the_files_that_count_with_and_without_a_manifest(folder):
  def digest():
    return manifest.digest(folder, lambda name: name.endswith(".json"))

  (folder / manifest.NAME).unlink()
  before = digest()
  (folder / "later").write_text("now")
  assert digest() == before
  manifest.write(folder)
  assert digest() == before
  (folder / "a.json").write_text('{"a": 2}')
  manifest.write(folder)
  assert digest() != before


@pytest.mark.parametrize("name", ["a.json", "d/b"])
@pytest.mark.parametrize(
  ("kind", "said"),
  [
    ("truncated", r"has \d+ bytes, was written with \d+"),
    ("emptied", r"has 0 bytes, was written with \d+"),
    ("flipped", "its content is not what was written"),
    ("deleted", "is missing"),
  ],
)
def test_damaged_file_is_named_with_the_ways_out(folder, name, kind, said):
  manifest.check(folder)
  damage.KINDS[kind](folder / name)
  with pytest.raises(ValueError, match=f"^{folder / name}: {said}. ") as caught:
    manifest.check(folder)
  assert f"or delete {folder / manifest.NAME} to accept" in str(caught.value)
  assert "\n" not in str(caught.value)
  manifest.check(folder, lambda other: other != name)
  (folder / manifest.NAME).unlink()
  manifest.check(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a.json": 3}', "\xff"])
def test_damaged_manifest_is_named(folder, text):
  (folder / manifest.NAME).write_text(text, encoding="latin-1")
  path = folder / manifest.NAME
  with pytest.raises(ValueError, match=f"^{path}: is damaged. "):
    manifest.check(folder)


def test_flipped_bits_of_a_manifest_are_noticed(folder):
  path = folder / manifest.NAME
  whole = path.read_bytes()
  for place in range(len(whole)):
    data = bytearray(whole)
    data[place] ^= 1 << place % 8
    path.write_bytes(data)
    assert manifest.fault(folder), (place, bytes(data))


def test_other_files_are_not_looked_at(folder):
  (folder / "README.md").write_text("added")
  (folder / "later").write_text("changed")
  manifest.check(folder)
