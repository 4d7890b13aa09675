"""Sentences that describe: comparisons, relatives, passives, sums, commands."""

import random

from skd_jax.data.synthetic.corpus import (
  activities,
  adjectives,
  adverbials,
  clauses,
  english,
  german,
  nouns,
  phrases,
  quantities,
)
from skd_jax.data.synthetic.corpus.actions import (
  ERRANDS,
  TOPICS,
  Pair,
  draw_action,
  final,
)


def comparison(rng: random.Random) -> Pair:
  """`Mein Koffer ist viel schwerer als deiner`-like comparisons of things."""
  classes = (
    "clothes", "vehicle", "animal", "furniture", "device", "venue", "building",
    "wild_animal", "reading", "media", "document", "plant", "snack", "room",
  )  # fmt: skip
  name = rng.choice(classes)
  first, second = rng.sample(nouns.lexicon()[name], 2)
  is_plural = rng.random() < 0.2
  is_public = name in ("venue", "building", "wild_animal")
  determiners = (
    ("the",) if is_plural else ("the", "this", "my")[: 3 - is_public]
  )
  left = phrases.noun_phrase(
    rng, first, name, rng.choice(determiners), False, is_plural
  )
  right = phrases.noun_phrase(
    rng, second, name, rng.choice(determiners), False, is_plural
  )
  chosen = rng.choice(adjectives.gradable()[name])
  is_past = rng.random() < 0.25
  tense = (
    german.Verb("sein").preterite if is_past else german.Verb("sein").present
  )
  verb = tense(3, is_plural)
  verb_en = english.be_form(3, is_plural, is_past)
  degree, degree_en = rng.choice(
    (("", ""), ("viel ", "much "), ("noch ", "even "), ("etwas ", "a little "))
  )
  if rng.random() < 0.65:
    return (
      clauses.sentence(
        f"{left.forms['n']} {verb} {degree}{chosen.comparative} als "
        f"{right.forms['n']}"
      ),
      clauses.sentence(
        f"{left.english} {verb_en} {degree_en}{chosen.english_comparative} "
        f"than {right.english}"
      ),
    )
  shares = _SHARES if chosen.base in _MEASURABLE else _SHARES[:3]
  share, share_en = rng.choice(shares)
  return (
    clauses.sentence(
      f"{left.forms['n']} {verb} {share} {chosen.base} wie {right.forms['n']}"
    ),
    clauses.sentence(
      f"{left.english} {verb_en} {share_en} {chosen.english} as {right.english}"
    ),
  )


_SHARES = (
  ("genauso", "just as"),
  ("nicht so", "not as"),
  ("fast so", "almost as"),
  ("doppelt so", "twice as"),
)
_MEASURABLE = {"groß", "alt", "lang", "teuer", "schnell", "hoch", "stark"}


def relative(rng: random.Random) -> Pair:
  """`Das Buch, das ich gestern gekauft habe, ist sehr spannend.`"""
  name, verbs = rng.choice(_RELATIVES)
  noun = rng.choice(nouns.lexicon()[name])
  is_plural = bool(noun.plural) and rng.random() < 0.3
  thing = phrases.noun_phrase(
    rng, noun, name, "the", rng.random() < 0.4, is_plural
  )
  subject = phrases.draw_subject(rng, True)
  verb, verb_en = rng.choice(verbs)
  action = clauses.act(
    rng, activities.parse_line(f" {verb} | {verb_en}", ""), subject
  )
  time = adverbials.past(rng)
  inner = final(action, subject, clauses.PAST, time=time.german)
  inner_en = clauses.english_clause(
    action, subject, clauses.PAST, tail=time.english
  )
  pronoun = german.relative_pronoun(thing.gender, "a")
  is_they = thing.gender == "p"
  quality = rng.choice(
    [a for a in adjectives.gradable()[name] if a.english not in thing.english]
  )
  degree, degree_en = rng.choice(
    (("sehr", "very"), ("nicht", "not"), ("wirklich", "really"), ("zu", "too"))
  )
  verb, be = ("sind", "are") if is_they else ("ist", "is")
  return (
    clauses.sentence(
      f"{thing.forms['n']}, {pronoun} {inner}, {verb} {degree} {quality.base}"
    ),
    clauses.sentence(
      f"{thing.english} that {inner_en} {be} {degree_en} {quality.english}"
    ),
  )


_RELATIVES = (
  ("clothes", (("kaufen", "buy"), ("an=probieren", "try on"))),
  ("reading", (("lesen", "read"), ("aus=leihen", "borrow"))),
  ("reading", (("kaufen", "buy"), ("finden", "find"))),
  ("vehicle", (("mieten", "rent"), ("verkaufen", "sell"))),
  ("device", (("kaufen", "buy"), ("bestellen", "order"))),
  ("snack", (("bestellen", "order"), ("probieren", "try"))),
  ("document", (("schreiben", "write"), ("schicken", "send"))),
  ("furniture", (("kaufen", "buy"), ("verkaufen", "sell"))),
  ("venue", (("entdecken", "discover"), ("empfehlen", "recommend"))),
  ("building", (("besichtigen", "tour"), ("fotografieren", "photograph"))),
  ("animal", (("kaufen", "buy"), ("fotografieren", "photograph"))),
  ("media", (("sehen", "see"), ("empfehlen", "recommend"))),
  ("gift", (("kaufen", "buy"), ("bekommen", "get"))),
  ("plant", (("pflanzen", "plant"), ("zeichnen", "draw"))),
)


def relative_person(rng: random.Random) -> Pair:
  """`Der Mann, der gerade telefoniert, ist mein Onkel.`"""
  noun, noun_class = phrases.choose_noun(rng, "profession")
  person = phrases.noun_phrase(rng, noun, noun_class, "the", rng.random() < 0.4)
  subject = phrases.subject_of(person)
  action = draw_action(rng, subject, rng.choice(TOPICS))
  time = adverbials.past(rng)
  inner = final(action, subject, clauses.PAST, time=time.german)
  inner = inner.removeprefix(subject.german)
  inner_en = clauses.english_clause(
    action, subject, clauses.PAST, tail=time.english
  ).removeprefix(subject.english)
  opening = (
    f"{person.forms['n']}, {german.relative_pronoun(person.gender, 'n')}"
  )
  ending, ending_en = rng.choice(_PERSON_ENDINGS)
  return (
    clauses.sentence(f"{opening}{inner}, {ending}"),
    clauses.sentence(f"{person.english} who{inner_en} {ending_en}"),
  )


_PERSON_ENDINGS = (
  ("kommt aus Italien", "comes from Italy"),
  ("wohnt in meiner Straße", "lives on my street"),
  ("ist ein alter Freund von mir", "is an old friend of mine"),
  ("spricht drei Sprachen", "speaks three languages"),
  ("hat heute Geburtstag", "has a birthday today"),
  ("war sehr freundlich zu uns", "was very friendly to us"),
  ("arbeitet seit Jahren hier", "has worked here for years"),
  ("hat zwei kleine Kinder", "has two small children"),
  ("ist heute nicht da", "is not here today"),
)


def passive(rng: random.Random) -> Pair:
  """`Die Brücke wurde letztes Jahr von ... repariert.`"""
  name, verb, verb_en = rng.choice(_PASSIVES)
  noun = rng.choice(nouns.lexicon()[name])
  is_plural = bool(noun.plural) and rng.random() < 0.25
  determiner = "the" if is_plural else rng.choice(("the", "the", "this"))
  thing = phrases.noun_phrase(
    rng, noun, name, determiner, rng.random() < 0.5, is_plural
  )
  done, done_en = (
    german.Verb.parse(verb).participle,
    english.participle(verb_en),
  )
  rest_en = done_en
  werden = german.Verb("werden")
  past, soon = adverbials.past(rng), adverbials.future(rng)
  be_past = english.be_form(3, is_plural, True)
  be = english.be_form(3, is_plural, False)
  agent, agent_en = "", ""
  if rng.random() < 0.5:
    helper, helper_class = phrases.choose_noun(rng, "profession")
    by = phrases.noun_phrase(rng, helper, helper_class, "a")
    agent, agent_en = f"von {by.forms['d']} ", f" by {by.english}"
  have = "have" if is_plural else "has"
  have_de = german.Verb("sein").present(3, is_plural)
  must = german.Verb("müssen").present(3, is_plural)
  german_text, english_text = rng.choice(
    (
      (
        f"{werden.preterite(3, is_plural)} {past.german} {agent}{done}",
        f"{be_past} {rest_en}{agent_en} {past.english}",
      ),
      (
        f"{werden.present(3, is_plural)} gerade {agent}{done}",
        f"{be} being {rest_en}{agent_en}",
      ),
      (
        f"{must} {soon.german} {agent}{done} werden",
        f"{have} to be {rest_en}{agent_en} {soon.english}",
      ),
      (
        f"{have_de} schon {agent}{done} worden",
        f"{have} already been {rest_en}{agent_en}",
      ),
    )
  )
  return (
    clauses.sentence(f"{thing.forms['n']} {german_text}"),
    clauses.sentence(f"{thing.english} {english_text}"),
  )


_PASSIVES = (
  ("appliance", "reparieren", "repair"),
  ("vehicle", "verkaufen", "sell"),
  ("vehicle", "reparieren", "repair"),
  ("building", "renovieren", "renovate"),
  ("building", "besichtigen", "visit"),
  ("document", "unterschreiben", "sign"),
  ("document", "schreiben", "write"),
  ("document", "übersetzen", "translate"),
  ("room", "streichen", "paint"),
  ("plant", "gießen", "water"),
  ("animal", "füttern", "feed"),
  ("furniture", "liefern", "deliver"),
  ("snack", "essen", "eat"),
  ("clothes", "waschen", "wash"),
  ("event", "planen", "plan"),
  ("event", "verschieben", "postpone"),
  ("reading", "veröffentlichen", "publish"),
  ("belonging", "finden", "find"),
  ("homework", "verbessern", "correct"),
  ("gift", "schicken", "send"),
)


def arithmetic(rng: random.Random) -> Pair:
  """`Siebenundzwanzig plus acht ist fünfunddreißig.`"""
  kind = rng.choice(("plus", "minus", "mal"))
  if kind == "mal":
    first, second = rng.randint(2, 25), rng.randint(2, 12)
    result, kind_en = first * second, "times"
  elif kind == "plus":
    first, second = rng.randint(3, 400), rng.randint(3, 99)
    result, kind_en = first + second, "plus"
  else:
    first, second = rng.randint(60, 400), rng.randint(3, 59)
    result, kind_en = first - second, "minus"
  words = [quantities.spell(n) for n in (first, second, result)]
  return (
    clauses.sentence(f"{words[0][0]} {kind} {words[1][0]} ist {words[2][0]}"),
    clauses.sentence(f"{words[0][1]} {kind_en} {words[1][1]} is {words[2][1]}"),
  )


def command(rng: random.Random) -> Pair:
  """`Öffne bitte die Tür!`, `Bringen Sie mir bitte ...!`"""
  subject = phrases.PRONOUNS[rng.choice(("du", "Sie"))]
  action = draw_action(rng, subject, rng.choice(ERRANDS))
  verb = action.verb
  form = (
    verb.imperative()
    if subject.german == "du"
    else verb.stem_infinitive + " Sie"
  )
  time = adverbials.future(rng) if rng.random() < 0.6 else None
  parts = [
    form,
    action.reflexive,
    "bitte",
    time.german if time else "",
    action.early,
    action.late,
    verb.prefix,
  ]
  english_text = clauses.infinitive(action, time.english if time else "")
  return (
    clauses.sentence(" ".join(filter(None, parts))),
    clauses.sentence(f"please {english_text}"),
  )
