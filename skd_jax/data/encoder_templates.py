"""How an encoder-decoder is prompted, as a chat template.

Its published tokenizers have none: what the encoder reads is their text, and
what the decoder starts from is told to `generate` apart. As a template, both
are the prompt, and all that reads a prompt reads them:

  NLLB    deu_Latn  Hallo  </s>    </s>  eng_Latn      Hello  </s>
  T5                Hallo  </s>    <pad>               Hello  </s>
          `----- encoder -----'    `- decoder --'      `response-'
"""

import json
import pathlib
from typing import Any

from skd_jax.data import templates

_ONE_TURN = (
  "{% if messages[0]['role'] != 'user' or messages | length > 2 %}"
  "{{ raise_exception('an encoder-decoder answers one turn of the user') }}"
  "{% endif %}"
)
_LANGUAGES = (
  "{% if add_generation_prompt and not (source_language and target_language) %}"
  "{{ raise_exception('template_arguments must have source_language "
  "and target_language, such as deu_Latn and eng_Latn') }}{% endif %}"
)
_ANSWER = (
  "{% if messages | length == 2 %}{{ messages[1]['content'] }}{{ eos_token }}"
  "{% endif %}"
)
_T5 = (
  _ONE_TURN
  + "{{ messages[0]['content'] }}{{ eos_token }}{{ pad_token }}"
  + _ANSWER
)
# By the model_type of config.json.
_TEMPLATES = {
  "t5": _T5,
  "mt5": _T5,
  "m2m_100": (
    _ONE_TURN + _LANGUAGES + "{{ source_language }}{{ messages[0]['content'] }}"
    "{{ eos_token }}{{ eos_token }}{{ target_language }}" + _ANSWER
  ),
}


def add_template(tokenizer: Any, folder: pathlib.Path) -> None:
  """Gives the tokenizer of an encoder-decoder its template; changes no other.

  Args:
    tokenizer: of transformers; one that has a chat template keeps it.
    folder: where it is from, with the config.json of the model or without.
  """
  path = folder / "config.json"
  if tokenizer.chat_template is None and path.is_file():
    model_type = json.loads(path.read_text("utf-8")).get("model_type")
    tokenizer.chat_template = _TEMPLATES.get(model_type)


def check_template(tokenizer: Any) -> None:
  """Checks that such a template gives the ids that the tokenizer itself does.

  Args:
    tokenizer: with the arguments of its template; others are not looked at.

  Raises:
    ValueError: an argument is missing, or is no language of the tokenizer.
  """
  template = tokenizer.chat_template
  if not any(templates.is_from(template, t) for t in _TEMPLATES.values()):
    return
  words = "ab cd"
  turns = [{"role": role, "content": words} for role in ("user", "assistant")]
  prompt, whole = (
    templates.render_one(
      tokenizer, turns[:n], "a probe", add_generation_prompt=n == 1
    )
    for n in (1, 2)
  )
  alone, start, both = (
    tokenizer(text, add_special_tokens=False)["input_ids"]
    for text in (words, prompt, whole)
  )
  num = (len(start) - len(alone) - 2) // 2  # Ids of a language: one, or none.
  text = [*alone, tokenizer.eos_token_id]
  if num > 1 or both != [*start[:num], *text, *start[-1 - num :], *text]:
    raise ValueError(
      "template_arguments: must be languages of the tokenizer, such as "
      f"deu_Latn; {prompt!r} is put as "
      f"{tokenizer.convert_ids_to_tokens(start)}"
    )
