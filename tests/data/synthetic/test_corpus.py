"""The embedded German-English corpus."""

import datetime
import hashlib
import random
import re

import pytest

from skd_jax.data.synthetic import corpus
from skd_jax.data.synthetic.corpus import (
  activities,
  adjectives,
  clauses,
  english,
  german,
  nouns,
  patterns,
  phrases,
  quantities,
  slots,
)


def normalise(text):
  return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


@pytest.fixture(scope="module")
def splits():
  return {split: corpus.load_split(split) for split in corpus.SPLITS}


@pytest.fixture(scope="module")
def pairs(splits):
  return [example for split in splits.values() for example in split]


def noun(singular):
  entries = (n for group in nouns.lexicon().values() for n in group)
  return next(n for n in entries if n.singular == singular)


def test_splits_have_their_sizes(splits):
  assert len(splits["train"]) >= 50_000
  assert len(splits["validation"]) == len(splits["test"]) == 1_000


def test_held_out_sentences_never_occur_in_train(splits):
  for side in ("source", "target"):
    train = {normalise(example[side]) for example in splits["train"]}
    test = {normalise(example[side]) for example in splits["test"]}
    held_out = test | {normalise(e[side]) for e in splits["validation"]}
    assert len(held_out) == 2_000
    assert not train & held_out


def test_every_source_has_one_target(pairs):
  assert len({normalise(example["source"]) for example in pairs}) == len(pairs)


def test_fresh_generations_agree():
  def digest():
    corpus._generate.cache_clear()
    return hashlib.sha256(repr(corpus.sentence_pairs(2_000)).encode()).digest()

  assert digest() == digest()


def test_seeds_give_different_sentences():
  first = {e["source"] for e in corpus.sentence_pairs(500, seed=1)}
  second = {e["source"] for e in corpus.sentence_pairs(500, seed=2)}
  assert len(first & second) < 50


def test_shorter_corpus_is_a_prefix_of_a_longer_one():
  assert corpus.sentence_pairs(300, 4) == corpus.sentence_pairs(900, 4)[:300]


def test_lengths_stay_in_bounds(pairs):
  for side in ("source", "target"):
    lengths = [len(example[side].split()) for example in pairs]
    assert min(lengths) >= 4
    assert max(lengths) <= 26
    assert 9 < sum(lengths) / len(lengths) < 13


def test_vocabulary_counts_thousands_of_types(pairs):
  for side in ("source", "target"):
    words = {w for e in pairs for w in normalise(e[side]).split()}
    assert len(words) > 2_000


def test_sentences_are_well_formed(pairs):
  for example in pairs:
    for text in example.values():
      assert not re.search(r"  |[{}|=~#_]|\s[.,?!]|\u00a0|\u202f", text), text
      assert text == text.strip()
      assert text[0].isupper() or text[0].isdigit(), text
      assert text[-1] in ".?!", text
    assert (example["source"][-1] == "?") == (example["target"][-1] == "?")


def test_test_set_needs_composition(splits):
  # No more than a few held-out sentences are one word away from training.
  seen = set()
  for example in splits["train"]:
    words = tuple(example["source"].split())
    seen |= {words[:i] + words[i + 1 :] for i in range(len(words))}
  near = 0
  for example in splits["test"]:
    words = tuple(example["source"].split())
    near += any(words[:i] + words[i + 1 :] in seen for i in range(len(words)))
  assert near < 350


@pytest.mark.parametrize(
  ("word", "case", "plural", "expected"),
  [
    ("Haus", "d", True, "Häusern"),
    ("Haus", "g", False, "Hauses"),
    ("Auto", "d", True, "Autos"),
    ("Student", "a", False, "Studenten"),
    ("Student", "n", False, "Student"),
    ("Frau", "g", False, "Frau"),
    ("Freundin", "d", True, "Freundinnen"),
    ("Bus", "g", False, "Busses"),
    ("Bruder", "g", False, "Bruders"),
  ],
)
def test_nouns_decline(word, case, plural, expected):
  assert noun(word).decline(case, plural) == expected


@pytest.mark.parametrize(
  ("word", "declension", "gender", "case", "expected"),
  [
    ("groß", "mixed", "m", "n", "großer"),
    ("groß", "mixed", "m", "a", "großen"),
    ("groß", "mixed", "n", "a", "großes"),
    ("groß", "mixed", "f", "d", "großen"),
    ("groß", "weak", "m", "n", "große"),
    ("groß", "weak", "p", "n", "großen"),
    ("frisch", "strong", "f", "d", "frischer"),
    ("frisch", "strong", "p", "a", "frische"),
    ("kalt", "strong", "n", "n", "kaltes"),
    ("teuer", "mixed", "n", "n", "teures"),
    ("hoch", "weak", "m", "a", "hohen"),
    ("müde", "mixed", "m", "n", "müder"),
  ],
)
def test_adjectives_decline(word, declension, gender, case, expected):
  assert german.adjective(word, declension, gender, case) == expected


@pytest.mark.parametrize(
  ("word", "person", "plural", "expected"),
  [
    ("fahren", 2, False, "fährst"),
    ("lesen", 2, False, "liest"),
    ("halten", 2, False, "hältst"),
    ("nehmen", 3, False, "nimmt"),
    ("öffnen", 3, False, "öffnet"),
    ("zeichnen", 2, True, "zeichnet"),
    ("wohnen", 3, False, "wohnt"),
    ("warten", 2, False, "wartest"),
    ("verbessern", 1, False, "verbessere"),
    ("füttern", 1, True, "füttern"),
    ("sein", 2, True, "seid"),
    ("wissen", 1, False, "weiß"),
    ("tanzen", 2, False, "tanzt"),
  ],
)
def test_verbs_conjugate_in_the_present(word, person, plural, expected):
  assert german.Verb.parse(word).present(person, plural) == expected


@pytest.mark.parametrize(
  ("word", "participle", "auxiliary"),
  [
    ("auf=stehen", "aufgestanden", "sein"),
    ("ein=kaufen", "eingekauft", "haben"),
    ("besuchen", "besucht", "haben"),
    ("reparieren", "repariert", "haben"),
    ("an=probieren", "anprobiert", "haben"),
    ("zeichnen", "gezeichnet", "haben"),
    ("streichen", "gestrichen", "haben"),
    ("fliegen", "geflogen", "sein"),
    ("auf=hängen", "aufgehängt", "haben"),
    ("übersetzen", "übersetzt", "haben"),
  ],
)
def test_verbs_form_the_perfect(word, participle, auxiliary):
  verb = german.Verb.parse(word)
  assert (verb.participle, verb.auxiliary) == (participle, auxiliary)


def test_verbs_form_other_moods():
  assert german.Verb.parse("auf=stehen").zu_infinitive == "aufzustehen"
  assert german.Verb.parse("geben").imperative() == "gib"
  assert german.Verb.parse("fahren").imperative() == "fahr"
  assert german.Verb.parse("lesen").imperative() == "lies"
  assert german.Verb.parse("öffnen").imperative() == "öffne"
  assert german.Verb.parse("spielen").imperative() == "spiel"
  assert german.Verb.parse("bügeln").imperative() == "bügle"
  assert german.Verb.parse("haben").subjunctive(1, True) == "hätten"
  assert german.Verb.parse("bringen").preterite(3, True) == "brachten"
  assert german.Verb.parse("finden").preterite(2, True) == "fandet"


def test_every_listed_verb_conjugates():
  for group in activities.by_topic().values():
    for activity in group:
      verb = activity.verb
      forms = [verb.present(p, n) for p in (1, 2, 3) for n in (False, True)]
      assert all(form.isalpha() for form in forms)
      assert not re.search(r"(tt|dt|nn|ss)t$", verb.preterite(3, False))


def test_phrases_agree_in_case_and_gender():
  rng = random.Random(0)
  phrase = phrases.noun_phrase(rng, noun("Hund"), "animal", "my")
  assert phrase.forms == {
    "n": "mein Hund",
    "a": "meinen Hund",
    "d": "meinem Hund",
    "g": "meines Hundes",
  }
  for determiner, opening in (("my", "mein"), ("the", "der"), ("count", "")):
    text = phrases.noun_phrase(
      random.Random(1), noun("Hund"), "animal", determiner, True
    ).forms["n"]
    ending = {"mein": "er", "der": "e", "": "e"}[opening]
    assert text.split()[0].startswith(opening)
    assert text.split()[1].endswith(ending)
  owner = phrases.PRONOUNS["ihr"]
  bag = phrases.noun_phrase(
    rng, noun("Tasche"), "device", "my", is_plural=True, owner=owner
  )
  assert (bag.forms["d"], bag.english) == ("euren Taschen", "your bags")


@pytest.mark.parametrize(
  ("order", "expected"),
  [
    (clauses.MAIN, "ich hänge gestern die Wäsche im Keller auf"),
    (clauses.INVERTED, "hänge ich gestern die Wäsche im Keller auf"),
    (clauses.FINAL, "ich gestern die Wäsche im Keller aufhänge"),
  ],
)
def test_word_order_follows_the_kind_of_clause(order, expected):
  subject = phrases.PRONOUNS["ich"]
  line = "die Wäsche auf=hängen | hang up the laundry"
  action = clauses.act(
    random.Random(0), activities.parse_line(line, "home"), subject
  )
  text = clauses.german_clause(
    action, subject, clauses.HABIT, order, "gestern", "im Keller"
  )
  assert text == expected


def test_reflexive_pronoun_agrees_and_follows_the_finite_verb():
  line = "sich3 die Hände waschen | wash {my} hands"
  activity = activities.parse_line(line, "home")
  subject = phrases.PRONOUNS["du"]
  action = clauses.act(random.Random(0), activity, subject)
  assert (
    clauses.german_clause(action, subject, clauses.PAST, negation="nicht")
    == "du hast dir die Hände nicht gewaschen"
  )
  assert (
    clauses.english_clause(action, subject, clauses.PAST, negated=True)
    == "you didn't wash your hands"
  )


@pytest.mark.parametrize(
  ("verb", "form", "support", "expected"),
  [
    ("buy", "present", False, ("", "buys")),
    ("buy", "present", True, ("does", "buy")),
    ("carry", "past", False, ("", "carried")),
    ("lie", "progressive", False, ("is", "lying")),
    ("write", "perfect", False, ("has", "written")),
    ("be", "past", True, ("was", "")),
    ("go", "have to", False, ("", "has to go")),
    ("go", "had to", True, ("did", "have to go")),
  ],
)
def test_english_verbs_conjugate(verb, form, support, expected):
  group = english.verb_group(verb, form, 3, False, support)
  assert (group.auxiliary, group.main) == expected


def test_english_articles_and_plurals_follow_sound_and_spelling():
  assert english.article("old house") == "an old house"
  assert english.article("uniform") == "a uniform"
  assert english.plural("strawberry") == "strawberries"
  assert english.plural("policewoman") == "policewomen"
  assert english.plural("coffee machine") == "coffee machines"
  assert adjectives.compare_english("heavy") == "heavier"
  assert adjectives.compare_english("expensive") == "more expensive"


@pytest.mark.parametrize(
  ("hour", "minute", "expected"),
  [
    (2, 30, ("halb drei", "half past two")),
    (12, 30, ("halb eins", "half past twelve")),
    (1, 0, ("ein Uhr", "one o'clock")),
    (6, 45, ("Viertel vor sieben", "a quarter to seven")),
    (1, 10, ("zehn nach eins", "ten past one")),
    (9, 55, ("fünf vor zehn", "five to ten")),
    (4, 25, ("fünf vor halb fünf", "twenty-five past four")),
  ],
)
def test_spoken_times_differ_between_the_languages(hour, minute, expected):
  assert quantities.clock(hour, minute) == expected


def test_minutes_off_the_dial_are_refused():
  with pytest.raises(ValueError, match="minute = 7"):
    quantities.clock(3, 7)


def test_numbers_follow_the_conventions_of_each_language():
  assert quantities.spell(21) == ("einundzwanzig", "twenty-one")
  assert quantities.format_price(1234.5, "EUR") == ("1.234,50 €", "€1,234.50")
  day = datetime.date(2021, 3, 14)
  assert quantities.format_date(day) == ("14. März 2021", "March 14, 2021")
  assert quantities.format_clock(15, 30) == ("15:30 Uhr", "3:30 PM")
  weight = quantities.format_measure(3.5, "mass-kilogram")
  assert weight == ("3,5 Kilogramm", "3.5 kilograms")


def test_every_template_can_be_filled():
  assert len(patterns.templates()) > 100
  for source, target in patterns.templates():
    assert set(slots.keys_of(source)) >= set(slots.keys_of(target)), source
    for key in slots.keys_of(source):
      slots.draw(random.Random(0), key)


@pytest.mark.parametrize("split", ["dev", "", "Train"])
def test_unknown_split_is_refused(split):
  with pytest.raises(ValueError, match="train, validation, test"):
    corpus.load_split(split)


def test_unknown_slot_is_refused():
  with pytest.raises(ValueError, match="unicorn"):
    slots.draw(random.Random(0), "the unicorn")


def test_empty_corpus_is_refused():
  with pytest.raises(ValueError, match="num_pairs = 0"):
    corpus.sentence_pairs(0)
