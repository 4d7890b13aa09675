"""What leaves a run: the exported folder, and what the boards show."""

import json

import jax
import pytest
import yaml

from skd_jax import experiment, methods, preparation, student_export
from skd_jax.reporting import manifest
from tests import tensorboard_events, tiny_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return tiny_run.finish(tmp_path_factory)


@pytest.fixture(scope="module")
def card(finished):
  return (finished / "export" / "README.md").read_text("utf-8")


def test_card_has_the_scores_of_the_exported_seed(finished, card):
  report = json.loads((finished / "report.json").read_text("utf-8"))
  scores = report["per_seed"][0]["metrics"]["student"]
  (model,) = yaml.safe_load(card.split("---\n", 2)[1])["model-index"]
  (result,) = model["results"]
  assert model["name"] == "tiny"
  assert {m["type"]: m["value"] for m in result["metrics"]} == {
    "bleu": pytest.approx(scores["bleu"]),
    "chrf": pytest.approx(scores["chrf"]),
  }


def test_card_says_how_the_student_was_trained(card):
  assert "arxiv.org/abs/2410.11325" in card
  assert "skd: 6 steps of 8 prompts, rule top_k, threshold 2" in card
  assert "rollout.threshold = 2.0\n" in card
  assert "48 training and 8 test examples" in card
  # What is as the defaults say is left out; so is what nobody knows.
  assert "rollout.accept" not in card
  assert "license" not in card


def test_manifest_covers_all_of_the_exported_folder(finished):
  folder = finished / "export"
  named = set(json.loads((folder / manifest.NAME).read_text("utf-8")))
  assert named == {path.name for path in folder.iterdir()} - {manifest.NAME}
  assert {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
  } <= named
  assert manifest.fault(folder) == ""


def test_base_model_and_licence_are_those_of_the_students_folder(
  finished, tmp_path
):
  (finished / "student_init" / "README.md").write_text(
    "---\nlicense: apache-2.0\n---\n"
  )
  config = tiny_run.from_finished(
    finished,
    **{
      "student.checkpoint": "someone/small",
      "export_dtype": "bfloat16",
      "evaluate.num_samples": 0,
    },
  )
  opened = experiment.open_experiment(config, tmp_path / "w")
  found = {"metrics": {"bleu": 1.0, "chrf": float("nan")}, "signature": {}}
  with jax.set_mesh(opened.mesh):
    student, _ = preparation.prepare_model(opened, "student_init")
    student_export.export_student(
      opened, student, {"student": found}, seed=0, command="run it"
    )
  (finished / "student_init" / "README.md").unlink()
  folder = tmp_path / "w" / "export"
  card = (folder / "README.md").read_text("utf-8")
  matter = yaml.safe_load(card.split("---\n", 2)[1])
  assert (matter["base_model"], matter["license"]) == (
    "someone/small",
    "apache-2.0",
  )
  assert matter["metrics"] == ["bleu"]
  assert "run it" in card
  assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
  size = (folder / "model.safetensors").stat().st_size
  assert size < 0.6 * (finished / "export/model.safetensors").stat().st_size


def test_student_of_some_layers_of_the_teacher_has_its_base_model(finished):
  config = methods.change(
    tiny_run.config(finished.parent / "data"),
    {
      "teacher.checkpoint": "someone/large",
      "student.layers_of_teacher": (0,),
      "teacher.path": "T",
    },
  )
  assert student_export.origin(config).checkpoint == "someone/large"


def test_answers_are_logged_beside_the_teachers(finished):
  texts = tensorboard_events.texts(finished / "tensorboard/distill/seed_0")
  assert set(texts["validation_samples"]) == {3, 6}
  head, _, *rows = texts["validation_samples"][6].split("\n")
  assert head == "| prompt | answer | teacher | reference |"
  assert len(rows) == 2  # evaluate.num_samples
  assert rows[0].startswith("| Der Hund sieht den Hund&#46; |")
  assert rows[0].endswith("| The dog sees the dog&#46; |")
  # The teacher is the same at every step.
  earlier = texts["validation_samples"][3].split("\n")[2]
  assert rows[0].split("|")[3] == earlier.split("|")[3] != ""


def test_rollouts_and_histograms_are_logged(finished):
  folder = finished / "tensorboard/distill/seed_0"
  assert set(tensorboard_events.texts(folder)["rollouts"]) == {0, 3, 6}
  drawn = {
    (value.tag, event.step): value.histo
    for event in tensorboard_events.read(folder)
    for value in event.summary.value
    if value.HasField("histo")
  }
  assert {name for name, _ in drawn} == {
    "response_length",
    "replaced_by_position",
  }
  assert drawn["response_length", 6].num == 8  # The rows of a step.
