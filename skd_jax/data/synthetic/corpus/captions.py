"""Captions: what strangers in a picture are doing, in the present tense."""

import random

from skd_jax.data.synthetic.corpus import (
  activities,
  clauses,
  english,
  german,
  nouns,
  phrases,
)
from skd_jax.data.synthetic.corpus.actions import Pair, final
from skd_jax.data.synthetic.corpus.phrases import Phrase

# What people in a picture are doing, with the indefinite things they hold.
_SCENES = """
{a:a+ reading} lesen | read {a:a+ reading}
{a:a+ snack} essen | eat {a:a+ snack}
{a:a+ animal} füttern | feed {a:a+ animal}
{a:a+ vehicle} reparieren | repair {a:a+ vehicle}
{a:a+ animal} fotografieren | photograph {a:a+ animal}
{instrument} spielen | play {instrument}
{sport} spielen | play {sport}
{a:a+ gift} kaufen | buy {a:a+ gift}
{a:count+ portable} tragen | carry {a:count+ portable}
{a:a+ plant} zeichnen | draw {a:a+ plant}
auf {a:a+ transport} warten | wait for {a:a+ transport}
mit {d:a+ animal} spielen | play with {d:a+ animal}
{a:bare drink} trinken | drink {a:bare drink}
mit {d:a+ stranger} sprechen | talk to {d:a+ stranger}
{a:a+ document} schreiben | write {a:a+ document}
Musik hören | listen to music
ein Lied singen | sing a song
lachen | laugh
schlafen | sleep
tanzen | dance
"""
_SPOTS = (
  ("auf einer Bank", "on a bench"),
  ("vor einem Café", "in front of a café"),
  ("am Fenster", "at the window"),
  ("unter einem großen Baum", "under a big tree"),
  ("an der Bushaltestelle", "at the bus stop"),
  ("neben einem roten Auto", "next to a red car"),
  ("auf dem Marktplatz", "in the market square"),
  ("hinter der Kirche", "behind the church"),
  ("am Ufer des Flusses", "on the bank of the river"),
  ("in einem kleinen Garten", "in a small garden"),
  ("auf der Treppe", "on the stairs"),
  ("zwischen zwei Häusern", "between two houses"),
)
_POSTURES = (("sitzen", "sit"), ("stehen", "stand"))


def _stranger(rng: random.Random) -> Phrase:
  noun = rng.choice(nouns.lexicon()["stranger"])
  is_plural = rng.random() < 0.3
  determiner = "count" if is_plural else "a"
  person = phrases.noun_phrase(
    rng, noun, "stranger", determiner, rng.random() < 0.5
  )
  if is_plural or rng.random() < 0.5:
    return person
  thing, thing_class = phrases.choose_noun(rng, "clothes")
  worn = phrases.noun_phrase(rng, thing, thing_class, "a", True)
  # ein Mann mit einem roten Hut: the addition does not change with the case.
  forms = {c: f"{person.forms[c]} mit {worn.forms['d']}" for c in phrases.CASES}
  return Phrase(
    forms,
    f"{person.english} with {worn.english}",
    person.gender,
    person.english_pronoun,
    False,
  )


def caption(rng: random.Random) -> Pair:
  """`Ein Mann mit einem Hut sitzt auf einer Bank und liest eine Zeitung.`"""
  subject = phrases.subject_of(_stranger(rng))
  line = rng.choice(_SCENES.strip().splitlines())
  action = clauses.act(rng, activities.parse_line(line, ""), subject)
  spot, spot_en = rng.choice(_SPOTS)
  scene = clauses.german_clause(action, subject, clauses.PROGRESSIVE)
  scene_en = clauses.english_clause(action, subject, clauses.PROGRESSIVE)
  kind = rng.random()
  if kind < 0.35:
    posture, posture_en = rng.choice(_POSTURES)
    first = german.Verb(posture).present(3, subject.is_plural)
    be = english.be_form(3, subject.is_plural, False)
    second = scene.removeprefix(subject.german + " ")
    second_en = scene_en.removeprefix(f"{subject.english} {be} ")
    return (
      clauses.sentence(f"{subject.german} {first} {spot} und {second}"),
      clauses.sentence(
        f"{subject.english} {be} {english.gerund(posture_en)} {spot_en} and "
        f"{second_en}"
      ),
    )
  if kind < 0.6:
    verb_first = clauses.german_clause(
      action, subject, clauses.PROGRESSIVE, clauses.INVERTED
    )
    return (
      clauses.sentence(f"{spot} {verb_first}"),
      clauses.sentence(f"{scene_en} {spot_en}"),
    )
  if kind < 0.75:
    return clauses.sentence(scene), clauses.sentence(scene_en)
  return _watching(rng, line)


def _watching(rng: random.Random, line: str) -> Pair:
  """`Eine Frau sieht einen Mann an, der eine Zeitung liest.`"""
  watcher, watched = phrases.subject_of(_stranger(rng)), _stranger(rng)
  look = german.Verb("sehen").present(3, watcher.is_plural)
  be = english.be_form(3, watcher.is_plural, False)
  other = phrases.subject_of(watched)
  action = clauses.act(rng, activities.parse_line(line, ""), other)
  text = final(action, other, clauses.PROGRESSIVE).removeprefix(other.german)
  rest_en = clauses.english_clause(action, other, clauses.PROGRESSIVE)
  rest_en = rest_en.removeprefix(other.english)
  relative = german.relative_pronoun(watched.gender, "n")
  return (
    clauses.sentence(
      f"{watcher.german} {look} {watched.forms['a']} an, {relative}{text}"
    ),
    clauses.sentence(
      f"{watcher.english} {be} looking at {watched.english} who{rest_en}"
    ),
  )
