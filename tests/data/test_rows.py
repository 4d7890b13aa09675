"""Tables of Hugging Face data sets, as they are on disk."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skd_jax.data import rows as rows_lib
from skd_jax.data import sources

ROWS = [
  {"id": n, "t": {"de": f"Größe {n}", "en": f"size {n}"}} for n in range(5)
]
EXAMPLES = [{"source": r["t"]["de"], "target": r["t"]["en"]} for r in ROWS]


def write_parquet(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(pa.Table.from_pylist(rows), path)


def write_arrow(folder, rows, num_files=2, split=None):
  """What `save_to_disk` of a data set writes."""
  folder.mkdir(parents=True, exist_ok=True)
  names = [f"data-{n:05}-of-{num_files:05}.arrow" for n in range(num_files)]
  size = -(-len(rows) // num_files)
  for n, name in enumerate(names):
    table = pa.Table.from_pylist(rows[n * size : (n + 1) * size])
    with pa.ipc.new_stream(folder / name, table.schema) as stream:
      stream.write_table(table, max_chunksize=2)
  state = {"_data_files": [{"filename": n} for n in names], "_split": split}
  (folder / "state.json").write_text(json.dumps(state))
  (folder / "dataset_info.json").write_text("{}")


def read(folder, split="train"):
  return sources.load_examples(
    "parquet",
    split,
    dir=str(folder),
    source_field="t.de",
    target_field="t.en",
  )


@pytest.mark.parametrize(
  "names",
  [
    ["train.parquet"],
    ["train-00000-of-00001.parquet"],
    [
      "data/train-00000-of-00002-ab1.parquet",
      "data/train-00001-of-00002.parquet",
    ],
    ["train/0000.parquet", "train/0001.parquet"],
  ],
)
def test_parquet_files_of_a_split_are_read_in_their_order(tmp_path, names):
  half = 3 if len(names) == 2 else 5
  for name, rows in zip(names, (ROWS[:half], ROWS[half:]), strict=False):
    write_parquet(tmp_path / name, rows)
  write_parquet(tmp_path / "train-extra.parquet", ROWS)
  assert read(tmp_path) == EXAMPLES
  assert read(tmp_path, "train[1:3]") == EXAMPLES[1:3]


def test_saved_data_set_is_read_with_its_splits_or_alone(tmp_path):
  write_arrow(tmp_path / "all" / "train", ROWS)
  write_arrow(tmp_path / "all" / "test", ROWS[:2], num_files=1)
  write_arrow(tmp_path / "one", ROWS, split="train")
  write_arrow(tmp_path / "nameless", ROWS)
  for name in ("all", "one", "nameless"):
    assert read(tmp_path / name) == EXAMPLES
  assert read(tmp_path / "all", "test") == EXAMPLES[:2]
  for name in ("one", "nameless"):
    with pytest.raises(FileNotFoundError, match="holds no split 'test'"):
      read(tmp_path / name, "test")


def test_file_that_is_gone_or_damaged_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no train\.parquet, train-0"):
    read(tmp_path)
  path = tmp_path / "train-00001-of-00002.parquet"
  write_parquet(path, ROWS)
  with pytest.raises(FileNotFoundError, match="1 of the 2 files of the split"):
    read(tmp_path)
  path.rename(tmp_path / "train.parquet")
  (tmp_path / "train.parquet").write_bytes(b"PAR1")
  with pytest.raises(ValueError, match=r"train\.parquet: cannot be read: "):
    read(tmp_path)
  write_arrow(tmp_path / "s" / "train", ROWS)
  (tmp_path / "s" / "train" / "data-00001-of-00002.arrow").unlink()
  with pytest.raises(FileNotFoundError, match="such as data-00001-of-00002"):
    read(tmp_path / "s")


def test_row_without_the_column_is_named(tmp_path):
  write_parquet(tmp_path / "train.parquet", [*ROWS, {"id": 5, "t": None}])
  with pytest.raises(
    ValueError, match=r"train\.parquet, row 6: has no text in field 't\.de'"
  ):
    read(tmp_path)


def test_damage_in_the_middle_of_a_file_is_named(tmp_path):
  write_arrow(tmp_path / "train", ROWS, num_files=1)
  path = tmp_path / "train" / "data-00000-of-00001.arrow"
  path.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(ValueError, match=f"^{path}: cannot be read: "):
    list(rows_lib.read_table(str(tmp_path), "train"))
