"""Tokenizers that write as published models do, and what is learned, drawn."""

import pathlib

from tokenizers import decoders, pre_tokenizers

from skd_jax.data import templates
from skd_jax.data import tokenizer as tokenizer_lib

_FOLDER = pathlib.Path(__file__).parent / "chat_templates"
# BOS, EOS, and what else the template writes. The vocabulary of words is not
# that of the model: what is special decides where a response begins and ends.
_MARKS = {
  "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
  "gemma2": ("<bos>", "<eos>"),
  "qwen2_5": ("<|endoftext|>", "<|im_end|>"),
}
_ALIKE = {
  "llama3_1": "llama3",
  "qwen2": "qwen2_5",
  "qwen3": "qwen2_5",
  "smollm2": "qwen2_5",
}
_TURNS = [
  *("<|im_start|>", "<start_of_turn>", "<end_of_turn>"),
  *("<|start_header_id|>", "<|end_header_id|>"),
]


def template(name):
  """The chat template of a model."""
  if name != "qwen2":
    return (_FOLDER / f"{name}.jinja").read_text("utf-8")
  # Of Qwen/Qwen2-7B-Instruct: as SmolLM2's, but for one sentence.
  sentence = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
  )
  return template("smollm2").replace(sentence, "You are a helpful assistant.")


def load(folder, name):
  """A tokenizer of `folder` with the template and special tokens of a model.

  It writes text as it is, without a space in front.
  """
  found = tokenizer_lib.load_tokenizer(folder)
  backend = found.backend_tokenizer
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  bos, eos = _MARKS[_ALIKE.get(name, name)]
  found.add_special_tokens({"bos_token": bos, "eos_token": eos})
  found.add_tokens(_TURNS, special_tokens=True)
  found.chat_template = template(name)
  return found


def drawn(tokenizer, examples, prompt="{source}"):
  """The whole text of each example, what is learned of it in brackets."""
  pairs = tokenizer_lib.encode_examples(tokenizer, examples, prompt)
  texts = []
  for example, (start, response) in zip(examples, pairs, strict=True):
    question = prompt.replace("{source}", example["source"])
    turns = example.get("messages") or [{"role": "user", "content": question}]
    answer = {"role": "assistant", "content": example["target"]}
    (whole,) = templates.render(tokenizer, [[*turns, answer]])
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    size = len(start) + len(response)
    assert ids[:size] == [*start, *response]
    parts = [tokenizer.decode(p) for p in (start, response, ids[size:])]
    assert "".join(parts) == whole
    texts.append("{}[{}]{}".format(*parts))
  return texts
