"""Prints as JSON what transformers reads in exported folders.

  PYTHON tests/models/read_folders.py FOLDER FOLDER ...

Of ours it imports nothing, so that any version of transformers can run it.
"""

import json
import sys

import transformers


def read(folder):
  config = transformers.AutoConfig.from_pretrained(folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  generation = transformers.GenerationConfig.from_pretrained(folder)
  turns = [{"role": "user", "content": "a b"}]
  return {
    "config": config.to_dict(),
    "eos": generation.eos_token_id,
    "eos_of_tokenizer": tokenizer.eos_token_id,
    "special": sorted(tokenizer.all_special_ids),
    "ids": tokenizer("a b c", add_special_tokens=False)["input_ids"],
    "prompt": tokenizer.apply_chat_template(turns, tokenize=False),
  }


if __name__ == "__main__":
  print(
    json.dumps(
      {
        "version": transformers.__version__,
        "folders": {folder: read(folder) for folder in sys.argv[1:]},
      },
      default=str,
    )
  )
