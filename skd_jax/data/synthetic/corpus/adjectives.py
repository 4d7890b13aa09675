"""Adjectives with the classes of nouns that they can describe."""

import dataclasses
import functools


@dataclasses.dataclass(frozen=True)
class Adjective:
  """An adjective: `base` and `comparative` in German and in English."""

  base: str
  comparative: str
  english: str
  english_comparative: str


# name: the noun classes it suits; then entries `german english` with the German
# comparative after a slash where it is not regular.
_ADJECTIVES = """
# size: clothes furniture vehicle dish building gift device room
groß/größer big; klein small; neu new; alt/älter old; schön beautiful
# living: animal wild_animal plant
groß/größer big; klein small; alt/älter old; schön beautiful
# colour: clothes vehicle furniture dish plant device
rot red; blau blue; grün green; gelb yellow; schwarz black; weiß white
braun brown; grau gray
# dress: clothes furniture
elegant elegant; bequem comfortable; altmodisch old-fashioned
modern modern; teuer/teurer expensive; billig cheap
# taste: fruit
frisch fresh; reif ripe; groß/größer big
# baking: snack
frisch fresh; lecker delicious; groß/größer big
# dish_taste: snack
warm/wärmer warm; kalt/kälter cold; gesund/gesünder healthy
# grocery: grocery
frisch fresh; gut/besser good; billig cheap; teuer/teurer expensive
# drink: drink
kalt/kälter cold; heiß hot; süß sweet; stark/stärker strong; frisch fresh
# text: reading media
spannend exciting; langweilig boring; interessant interesting
lang/länger long; traurig sad; berühmt famous; lustig funny; kurz/kürzer short
gut/besser good; neu new
# document: document homework
wichtig important; lang/länger long; neu new; kurz/kürzer short
ausführlich detailed; einfach simple; schwierig difficult
# sound: appliance vehicle
leise quiet; laut loud
# machine: appliance device vehicle
modern modern; teuer/teurer expensive; gebraucht used
praktisch practical; günstig affordable
# transport: transport
voll full; schnell fast; langsam slow; modern modern
# beast: animal wild_animal
jung/jünger young; hungrig hungry; müde tired; ruhig calm
dick fat; stark/stärker strong; schnell fast
# wild: wild_animal
gefährlich dangerous
# belonging: belonging
neu new; alt/älter old; verloren/~ lost; gültig valid
# gift: gift
hübsch pretty; wertvoll valuable; teuer/teurer expensive
# container: dish
leer empty; voll full; sauber clean; schmutzig dirty
# opening: opening
schwer heavy; klein small; groß/größer big; alt/älter old
# building: building venue room
berühmt famous; modern modern; historisch historic; ruhig quiet
klein small; groß/größer big; alt/älter old; neu new; hell bright
gemütlich cozy
# venue: venue
italienisch Italian; teuer/teurer expensive; günstig affordable; beliebt popular
# nature: sight
klein small; groß/größer big; berühmt famous; ruhig quiet
bekannt well-known; wunderschön gorgeous; malerisch picturesque
# event: event
wichtig important; lang/länger long; schön beautiful; groß/größer big
# thought: problem
wichtig important; groß/größer big; interessant interesting; neu new
klein small; ernst serious
# person: acquaintance_man acquaintance_woman profession_man profession_woman \
visitor_man visitor_woman
nett nice; freundlich friendly; jung/jünger young; alt/älter old
höflich polite; fleißig hard-working; berühmt famous; müde tired
ehrlich honest; streng strict; erfahren experienced; neugierig curious
geduldig patient; reich rich; schüchtern shy
# stranger: stranger
jung/jünger young; alt/älter old; blond blond; groß/größer tall
fröhlich cheerful; elegant elegant
# body: body
link left; recht right
# group: group
neu new; alt/älter old; nett nice
# plant: plant
hoch/höher tall; bunt colorful; blühend/~ blooming; selten rare
"""
_ENGLISH_COMPARATIVE = {"good": "better", "fat": "fatter", "dear": "dearer"}
_TWO_SYLLABLE_MORE = {"famous", "patient", "honest", "modern", "boring"}
# Adjectives that stand before a noun only, or that do not compare.
_ATTRIBUTE_ONLY = {"link", "recht", "lieb", "italienisch"}
_ABSOLUTE = {
  "gebraucht", "leer", "voll", "blond", "verloren", "gültig",
  "blühend", "rot", "blau", "grün", "gelb", "schwarz", "weiß", "braun", "grau",
  "historisch",
}  # fmt: skip


def compare_english(word: str) -> str:
  """Returns the comparative: `bigger`, `happier`, `more expensive`."""
  if word in _ENGLISH_COMPARATIVE:
    return _ENGLISH_COMPARATIVE[word]
  vowels = sum(
    c in "aeiou" and (i == 0 or word[i - 1] not in "aeiou")
    for i, c in enumerate(word.rstrip("e"))
  )
  if word.endswith("y") and vowels <= 2 and "-" not in word:
    return word[:-1] + "ier"
  if vowels > 1 or word in _TWO_SYLLABLE_MORE or "-" in word:
    return "more " + word
  if word.endswith("e"):
    return word + "r"
  if word[-1] in "gtdnm" and word[-2] in "aeiou" and word[-3] not in "aeiou":
    return word + word[-1] + "er"
  return word + "er"


def _parse() -> dict[str, list[Adjective]]:
  suited: dict[str, list[Adjective]] = {}
  classes: list[str] = []
  for line in _ADJECTIVES.splitlines():
    if line.startswith("# "):
      classes = [str(name) for name in line.split(":")[1].split()]
      continue
    for entry in filter(None, (part.strip() for part in line.split(";"))):
      word, english = entry.split(" ", 1)
      base, _, comparative = word.partition("/")
      comparative = comparative or base + ("r" if base[-1] == "e" else "er")
      found = Adjective(base, comparative, english, compare_english(english))
      for name in classes:
        group = suited.setdefault(name, [])
        if found.base not in {a.base for a in group}:
          group.append(found)
  return suited


@functools.cache
def attributes() -> dict[str, list[Adjective]]:
  """Returns, by noun class, the adjectives that can stand before the noun."""
  return _parse()


@functools.cache
def gradable() -> dict[str, list[Adjective]]:
  """Returns, by noun class, the adjectives that compare and follow `ist`."""
  left_out = _ATTRIBUTE_ONLY | _ABSOLUTE
  return {
    name: [a for a in group if a.base not in left_out]
    for name, group in attributes().items()
  }
