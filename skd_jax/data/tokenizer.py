"""Text to token ids and back, on top of transformers' fast tokenizers.

A chat template, where the tokenizer has one, decides what stands around the
prompt and which token ends the answer. With Qwen's template:

  <|im_start|>user\\nQ<|im_end|>\\n<|im_start|>assistant\\n  A<|im_end|>  \\n
  `----------------------- prompt -----------------------'  `response' cut
"""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from skd_jax.data import encoder_templates, templates
from skd_jax.reporting import manifest
from skd_jax.structs import Example, Message

Tokenizer = Any  # transformers.PreTrainedTokenizerFast, which is untyped.
Pair = tuple[np.ndarray, np.ndarray]

_SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<sep>"]  # Their ids are 0 to 3.
_CHAT_TEMPLATE = (
  "{% for m in messages %}{% if m['role'] == 'user' %}<s>{{ m['content'] }}"
  "<sep>{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)


def train_bpe(
  texts: Iterable[str], vocab_size: int, folder: str | pathlib.Path
) -> Tokenizer:
  """Trains a byte-level BPE and saves it as a Hugging Face folder.

  The same texts in the same order give the same files. A text is put in NFC,
  and a space is put before its first word, so that a word has one spelling
  wherever it stands; decoding takes that space away again.

  Args:
    texts: The training text, any number of pieces.
    vocab_size: The size of the vocabulary, <pad>=0, <s>=1, </s>=2 and <sep>=3
      included; smaller only where the texts hold too few pairs to merge.
    folder: Where tokenizer.json, tokenizer_config.json, the chat template
      `<s>user<sep>assistant</s>` and a manifest go; made if it is missing.

  Returns:
    The tokenizer, as `load_tokenizer(folder)` gives it.

  Raises:
    ValueError: vocab_size has no room for the special tokens and all bytes.
  """
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  smallest = len(_SPECIAL_TOKENS) + len(alphabet)
  if vocab_size < smallest:
    raise ValueError(f"vocab_size = {vocab_size}: must be at least {smallest}")
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.normalizer = normalizers.NFC()
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  bpe.decoder = decoders.Sequence(
    [decoders.ByteLevel(), decoders.Strip(content=" ", left=1, right=0)]
  )
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=_SPECIAL_TOKENS,
    initial_alphabet=alphabet,
    show_progress=False,
  )
  bpe.train_from_iterator(texts, trainer)
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    pad_token="<pad>",
    bos_token="<s>",
    eos_token="</s>",
    additional_special_tokens=["<sep>"],
    clean_up_tokenization_spaces=False,
    chat_template=_CHAT_TEMPLATE,
  )
  tokenizer.save_pretrained(str(folder))
  manifest.write(folder)
  return load_tokenizer(folder)


def load_tokenizer(folder: str | pathlib.Path) -> Tokenizer:
  """Loads the tokenizer of a Hugging Face folder; nothing is downloaded.

  Code that the folder brings is never run.

  Raises:
    FileNotFoundError: The folder, or the tokenizer files in it, are missing.
    ValueError: The files cannot be read or are not what the manifest of the
      folder says, the tokenizer names no EOS token, or has several chat
      templates and none of them is the default.
  """
  path = pathlib.Path(folder)
  if not path.is_dir():
    raise FileNotFoundError(f"tokenizer folder {path}: no such folder")
  # The settings of the model as well: eos_ids reads them. Weights are large,
  # and checked where they are read. The model card is for people to edit.
  manifest.check(
    path, lambda name: name != "README.md" and ".safetensors" not in name
  )
  names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
  if not any((path / name).is_file() for name in names):
    raise FileNotFoundError(
      f"tokenizer folder {path}: holds none of {', '.join(names)}"
    )
  try:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
      str(path), local_files_only=True, trust_remote_code=False
    )
  except Exception as error:
    reason = str(error).strip().split("\n")[0]
    raise ValueError(
      f"tokenizer folder {path}: cannot be loaded: {reason}"
    ) from error
  if not tokenizer.is_fast:
    raise ValueError(f"tokenizer folder {path}: has no fast tokenizer")
  if tokenizer.eos_token_id is None:
    raise ValueError(f"tokenizer folder {path}: names no eos_token")
  encoder_templates.add_template(tokenizer, path)
  template = tokenizer.chat_template
  if isinstance(template, dict) and "default" not in template:
    raise ValueError(
      f"tokenizer folder {path}: chat_template has {sorted(template)}, "
      "but no 'default'"
    )
  return tokenizer


def _turns(examples: Sequence[Example], prompt: str) -> list[list[Message]]:
  """The turns before each response."""
  if "{source}" not in prompt:
    raise ValueError(f"prompt = {prompt!r}: must contain {{source}}")
  return [
    e.get("messages")
    # Not str.format: a prompt may well hold other braces, JSON or LaTeX.
    or [{"role": "user", "content": prompt.replace("{source}", e["source"])}]
    for e in examples
  ]


def _prompt_texts(
  tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]]
) -> list[str]:
  """The whole text before each response, template included."""
  if tokenizer.chat_template is not None:
    return templates.render(
      tokenizer, conversations, add_generation_prompt=True
    )
  for number, turns in enumerate(conversations):
    if [turn["role"] for turn in turns] != ["user"]:
      raise ValueError(
        f"chat_template: the tokenizer has none; example {number} is a "
        "conversation, which needs one"
      )
  return [turns[0]["content"] for turns in conversations]


def _tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
  """The ids of each text, without BOS or EOS."""
  if not texts:
    return []
  return tokenizer(
    list(texts),
    add_special_tokens=False,
    return_attention_mask=False,
    return_token_type_ids=False,
    verbose=False,
  )["input_ids"]


def _prompt_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
  ids = _tokenize(tokenizer, texts)
  if tokenizer.chat_template is None:
    # There is no BOS yet. Some tokenizers would add EOS as well, after
    # which there is nothing to continue: only what stands before is taken.
    probe = tokenizer("a")["input_ids"]
    body = _tokenize(tokenizer, ["a"])[0]
    start = probe[: probe.index(body[0])] if body[0] in probe else []
    ids = [start + row for row in ids]
  for number, row in enumerate(ids):
    if not row:
      raise ValueError(f"example {number}: its prompt has no tokens")
  return ids


def _array(ids: Sequence[int]) -> np.ndarray:
  return np.asarray(ids, dtype=np.int32)


def encode_prompts(
  tokenizer: Tokenizer, sources: Sequence[str], prompt: str
) -> list[np.ndarray]:
  """What the models continue: one int32 [length] array for each source.

  Args:
    tokenizer: As `load_tokenizer` gives it.
    sources: What to put in the place of `{source}`.
    prompt: The user's turn, for example "Translate to English: {source}". It
      goes through the chat template if there is one; otherwise it is used as
      it is, after the tokenizer's BOS.

  Raises:
    ValueError: `prompt` lacks `{source}`, or a prompt has no tokens.
  """
  examples: list[Example] = [{"source": s, "target": ""} for s in sources]
  texts = _prompt_texts(tokenizer, _turns(examples, prompt))
  return [_array(ids) for ids in _prompt_ids(tokenizer, texts)]


def encode_examples(
  tokenizer: Tokenizer, examples: Sequence[Example], prompt: str
) -> list[Pair]:
  """Prompt and response ids, int32 [length] each, for every example.

  The prompt ids are those of `encode_prompts`. The response ids are what the
  chat template puts after them in the assistant's turn, up to and including the
  first id that ends it (EOS is added if the template writes none). The turns of
  a conversation are taken as they are, without `prompt`.

  Raises:
    ValueError: As `encode_prompts`; or the chat template refuses a
      conversation, or writes the assistant's turn in another way than its
      generation prompt starts it; or a conversation has no chat template; or a
      target has a token that ends a response.
  """
  conversations = _turns(examples, prompt)
  prompts = _prompt_texts(tokenizer, conversations)
  prompt_ids = _prompt_ids(tokenizer, prompts)
  if tokenizer.chat_template is None:
    response_ids = _tokenize(tokenizer, [e["target"] for e in examples])
  else:
    whole = [
      [*turns, {"role": "assistant", "content": e["target"]}]
      for turns, e in zip(conversations, examples, strict=True)
    ]
    response_ids = _template_responses(tokenizer, whole, prompts, prompt_ids)
  ends = set(_end_of_turn(tokenizer)) | {tokenizer.eos_token_id}
  _check_targets(examples, tokenizer.convert_ids_to_tokens(sorted(ends)))
  pairs = []
  for start, ids in zip(prompt_ids, response_ids, strict=True):
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    ids = [*ids, tokenizer.eos_token_id] if end is None else ids[: end + 1]
    pairs.append((_array(start), _array(ids)))
  return pairs


def _check_targets(examples: Sequence[Example], ends: Sequence[str]) -> None:
  """Refuses a target that would be cut at a token which ends a response."""
  for number, example in enumerate(examples):
    for end in ends:
      if example["target"].partition(end)[2].strip():
        raise ValueError(
          f"example {number}: its target goes on after {end!r}, which ends a "
          "response"
        )


def _template_responses(
  tokenizer: Tokenizer,
  conversations: Sequence[Sequence[Message]],
  prompts: Sequence[str],
  prompt_ids: Sequence[Sequence[int]],
) -> list[list[int]]:
  """The ids that the chat template puts after each prompt."""
  texts = templates.render(tokenizer, conversations)
  for number, (start, text) in enumerate(zip(prompts, texts, strict=True)):
    if not text.startswith(start):
      raise ValueError(
        f"chat_template: in example {number}, the assistant's turn does not "
        f"continue the generation prompt, which ends in {start[-40:]!r}"
      )
  responses = []
  again = []  # Rows where a token spans the end of the prompt.
  for row, ids in enumerate(_tokenize(tokenizer, texts)):
    size = len(prompt_ids[row])
    if ids[:size] != prompt_ids[row]:
      again.append(row)
    responses.append(ids[size:])
  # The models continue exactly the prompt ids, so there the response starts
  # with a token of its own.
  alone = [texts[row][len(prompts[row]) :] for row in again]
  for row, ids in zip(again, _tokenize(tokenizer, alone), strict=True):
    responses[row] = ids
  return responses


def decode(
  tokenizer: Tokenizer, ids: Iterable[Sequence[int] | np.ndarray]
) -> list[str]:
  """The text of each row: special tokens left out, spaces as they are."""
  rows = [np.asarray(row).tolist() for row in ids]
  if not rows:
    return []
  return tokenizer.batch_decode(
    rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
  )


def special_ids(tokenizer: Tokenizer) -> set[int]:
  """The ids that write no text: BOS, EOS, turn marks and the like."""
  added = tokenizer.added_tokens_decoder
  marked = {token for token, entry in added.items() if entry.special}
  return marked | set(tokenizer.all_special_ids)


def _end_of_turn(tokenizer: Tokenizer) -> list[int]:
  """The special id that the chat template writes after an answer, if any."""
  if tokenizer.chat_template is None:
    return []
  answer = "skdanswer"  # One word, which no template contains or alters.
  conversation = [
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": answer},
  ]
  text = templates.render_one(tokenizer, conversation, "a plain conversation")
  _, found, after_answer = text.rpartition(answer)
  if not found:
    raise ValueError("chat_template: leaves out the turn of the assistant")
  after = _tokenize(tokenizer, [after_answer])[0]
  special = special_ids(tokenizer)
  return [token for token in after if token in special][:1]


def eos_ids(
  tokenizer: Tokenizer, folder: str | pathlib.Path | None = None
) -> tuple[int, ...]:
  """Every id that ends a response, sorted.

  These are the tokenizer's EOS, the `eos_token_id` of generation_config.json
  and config.json in `folder` (one id or a list), and the special token that the
  chat template writes after an answer.

  Raises:
    ValueError: A file of the folder cannot be read, or its `eos_token_id` is
      no ids; the chat template fails, or leaves out the turn of the assistant.
  """
  ids = {tokenizer.eos_token_id, *_end_of_turn(tokenizer)}
  names = ("generation_config.json", "config.json") if folder else ()
  paths = (pathlib.Path(folder or "", name) for name in names)
  for path in filter(pathlib.Path.is_file, paths):
    try:
      value = json.loads(path.read_text("utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
      raise ValueError(f"{path}: is no JSON object: {error}") from None
    values = value if isinstance(value, list) else [value]
    if value is not None and not all(type(v) is int for v in values):
      raise ValueError(
        f"{path}: eos_token_id = {value!r}: must be an id or a list of ids"
      )
    ids.update(v for v in values if v is not None)
  return tuple(sorted(ids))


def num_ids(tokenizer: Tokenizer) -> int:
  """One more than the largest id: more than len() where ids are unused."""
  return max(tokenizer.get_vocab().values()) + 1


def check_same_vocabulary(
  teacher_tokenizer: Tokenizer,
  student_tokenizer: Tokenizer,
  teacher_rows: int,
  student_rows: int,
) -> int:
  """The number of token ids that both models share.

  Both tokenizers must give every token the same id. The heads may be padded
  differently (Qwen2 has 151936 and 152064 rows): what lies past the tokenizer
  is never used.

  Args:
    teacher_tokenizer: As `load_tokenizer` gives it.
    student_tokenizer: As `load_tokenizer` gives it.
    teacher_rows: The rows of the teacher's head.
    student_rows: The rows of the student's head.

  Returns:
    One more than the largest id, at most the rows of the smaller head.

  Raises:
    ValueError: A token has two ids, or only one of the tokenizers knows it.
  """
  teacher = teacher_tokenizer.get_vocab()
  student = student_tokenizer.get_vocab()
  if teacher != student:
    ids = {**student, **teacher}
    differing = [t for t in ids if teacher.get(t) != student.get(t)]
    first = min(differing, key=lambda token: (ids[token], token))
    raise ValueError(
      f"vocabularies differ: token {first!r} is "
      f"{teacher.get(first, 'missing')} for the teacher ({len(teacher)} tokens)"
      f" and {student.get(first, 'missing')} for the student "
      f"({len(student)} tokens); both must give every token the same id"
    )
  return min(num_ids(teacher_tokenizer), teacher_rows, student_rows)
