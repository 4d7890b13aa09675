"""English inflection: articles, plurals and verb groups."""

import dataclasses

_PLURALS = {
  "man": "men",
  "woman": "women",
  "child": "children",
  "person": "people",
  "foot": "feet",
  "tooth": "teeth",
  "mouse": "mice",
  "goose": "geese",
  "fish": "fish",
  "sheep": "sheep",
  "deer": "deer",
  "knife": "knives",
  "wife": "wives",
  "shelf": "shelves",
  "leaf": "leaves",
  "loaf": "loaves",
  "scarf": "scarves",
  "half": "halves",
  "wolf": "wolves",
  "thief": "thieves",
  "potato": "potatoes",
  "tomato": "tomatoes",
  "mango": "mangoes",
  "aircraft": "aircraft",
  "series": "series",
  "businessman": "businessmen",
  "policeman": "policemen",
  "fireman": "firemen",
  "fisherman": "fishermen",
}
# base, past, participle (the same as the past when left out)
_IRREGULAR = """
be was been; become became become; begin began begun; bite bit bitten
break broke broken; bring brought; build built; buy bought; catch caught
choose chose chosen; come came come; cost cost; cut cut; do did done
draw drew drawn; drink drank drunk; drive drove driven; eat ate eaten
fall fell fallen; feed fed; feel felt; find found; fly flew flown
forget forgot forgotten; get got gotten; give gave given; go went gone
grow grew grown; hang hung; have had; hear heard; hold held; keep kept
know knew known; lead led; leave left; lend lent; let let; lie lay lain
light lit; lose lost; make made; mean meant; meet met; pay paid; put put
read read; ride rode ridden; ring rang rung; rise rose risen; run ran run
say said; see saw seen; sell sold; send sent; set set; shine shone
show showed shown; sing sang sung; sit sat; sleep slept; speak spoke spoken
spend spent; stand stood; steal stole stolen; sweep swept; swim swam swum
take took taken; teach taught; tell told; think thought; throw threw thrown
understand understood; wake woke woken; wear wore worn; win won
write wrote written; hit hit; shut shut; bake baked; hurt hurt; fix fixed
"""
_DOUBLING = {
  "stop", "stir", "plan", "jog", "chat", "shop", "swim", "run", "get", "put",
  "cut", "sit", "begin", "win", "set", "let", "plug", "hug", "rob", "hit",
  "shut", "forget", "unplug", "scrub", "wrap", "mop", "slip", "ban", "admit",
  "pet",
}  # fmt: skip
_CONTRACTED = {"will": "won't", "can": "can't", "am": "am not"}
_SILENT_H = ("hour", "honest", "honor", "heir")
_YOU_SOUND = ("uni", "use", "usu", "euro", "one", "u.s", "ukulele", "utensil")


def _parse_irregular() -> dict[str, tuple[str, str]]:
  entries = _IRREGULAR.replace("\n", ";").split(";")
  rows = [entry.split() for entry in entries if entry.strip()]
  return {row[0]: (row[1], row[-1]) for row in rows}


_PAST = _parse_irregular()


def article(phrase: str) -> str:
  """Returns the phrase with a or an: `an old house`, `a university`."""
  word = phrase.lower()
  if word.startswith(("8", "11 ", "18 ", *_SILENT_H)):
    return "an " + phrase
  if word.startswith(_YOU_SOUND) and not word.startswith("unin"):
    return "a " + phrase
  return ("an " if word[0] in "aeiou" else "a ") + phrase


def plural(phrase: str) -> str:
  """Returns the plural of a noun phrase, by its last word."""
  head, _, word = phrase.rpartition(" ")
  lead = head + " " if head else ""
  if word in _PLURALS:
    return lead + _PLURALS[word]
  for end in ("woman", "man"):
    if word.endswith(end) and word not in ("human", "german"):
      return lead + word[: -len(end)] + _PLURALS[end]
  if word.endswith("y") and word[-2] not in "aeiou":
    return lead + word[:-1] + "ies"
  if word.endswith(("s", "x", "z", "ch", "sh")):
    return lead + word + "es"
  return lead + word + "s"


def possessive(phrase: str) -> str:
  """Returns the phrase of a singular with 's."""
  return phrase + "'s"


def third_person(verb: str) -> str:
  """Returns the third person singular of the simple present."""
  if verb in ("have", "be"):
    return {"have": "has", "be": "is"}[verb]
  if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
    return verb + "es"
  if verb.endswith("y") and verb[-2] not in "aeiou":
    return verb[:-1] + "ies"
  return verb + "s"


def past(verb: str) -> str:
  """Returns the simple past: `bought`, `stopped`, `carried`."""
  return _PAST[verb][0] if verb in _PAST else _regular_past(verb)


def participle(verb: str) -> str:
  """Returns the past participle: `eaten`, `stopped`."""
  return _PAST[verb][1] if verb in _PAST else _regular_past(verb)


def gerund(verb: str) -> str:
  """Returns the form in -ing: `writing`, `running`, `lying`."""
  if verb in _DOUBLING:
    return verb + verb[-1] + "ing"
  if verb.endswith("ie"):
    return verb[:-2] + "ying"
  if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")):
    return ("be" if verb == "be" else verb[:-1]) + "ing"
  return verb + "ing"


def _regular_past(verb: str) -> str:
  if verb in _DOUBLING:
    return verb + verb[-1] + "ed"
  if verb.endswith("e"):
    return verb + "d"
  if verb.endswith("y") and verb[-2] not in "aeiou":
    return verb[:-1] + "ied"
  return verb + "ed"


@dataclasses.dataclass(frozen=True)
class VerbGroup:
  """A finite verb group: `has` + `been`; `auxiliary` is empty in `bought`."""

  auxiliary: str
  main: str


def be_form(person: int, is_plural: bool, is_past: bool) -> str:
  """Returns am, is, are, was or were; `you` counts as plural."""
  if person == 2 or is_plural:
    return "were" if is_past else "are"
  if is_past:
    return "was"
  return "am" if person == 1 else "is"


def verb_group(
  verb: str,
  form: str,
  person: int,
  is_plural: bool,
  support: bool = False,
) -> VerbGroup:
  """Conjugates a verb.

  Args:
    verb: the base form.
    form: `present`, `past`, `progressive`, `past_progressive`, `perfect`,
      `past_perfect`, or a modal: `will`, `can`, `could`, `should`, `would`,
      `have to`, `had to`, `want to`, `wanted to`, `would like to`.
    person: 1, 2 or 3.
    is_plural: number of the subject.
    support: whether the group must have an auxiliary (a question or not), so
      that `buys` becomes `does buy`.
  """
  third = person == 3 and not is_plural
  if form in ("have to", "had to", "want to", "wanted to"):
    head = "have" if form.startswith("ha") else "want"
    tense = "past" if form in ("had to", "wanted to") else "present"
    group = verb_group(head, tense, person, is_plural, support)
    return VerbGroup(group.auxiliary, f"{group.main} to {verb}")
  if form == "would like to":
    return VerbGroup("would", "like to " + verb)
  if form in ("will", "can", "could", "should", "would"):
    return VerbGroup(form, verb)
  if form in ("progressive", "past_progressive"):
    be = be_form(person, is_plural, form == "past_progressive")
    return VerbGroup(be, gerund(verb))
  if form in ("perfect", "past_perfect"):
    have = "had" if form == "past_perfect" else "has" if third else "have"
    return VerbGroup(have, participle(verb))
  is_past = form == "past"
  if verb == "be":
    return VerbGroup(be_form(person, is_plural, is_past), "")
  if support:
    do = "did" if is_past else "does" if third else "do"
    return VerbGroup(do, verb)
  if is_past:
    return VerbGroup("", past(verb))
  return VerbGroup("", third_person(verb) if third else verb)


def negate(auxiliary: str) -> str:
  """Returns the contracted negation: `don't`, `won't`, `isn't`."""
  return _CONTRACTED.get(auxiliary, auxiliary + "n't")
