"""Task settings to token ids: splits, limits, shares and answers."""

import json

import pytest

from skd_jax.data import tasks
from skd_jax.data import tokenizer as tokenizer_lib

SPLITS = {
  "train": [
    (f"{i} apples", f"{i} pears #### {i}, and so on") for i in range(9)
  ],
  "dev": [("2 plums", "2 #### 2"), ("3 plums", "3 #### 3")],
  "test": [("4 plums", "4 #### 4")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("data")
  for split, pairs in SPLITS.items():
    lines = [json.dumps({"q": q, "a": a}) for q, a in pairs]
    (path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
  return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return tokenizer_lib.train_bpe(
    [text for pair in SPLITS["train"] for text in pair],
    280,
    tmp_path_factory.mktemp("tokenizer"),
  )


def settings(folder, **changes):
  fields = {
    "kind": "jsonl",
    "dir": str(folder),
    "name": "",
    "source_language": "q",  # Where the fields are not named.
    "target_language": "a",
    "source_field": "",
    "target_field": "",
    "turns": "last",
    "train_split": "train",
    "validation_split": "dev",
    "test_split": "test",
    "max_train_examples": 0,
    "max_validation_examples": 0,
    "max_test_examples": 0,
    "prompt": "Count: {source}",
    "max_prompt_length": 32,
    "max_new_tokens": 48,
    "long_prompts": "refuse",
    "stop_strings": (),
    "metrics": ("accuracy",),
    "weight": 1.0,
    "num_steps": 5,
    "min_steps": 0,
    "noise": 0.0,
  }
  return tasks.TaskSettings(**fields | changes)


def make_task_set(tokenizer, **of_tasks):
  return tasks.make_task_set(
    of_tasks,
    {name: tasks.load_split(name, s, "train") for name, s in of_tasks.items()},
    tokenizer,
    vocab_size=len(tokenizer),
    eos_ids=(tokenizer.eos_token_id,),
    mixing_temperature=1.0,
  )


def test_split_is_read_by_the_name_and_limit_of_its_setting(folder):
  found = {
    split: tasks.load_split(
      "data", settings(folder, max_train_examples=4), split
    )
    for split in ("train", "validation", "test")
  }
  assert [len(examples) for examples in found.values()] == [4, 2, 1]
  assert found["validation"][1] == {"source": "3 plums", "target": "3 #### 3"}


@pytest.mark.parametrize(
  ("changes", "error", "message"),
  [
    ({"dir": ""}, ValueError, r"^tasks\.sums\.dir = None: must be given"),
    ({"kind": "csv"}, ValueError, r"^tasks\.sums\.kind = 'csv'"),
    ({"dir": "/no"}, FileNotFoundError, r"^tasks\.sums\.dir = '/no': no such"),
    ({"train_split": "no"}, FileNotFoundError, r"^tasks\.sums: .*no\.jsonl"),
    ({"source_field": "x"}, ValueError, r"^tasks\.sums: .*line 1: has no text"),
  ],
)
def test_data_that_cannot_be_read_names_its_section(
  folder, changes, error, message
):
  with pytest.raises(error, match=message):
    tasks.load_split("tasks.sums", settings(folder, **changes), "train")


def test_tokenizer_is_trained_on_prompts_and_answers():
  example = {"source": "x", "target": "y"}
  given = settings("", prompt="Count: {source}!")
  assert tasks.tokenizer_texts(given, [example] * 2) == [
    "Count: x!",
    "y",
    "Count: x!",
    "y",
  ]


def test_rows_of_several_tasks_know_their_task_and_limit(folder, tokenizer):
  task_set = make_task_set(
    tokenizer,
    **{
      "tasks.one": settings(folder, max_new_tokens=40),
      "tasks.two": settings(
        folder, max_train_examples=3, max_prompt_length=60, weight=2.0
      ),
    },
  )
  assert [task.name for task in task_set.tasks] == ["one", "two"]
  assert task_set.train.task_id.tolist() == [0] * 9 + [1] * 3
  assert set(task_set.train.max_new_tokens[-3:].tolist()) == {48}
  assert (task_set.max_new_tokens, task_set.max_length) == (48, 60 + 48)
  two = task_set.tasks[1]
  assert two.split("validation") is two.validation
  assert two.split("test").task_id.tolist() == [1]
  # 9 examples of weight 1, and 3 of weight 2.
  assert task_set.shares(task_set.train) == pytest.approx((0.6, 0.4))
  prompt = tokenizer.decode(task_set.tasks[0].test.prompts[0])
  assert "Count: 4 plums" in prompt


def test_long_examples_are_left_out_and_long_references_cut(folder, tokenizer):
  sizes = [
    len(ids)
    for _, ids in tokenizer_lib.encode_examples(
      tokenizer, tasks.load_split("data", settings(folder), "test"), "{source}"
    )
  ]
  with pytest.raises(ValueError, match="none of 9 examples fits"):
    make_task_set(tokenizer, data=settings(folder, max_new_tokens=2))
  limit = sizes[0] - 1
  short = settings(folder, train_split="dev", max_new_tokens=max(sizes))
  task_set = make_task_set(tokenizer, data=short)
  assert task_set.tasks[0].test.num_too_long == 0
  cut = tasks.make_task_set(
    {"data": settings(folder, max_new_tokens=limit)},
    {"data": [{"source": "1", "target": "1"}]},
    tokenizer,
    vocab_size=len(tokenizer),
    eos_ids=(tokenizer.eos_token_id,),
    mixing_temperature=1.0,
  )
  assert cut.tasks[0].test.num_too_long == 1
  assert len(cut.tasks[0].test.responses[0]) == limit


def test_row_of_10_000_words_is_left_out_of_training_and_named_elsewhere(
  tmp_path, tokenizer
):
  rows = [{"q": "2 plums", "a": "2"}, {"q": "plum " * 10_000, "a": "3"}]
  for split in ("train", "dev", "test"):
    lines = [json.dumps(row) for row in [*rows, *rows]]
    (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
  with pytest.raises(ValueError, match="example 1: its prompt has "):
    make_task_set(tokenizer, data=settings(tmp_path))
  task_set = make_task_set(
    tokenizer, data=settings(tmp_path, long_prompts="leave_out")
  )
  assert len(task_set.train) == 2
  assert task_set.train.num_too_long == 2
  (task,) = task_set.tasks
  for split in (task.validation, task.test):
    short = {"source": "2 plums", "target": "2"}
    assert list(split.examples) == [short, short]
    assert split.indices.tolist() == [0, 1]
  long = tmp_path / "long"
  long.mkdir()
  for split in ("train", "dev", "test"):
    (long / f"{split}.jsonl").write_text(json.dumps(rows[1]))
  with pytest.raises(ValueError, match="none of 1 examples fits"):
    make_task_set(tokenizer, data=settings(long, long_prompts="leave_out"))


def test_messy_file_is_used_and_its_long_and_repeated_rows_are_counted(
  tmp_path, tokenizer, monkeypatch
):
  lines = []
  monkeypatch.setattr(
    tasks.logging, "info", lambda text, *values: lines.append(text % values)
  )
  rows = [
    {"Frage (neu)": "2 plums", "answer": {"text": "2"}, "id": 1},
    {"Frage (neu)": "2 plums", "answer": {"text": "2"}, "id": float("nan")},
    {"Frage (neu)": "2 plums", "reply": "three\u2028\u00fc \N{PEAR}"},
    {"Frage (neu)": "plum " * 50, "answer": {"text": "4"}},
    {"Frage (neu)": "5 plums", "answer": {"text": "plum " * 50}},
  ]
  for split in ("train", "dev", "test"):
    text = "\ufeff" + "".join(json.dumps(row) + "\r\n" for row in rows)
    (tmp_path / f"{split}.jsonl").write_bytes(text.encode())
  task_set = make_task_set(
    tokenizer,
    data=settings(
      tmp_path,
      source_field="Frage (neu)",
      target_field="answer.text|reply",
      long_prompts="leave_out",
    ),
  )
  limits = "(over max_prompt_length = 32 or max_new_tokens = 48)"
  assert lines == [
    "data, train: 3 of 5 examples; 2 are left out "
    f"{limits}; 1 are copies of another",
    *(
      f"data, {split}: 4 of 5 examples; 1 have a cut reference {limits}; "
      "1 are copies of another"
      for split in ("dev", "test")
    ),
  ]
  decoded = tokenizer_lib.decode(tokenizer, task_set.train.responses)
  assert decoded == ["2", "2", "three\u2028\u00fc \N{PEAR}"]


def test_token_bytes_are_there_where_a_task_has_stop_strings(folder, tokenizer):
  plain, stops = settings(folder), settings(folder, stop_strings=(";",))
  assert make_task_set(tokenizer, data=plain).token_bytes is None
  both = make_task_set(tokenizer, **{"tasks.a": plain, "tasks.b": stops})
  assert len(both.token_bytes) == both.vocab_size == len(tokenizer)
  assert [task.stop_strings for task in both.tasks] == [(), (";",)]


def test_answers_end_before_the_first_stop_string(folder, tokenizer):
  task_set = make_task_set(
    tokenizer,
    **{
      "tasks.a": settings(folder),
      "tasks.b": settings(folder, stop_strings=(";", "!!")),
    },
  )
  ids = tokenizer(" 4 !! 4; and", add_special_tokens=False)["input_ids"]
  whole, cut = (task_set.texts(task, [ids])[0] for task in task_set.tasks)
  assert whole == "4 !! 4; and"
  assert cut == "4"


@pytest.mark.parametrize(
  ("stop", "split", "example", "cut"),
  [
    (", and", "train", 0, "0 pears #### 0"),
    ("pears", "train", 0, "0"),
    ("8,", "train", 8, "8 pears ####"),
    ("3 ####", "dev", 1, ""),
    ("4 ####", "test", 0, ""),
  ],
)
def test_stop_string_that_cuts_a_reference_is_refused(
  folder, tokenizer, stop, split, example, cut
):
  with pytest.raises(ValueError, match="must occur in no reference") as caught:
    make_task_set(tokenizer, data=settings(folder, stop_strings=("no", stop)))
  assert str(caught.value) == (
    f"data.stop_strings has {stop!r}, at which the reference of example "
    f"{example} of {split} would end as {cut!r}: must occur in no reference; "
    "remove the stop string, or this example"
  )


def test_stop_string_at_the_very_end_cuts_nothing(folder, tokenizer):
  tokenizer.chat_template = (
    "{% for m in messages %}{{ m['content'] }}\n"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
  )
  task_set = make_task_set(
    tokenizer, data=settings(folder, stop_strings=("\n",))
  )
  (response,) = task_set.tasks[0].test.responses
  assert tokenizer.decode(response) == "4 #### 4\n</s>"
