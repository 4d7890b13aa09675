"""Every kind of source, and what it says about broken files."""

import gzip
import json
import subprocess
import sys

import pytest

from skd_jax import builders
from skd_jax import config as config_lib
from skd_jax.data import sources, tasks
from skd_jax.data.synthetic import chains

PAIRS = [("Ja\u2028doch.", "Yes."), ("Nein.", "No."), ("Gut.", "Good.")]
EXAMPLES = [{"source": source, "target": target} for source, target in PAIRS]


def write(path, text):
  data = text.encode()
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def parallel(folder, **kwargs):
  return sources.load_examples(
    "parallel",
    "train",
    dir=str(folder),
    source_language="de",
    target_language="en",
    **kwargs,
  )


def jsonl(folder, **kwargs):
  return sources.load_examples(
    "jsonl",
    "dev",
    dir=str(folder),
    source_field="q",
    target_field="a",
    **kwargs,
  )


def test_parallel_files_may_be_plain_or_gzip(tmp_path):
  write(tmp_path / "train.de", "\n".join(pair[0] for pair in PAIRS))
  write(tmp_path / "train.en.gz", "".join(f"{pair[1]}\r\n" for pair in PAIRS))
  assert parallel(tmp_path) == EXAMPLES
  assert parallel(tmp_path, max_examples=2) == EXAMPLES[:2]


@pytest.mark.parametrize("name", ["dev.jsonl", "dev.jsonl.gz"])
def test_jsonl_fields_are_named(tmp_path, name):
  lines = [json.dumps({"q": q, "a": a, "id": 1}) for q, a in PAIRS]
  write(tmp_path / name, "\n".join(lines) + "\n")
  assert jsonl(tmp_path) == EXAMPLES


def test_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path):
  mark = "\ufeff"
  rows = "".join(json.dumps({"q": q, "a": a}) + "\r\n" for q, a in PAIRS)
  write(tmp_path / "dev.jsonl", mark + rows)
  assert jsonl(tmp_path) == EXAMPLES
  for side, language in enumerate(("de", "en")):
    text = mark + "".join(pair[side] + "\r\n" for pair in PAIRS)
    write(tmp_path / f"train.{language}", text)
  assert parallel(tmp_path) == EXAMPLES


def test_field_may_have_any_name_lie_in_another_or_be_the_first_there(tmp_path):
  odd = "Frage (a|b), v1.0"
  rows = [
    {odd: "x", "t": {"en": "y"}},
    {odd: "x", "t": None, "a1": "y"},
    {odd: "x", "a2": "y", "t": {"fr": "n"}},
  ]
  write(tmp_path / "dev.jsonl", "\n".join(json.dumps(row) for row in rows))

  def read(target_field):
    return sources.load_examples(
      "jsonl",
      "dev",
      dir=str(tmp_path),
      source_field=odd,
      target_field=target_field,
    )

  assert read("t.en|a1|a2") == [{"source": "x", "target": "y"}] * 3
  with pytest.raises(ValueError, match=r"line 2: has no text in field 't\.en'"):
    read("t.en")


def test_part_of_a_split_is_chosen_as_from_a_list(tmp_path):
  lines = [json.dumps({"q": q, "a": a}) for q, a in PAIRS]
  write(tmp_path / "dev.jsonl", "\n".join(lines))

  def read(split, **kwargs):
    return sources.load_examples(
      "jsonl",
      split,
      dir=str(tmp_path),
      source_field="q",
      target_field="a",
      **kwargs,
    )

  assert read("dev[:-1]") == EXAMPLES[:-1]
  assert read("dev[-1:]") == EXAMPLES[-1:]
  assert read("dev[1:3]", max_examples=1) == EXAMPLES[1:2]
  with pytest.raises(
    ValueError, match=rf"^{tmp_path}: split dev\[3:\] holds no example$"
  ):
    read("dev[3:]")


@pytest.mark.parametrize("name", ["dev.jsonl", "dev.jsonl.gz"])
def test_empty_file_is_named(tmp_path, name):
  write(tmp_path / name, "")
  with pytest.raises(
    ValueError, match=rf"^{tmp_path}: split dev holds no example$"
  ):
    jsonl(tmp_path)


def test_missing_folder_and_file_say_what_was_looked_for(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r"^dir = '.*nowhere': no such folder"
  ):
    parallel(tmp_path / "nowhere")
  with pytest.raises(
    FileNotFoundError, match=r"neither train\.de nor train\.de\.gz"
  ):
    parallel(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"neither dev\.jsonl nor"):
    jsonl(tmp_path)


def test_files_of_unequal_length_are_both_named(tmp_path):
  write(tmp_path / "train.de", "a\nb\n")
  write(tmp_path / "train.en", "a\n")
  with pytest.raises(
    ValueError, match=r"train\.de has 2 lines and .*train\.en has 1: must"
  ):
    parallel(tmp_path)


@pytest.mark.parametrize(("side", "word"), [("de", "source"), ("en", "target")])
def test_blank_line_is_named(tmp_path, side, word):
  for language in ("de", "en"):
    second = " " if language == side else "b"
    write(tmp_path / f"train.{language}", f"a\n{second}\nc\n")
  with pytest.raises(
    ValueError, match=rf"train\.{side}, line 2: the {word} is blank"
  ):
    parallel(tmp_path)


def test_file_that_is_not_text_is_named(tmp_path):
  (tmp_path / "train.de").write_bytes(b"\xff\n")
  write(tmp_path / "train.en", "a\n")
  with pytest.raises(ValueError, match=r"train\.de: not UTF-8 text"):
    parallel(tmp_path)
  (tmp_path / "train.de").unlink()
  (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"abc")[:-4])
  with pytest.raises(ValueError, match=r"train\.de\.gz: not UTF-8 text"):
    parallel(tmp_path)
  damaged = gzip.compress(b"abc")[:10] + b"\xff" * 20
  (tmp_path / "train.de.gz").write_bytes(damaged)
  with pytest.raises(ValueError, match=r"train\.de\.gz: not UTF-8 text: Error"):
    parallel(tmp_path)


def test_gzip_file_without_its_ending_is_named(tmp_path):
  (tmp_path / "dev.jsonl").write_bytes(gzip.compress(b'{"q": "x", "a": "y"}'))
  with pytest.raises(ValueError, match=r"dev\.jsonl: not UTF-8 text"):
    jsonl(tmp_path)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ('{"q": "x"}', "has no text in field 'a'; its fields are ['q']"),
    ('{"q": "x", "a": null}', "has no text in field 'a'; its fields are ['a'"),
    ('{"q": 3, "a": "y"}', "q = 3: must be a text"),
    ('{"q": "x", "a": ["y"]}', "a = ['y']: must be a text"),
    ('{"q": "x", "a": ', "bad JSON: Expecting value: column 17 (char 16)"),
    ("", "bad JSON: Expecting value: column 1 (char 0)"),
    ("[" * 100_000, "bad JSON: "),
    ('{"q": ' + "1" * 5000, "bad JSON: Exceeds the limit (4300 digits)"),
    ("[1]", "must be a JSON object"),
    ('{"q": "x", "a": " "}', "the target is blank"),
    ('{"q": "", "a": "y"}', "the source is blank"),
    (r'{"q": "x", "a": "hi \ud83d"}', r"the target has '\ud83d': must be Uni"),
  ],
)
def test_broken_json_lines_are_named(tmp_path, line, message):
  good = '{"q": "x", "a": "y"}\n'
  write(tmp_path / "dev.jsonl", f"{good * 6}{line}\n{good}")
  with pytest.raises(ValueError) as caught:
    jsonl(tmp_path)
  start = f"{tmp_path / 'dev.jsonl'}, line 7: {message}"
  assert str(caught.value).startswith(start)
  assert "\n" not in str(caught.value)


def test_unknown_kind_lists_the_kinds():
  with pytest.raises(
    ValueError,
    match=r"kind = 'csv': .*embedded, arithmetic, chains, parallel, jsonl, p",
  ):
    sources.load_examples("csv", "train")


@pytest.mark.parametrize(
  ("kind", "given", "message"),
  [
    ("parallel", {}, "dir = None: must be given for kind = 'parallel'"),
    ("parallel", {"dir": "x", "source_language": "de"}, "target_language"),
    ("jsonl", {"dir": "x", "target_field": "a"}, "source_field = None"),
    ("tfds", {"source_field": "de", "target_field": "en"}, "name = None"),
    ("embedded", {"max_examples": 0}, "max_examples = 0"),
    ("chains", {}, "num_steps = None: must be given for kind = 'chains'"),
    ("chains", {"num_steps": 5, "noise": 2.0}, "noise = 2.0"),
  ],
)
def test_missing_arguments_are_named(kind, given, message):
  with pytest.raises(ValueError, match=message):
    sources.load_examples(kind, "train", **given)


@pytest.mark.slow
def test_embedded_corpus_gives_examples():
  pytest.importorskip("skd_jax.data.synthetic.corpus")
  examples = sources.load_examples("embedded", "train", max_examples=5)
  assert len(examples) == 5
  assert all(example["source"].strip() for example in examples)


@pytest.fixture
def few_chains(monkeypatch):
  for split in chains.SPLITS:
    monkeypatch.setitem(chains.SPLITS, split, 50)


def test_chains_have_the_steps_and_the_noise_that_are_asked_for(few_chains):
  def read(split, **settings):
    return sources.load_examples("chains", split, max_examples=9, **settings)

  clean, noisy = (read("train", num_steps=(4, 4), noise=n) for n in (0.0, 1.0))
  assert [e["target"].count("=") for e in clean] == [4] * 9
  assert [e["source"] for e in clean] == [e["source"] for e in noisy]
  assert not {e["target"] for e in clean} & {e["target"] for e in noisy}


def test_task_has_the_steps_of_its_settings_and_noise_in_training_only(
  few_chains,
):
  config = config_lib.default_config()
  config.data.update(kind="chains", num_steps=3, min_steps=2, noise=1.0)
  config.data.validation_split = "train"  # No noise where answers are scored.
  (settings,) = builders.task_settings(config).values()
  for split, name, noise in (
    ("train", "train", 1.0),
    ("validation", "train", 0.0),
    ("test", "test", 0.0),
  ):
    expected = sources.load_examples(
      "chains", name, num_steps=(2, 3), noise=noise
    )
    assert tasks.load_split("data", settings, split) == expected
  config.data.min_steps = 0  # As num_steps.
  (settings,) = builders.task_settings(config).values()
  test = tasks.load_split("data", settings, "test")
  assert test == sources.load_examples("chains", "test", num_steps=3)
  config.data.num_steps = 1
  (settings,) = builders.task_settings(config).values()
  with pytest.raises(ValueError, match=r"^data\.num_steps = 1: must be 2 or"):
    tasks.load_split("data", settings, "train")


TFDS_PROGRAM = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from skd_jax.data import sources

class TinyPairs(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")
  def _info(self):
    features = tfds.features.FeaturesDict({
      "number": np.int64,
      "t": tfds.features.Translation(languages=("de", "en")),
    })
    return tfds.core.DatasetInfo(builder=self, features=features)
  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}
  def _generate_examples(self):
    for number in range(5):
      pair = {"de": f"Größe {number}", "en": f"size {number}"}
      yield number, {"number": number, "t": pair}

folder = sys.argv[1]
TinyPairs(data_dir=folder, file_format="array_record").download_and_prepare()
read = lambda **fields: sources.load_examples(
  "tfds", "train", dir=folder, name="tiny_pairs", source_field="t.de", **fields
)
examples = read(target_field="t.en", max_examples=4)
assert len(examples) == 4, examples
for example in examples:
  assert example["source"] == "Größe" + example["target"].removeprefix("size")
for field, message in (
  ("t.fr", "has no text in field 't.fr'; its fields are ['number', 't']"),
  ("number", "number = "),
):
  try:
    read(target_field=field)
  except ValueError as error:
    assert f"example 0: {message}" in str(error), error
  else:
    raise AssertionError(f"{field} was accepted")
assert "tensorflow" not in sys.modules
for name in ("wmt16_translate", "samsum", "xsum", "gsm8k"):
  assert tfds.builder_cls(name)
"""


def test_tensorflow_data_set_is_read_without_tensorflow(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  subprocess.run(
    [sys.executable, "-c", TFDS_PROGRAM, str(tmp_path)], check=True
  )


def test_data_that_tensorflow_datasets_knows_can_be_built(tmp_path):
  # It imports what it does not ask for.
  import tensorflow_datasets as tfds
  import tensorflow_datasets.text

  assert tfds.builder("gsm8k", data_dir=tmp_path).info.name == "gsm8k"


def test_a_name_that_tensorflow_datasets_does_not_know_is_one_line(tmp_path):
  with pytest.raises(ValueError) as caught:
    sources.load_examples(
      "tfds",
      "train",
      dir=str(tmp_path),
      name="wmt61_translate/de-en",
      source_field="de",
      target_field="en",
    )
  assert str(caught.value).startswith("name = 'wmt61_translate/de-en': ")
  assert "\n" not in str(caught.value)
