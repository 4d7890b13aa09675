"""Records of a cached teacher: whole, damaged, begun with something else."""

import dataclasses
import logging
import pathlib

import numpy as np
import pytest

from skd_jax.data import teacher_records
from tests import damage

_SOURCE = {"weights": "a", "settings": {"top_k": 3}}


def make_record(index, num_tokens=4, k=3):
  rng = np.random.default_rng(index)
  return teacher_records.Record(
    index=index,
    response=0,
    stopped=index % 2 == 0,
    tokens=rng.integers(0, 9, num_tokens, dtype=np.int32),
    ids=rng.integers(0, 9, (num_tokens, k), dtype=np.int32),
    log_probs=-rng.random((num_tokens, k), np.float32),
    log_tail=-rng.random(num_tokens, np.float32),
  )


def write(folder, numbers=(0, 1)):
  """Writes parts of three records each, of the examples from 10 * number on."""
  for number in numbers:
    records = map(make_record, range(10 * number, 10 * number + 3))
    teacher_records.write_part(folder, number, records)


@pytest.fixture
def cache(tmp_path):
  folder = tmp_path / "cache"
  assert teacher_records.begin(folder, _SOURCE, 2) == [0, 1]
  write(folder)
  return folder


def assert_same(found, record):
  for field in dataclasses.fields(record):
    mine, theirs = (getattr(r, field.name) for r in (found, record))
    np.testing.assert_array_equal(mine, theirs)
    assert np.asarray(mine).dtype == np.asarray(theirs).dtype


@pytest.mark.parametrize("num_tokens", [0, 1, 4])
def test_record_comes_back_as_it_was(num_tokens):
  record = make_record(7, num_tokens)
  data = teacher_records.encode(record)
  assert len(data) == teacher_records.num_bytes(num_tokens, 3)
  assert_same(teacher_records.decode(data), record)


def test_empty_tail_comes_back():
  record = dataclasses.replace(
    make_record(1, 2), log_tail=np.float32([-np.inf, -1])
  )
  found = teacher_records.decode(teacher_records.encode(record))
  np.testing.assert_array_equal(found.log_tail, record.log_tail)


def test_record_of_another_size_is_refused():
  data = teacher_records.encode(make_record(7))
  with pytest.raises(ValueError, match=r"^record of example 7 has \d+ bytes"):
    teacher_records.decode(data[:-4])


def test_records_are_read_by_their_numbers_over_the_parts(cache):
  records = teacher_records.Records(cache, 2)
  assert len(records) == 6
  found = records.read([4, 0, 4])
  for record, index in zip(found, (11, 0, 11), strict=True):
    assert_same(record, make_record(index))
  found = teacher_records.measure(cache, 2)
  sizes = [p.stat().st_size for p in cache.glob("*/records.array_record")]
  assert found == {"records": 6, "tokens": 24, "bytes": sum(sizes)}
  teacher_records.check(cache, _SOURCE, 2)


@pytest.mark.parametrize("kind", damage.KINDS)
def test_damaged_part_is_named_and_written_again(cache, kind, caplog):
  path = cache / "00001" / "records.array_record"
  damage.KINDS[kind](path)
  with pytest.raises(ValueError, match=f"^{path}: ") as caught:
    teacher_records.check(cache, _SOURCE, 2)
  assert "\n" not in str(caught.value)
  with caplog.at_level(logging.INFO):
    assert teacher_records.begin(cache, _SOURCE, 2) == [1]
  assert f"{path}: " in caplog.text
  assert "continues; 1 of 2 parts are whole" in caplog.text
  write(cache, [1])
  teacher_records.check(cache, _SOURCE, 2)


def test_byte_that_flips_in_a_running_program_is_found(cache):
  records = teacher_records.Records(cache, 2)
  damage.KINDS["flipped"](cache / "00001" / "records.array_record")
  with pytest.raises(ValueError, match=f"^{cache}: ") as caught:
    records.read(range(6))
  assert "\n" not in str(caught.value)


def test_part_that_was_interrupted_does_not_count(tmp_path):
  folder = tmp_path / "cache"
  teacher_records.begin(folder, _SOURCE, 2)

  def cut():
    yield make_record(0)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    teacher_records.write_part(folder, 0, cut())
  with pytest.raises(ValueError, match="00000: is missing"):
    teacher_records.check(folder, _SOURCE, 2)
  assert teacher_records.begin(folder, _SOURCE, 2) == [0, 1]
  write(folder)
  teacher_records.check(folder, _SOURCE, 2)
  assert not list(folder.glob("*.tmp"))


def test_cache_of_something_else_is_named_and_written_anew(cache, caplog):
  other = {**_SOURCE, "weights": "b"}
  with pytest.raises(ValueError, match="was made from other weights"):
    teacher_records.check(cache, other, 2)
  assert teacher_records.begin(cache, other, 2) == [0, 1]
  assert "begun with other weights; it is written anew" in caplog.text
  assert not list(cache.glob("0*"))


def test_cache_whose_source_is_not_known_is_refused(cache):
  pathlib.Path(cache, "source.json").write_text("{", "utf-8")
  with pytest.raises(ValueError, match="from other sources"):
    teacher_records.check(cache, _SOURCE, 2)
