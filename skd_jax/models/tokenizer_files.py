"""The files of a tokenizer in an exported folder, for readers old and new."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

_CONFIG = "tokenizer_config.json"
_TOKENIZER = "tokenizer.json"
_VOCABULARY = "tokenizer.model"


def save_tokenizer(tokenizer: Any, folder: str | pathlib.Path) -> None:
  """Writes the files of a tokenizer, so that transformers 4 reads them as well.

  Where the folder that the tokenizer was read from has a tokenizer.model, it
  goes along. transformers 5 leaves it out, as it reads tokenizer.json alone;
  llama.cpp converts the vocabulary of Gemma from it.

  Args:
    tokenizer: a tokenizer of transformers, from `load_tokenizer`.
    folder: where the files go.
  """
  folder = pathlib.Path(folder)
  tokenizer.save_pretrained(str(folder))
  config = _as_before_5(*(_read(folder / n) for n in (_CONFIG, _TOKENIZER)))
  text = json.dumps(config, indent=2, ensure_ascii=False)
  (folder / _CONFIG).write_text(text + "\n", "utf-8")
  origin = pathlib.Path(tokenizer.name_or_path)
  if tokenizer.name_or_path and (origin / _VOCABULARY).is_file():
    shutil.copy(origin / _VOCABULARY, folder)


def _as_before_5(
  config: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> dict[str, Any]:
  """The names that transformers 4 knows, which 5 reads too.

  Args:
    config: of tokenizer_config.json.
    tokenizer: of tokenizer.json.
  """
  config = dict(config)
  if config.get("tokenizer_class") == "TokenizersBackend":
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    # 4 takes the space before a first word away where this is not said.
    before = tokenizer.get("pre_tokenizer") or {}
    if "add_prefix_space" in before:
      config["add_prefix_space"] = before["add_prefix_space"]
  if isinstance(config.get("extra_special_tokens"), list):
    config["additional_special_tokens"] = config.pop("extra_special_tokens")
  return config


def _read(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text("utf-8"))
