"""What two checkpoints take for granted is compared, and said in a line."""

import json
import shutil

import pytest

from skd_jax.data import conventions, templates
from skd_jax.data import tokenizer as tokenizer_lib

EOS, OTHER = 2, 3  # </s>, and <sep>, which ends no response by itself.


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  path = tmp_path_factory.mktemp("plain")
  tokenizer_lib.train_bpe(["two young men", "zwei junge Männer"], 270, path)
  return path


@pytest.fixture
def teacher(plain, tmp_path):
  return make_folder(plain, tmp_path / "teacher")


@pytest.fixture
def student(plain, tmp_path):
  return make_folder(plain, tmp_path / "student")


def make_folder(plain, folder):
  shutil.copytree(plain, folder)
  set_eos(folder, EOS)
  return folder


def set_eos(folder, ids):
  (folder / "config.json").write_text(json.dumps({"eos_token_id": ids}))


def set_template(folder, template):
  tokenizer = tokenizer_lib.load_tokenizer(folder)
  tokenizer.chat_template = template
  shutil.rmtree(folder)
  tokenizer.save_pretrained(str(folder))
  set_eos(folder, EOS)


def warnings_of(teacher=None, student=None, *, of_run=None):
  """The lines about a pair whose tokenizer is the teacher's."""
  folders = {"teacher": teacher, "student": student}
  folders = {role: str(path) for role, path in folders.items() if path}
  source = of_run or teacher or student
  tokenizer = tokenizer_lib.load_tokenizer(source)
  return conventions.convention_warnings(
    folders,
    tokenizer=tokenizer,
    tokenizer_folder=str(source),
    eos_ids=tokenizer_lib.eos_ids(tokenizer, source),
  )


def test_pair_of_the_same_conventions_gives_no_warning(teacher, student):
  assert warnings_of(teacher, student) == []


def test_models_from_scratch_follow_the_run(plain):
  assert warnings_of(of_run=plain) == []


def test_end_that_is_none_in_the_run_is_named(teacher, student):
  set_eos(student, [EOS, OTHER])
  (line,) = warnings_of(teacher, student)
  assert line == (
    f"student {student}: ends its responses with [2, 3]; a response of this "
    "run ends at [2]"
  )


def test_ends_of_only_one_model_are_named(teacher, student):
  set_eos(teacher, [EOS, OTHER])
  (line,) = warnings_of(teacher, student)
  assert line == (
    "EOS ids differ: the teacher's are [2, 3], the student's are [2]; a "
    "response of this run ends at [2, 3]"
  )


@pytest.mark.parametrize(
  ("of_student", "has"),
  [("{{ messages[-1]['content'] }}", "another"), (None, "no")],
)
def test_other_chat_template_is_named_with_the_one_in_use(
  teacher, student, of_student, has
):
  set_template(student, of_student)
  (line,) = warnings_of(teacher, student)
  assert line == (
    f"student {student}: has {has} chat template; that of {teacher} is used "
    "for both models"
  )


def test_template_with_arguments_is_not_another(teacher, student):
  for folder in (teacher, student):
    set_template(folder, "{{ day }}{{ messages[-1]['content'] }}")
  tokenizer = tokenizer_lib.load_tokenizer(teacher)
  templates.set_arguments(tokenizer, {"day": "1 May"})
  assert not conventions.convention_warnings(
    {"teacher": str(teacher), "student": str(student)},
    tokenizer=tokenizer,
    tokenizer_folder=str(teacher),
    eos_ids=(EOS,),
  )


def test_template_that_is_not_used_is_named(teacher, student):
  set_template(teacher, None)
  (line,) = warnings_of(teacher, student)
  assert line == (
    f"student {student}: has a chat template; {teacher} has none, and "
    "prompts are put without one"
  )


def test_folder_written_in_another_way_is_the_same(teacher, monkeypatch):
  set_eos(teacher, [EOS, OTHER])
  monkeypatch.chdir(teacher.parent)
  tokenizer = tokenizer_lib.load_tokenizer(teacher)

  def refuse(folder):
    raise AssertionError("it is read again")

  monkeypatch.setattr(tokenizer_lib, "load_tokenizer", refuse)
  assert not conventions.convention_warnings(
    {"teacher": "teacher/"},
    tokenizer=tokenizer,
    tokenizer_folder=str(teacher),
    eos_ids=(EOS, OTHER),
  )
