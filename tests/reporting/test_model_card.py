"""README.md of an export: what the hub reads, and what people do."""

import yaml

from skd_jax.reporting import model_card
from skd_jax.reporting.report import Table


def make_card(**changes):
  data = model_card.Data(
    name="multi30k",
    kind="parallel",
    prompt="Translate: {source}",
    num_train=1000,
    num_test=7,
    scores={"bleu": 31.5, "chrf": 55.0},
  )
  arguments = {
    "title": "translation",
    "text": "A model.",
    "task": "text-generation",
    "base_model": "google/gemma-2b",
    "license": {"license": "other", "license_name": "gemma"},
    "data": [data],
    "scores": [Table(["", "bleu"], [["student", "31.50"]])],
    "settings": {"rollout.threshold": 9.0},
    "command": "python -m skd_jax.main --config=mine.py",
    "made_with": ["Seed 3."],
  }
  return model_card.model_card(**arguments | changes)


def front_matter(card):
  start, matter, _ = card.split("---\n", 2)
  assert not start
  return yaml.safe_load(matter)


def test_front_matter_is_what_the_hub_reads():
  assert front_matter(make_card()) == {
    "base_model": "google/gemma-2b",
    "datasets": ["multi30k"],
    "library_name": "transformers",
    "license": "other",
    "license_name": "gemma",
    "metrics": ["bleu", "chrf"],
    "pipeline_tag": "text-generation",
    "tags": ["knowledge-distillation", "skd_jax"],
    "model-index": [
      {
        "name": "translation",
        "results": [
          {
            "task": {"type": "text-generation"},
            "dataset": {
              "name": "multi30k",
              "type": "multi30k",
              "split": "test",
            },
            "metrics": [
              {"type": "bleu", "value": 31.5},
              {"type": "chrf", "value": 55.0},
            ],
          }
        ],
      }
    ],
  }


def test_what_is_not_known_is_left_out():
  card = make_card(base_model="", license={}, command="")
  matter = front_matter(card)
  assert not {"base_model", "license", "license_name"} & set(matter)
  assert "```sh" not in card


def test_text_has_scores_data_settings_and_the_command():
  card = make_card()
  for part in (
    "| student | 31.50 |",
    "- multi30k (`parallel`): 1,000 training and 7 test examples",
    "rollout.threshold = 9.0",
    "```sh\npython -m skd_jax.main --config=mine.py\n```",
    "Seed 3.",
  ):
    assert part in card


def test_licence_is_that_of_the_card_of_a_folder(tmp_path):
  path = tmp_path / "README.md"
  path.write_text("---\nlicense: mit\ntags: [x]\n---\n# Text\n")
  assert model_card.license_of(str(tmp_path)) == {"license": "mit"}
  path.write_text("# No front matter\n")
  assert model_card.license_of(str(tmp_path)) == {}
  assert model_card.license_of(str(tmp_path / "nowhere")) == {}
  assert model_card.license_of("") == {}


def test_broken_card_of_a_folder_is_a_warning(tmp_path, caplog):
  (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
  assert model_card.license_of(str(tmp_path)) == {}
  assert str(tmp_path / "README.md") in caplog.text
