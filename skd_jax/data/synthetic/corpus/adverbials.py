"""Adverbials of time and place, conditions, hindrances and motives."""

import random
import re

from skd_jax.data.synthetic.corpus import activities
from skd_jax.data.synthetic.corpus.clauses import Adverbial
from skd_jax.data.synthetic.corpus.quantities import FILLERS

_SLOT = re.compile(r"\{\w+\}")


def _read(text: str) -> list[Adverbial]:
  pairs = [line.split("|") for line in text.strip().splitlines()]
  return [Adverbial(pair[0].strip(), pair[1].strip()) for pair in pairs]


# {weekday}, {month}, {few}, {time} and {spoken_day} are filled when drawn.
_PAST = _read("""
gestern | yesterday
gestern Abend | last night
vorgestern | the day before yesterday
heute Morgen | this morning
letzte Woche | last week
letzten {weekday} | last {weekday}
letzten Sommer | last summer
letztes Jahr | last year
vor einer Stunde | an hour ago
vor {few} Tagen | {few} days ago
vor {few} Wochen | {few} weeks ago
gestern um {time} | yesterday at {time}
im {month} | in {month}
am {spoken_day} | on {spoken_day}
am Nachmittag | in the afternoon
nach dem Mittagessen | after lunch
""")
_FUTURE = _read("""
morgen | tomorrow
morgen früh | tomorrow morning
übermorgen | the day after tomorrow
heute Abend | tonight
nächste Woche | next week
nächsten {weekday} | next {weekday}
bald | soon
in {few} Tagen | in {few} days
in zwei Stunden | in two hours
in einer Stunde | in an hour
am {spoken_day} | on {spoken_day}
morgen um {time} | tomorrow at {time}
nach der Arbeit | after work
""")
_HABIT = _read("""
jeden Tag | every day
jeden Morgen | every morning
jeden {weekday} | every {weekday}
jeden Abend | every evening
am Wochenende | on weekends
zweimal pro Woche | twice a week
einmal im Monat | once a month
im Sommer | in the summer
im Winter | in the winter
fast jeden Tag | almost every day
im Herbst | in the fall
nachts | at night
""")
_FREQUENCY = _read("""
oft | often
immer | always
nie | never
manchmal | sometimes
selten | rarely
meistens | usually
""")
_NOW = _read(
  """
gerade |
im Moment | at the moment
jetzt | now
""".replace("gerade |\n", "gerade | \n")
)
_DEGREE = _read("""
vielleicht | maybe
leider | unfortunately
natürlich | of course
zum Glück | fortunately
""")

_PLACES = {
  "kitchen": """
in der Küche | in the kitchen
auf dem Balkon | on the balcony
im Restaurant | at the restaurant
in der Kantine | in the cafeteria
bei meiner Großmutter | at my grandmother's place
""",
  "home": """
zu Hause | at home
im Wohnzimmer | in the living room
im Keller | in the basement
in der Garage | in the garage
""",
  "shop": """
im Kaufhaus | at the department store
auf dem Flohmarkt | at the flea market
im Internet | on the internet
im Einkaufszentrum | at the shopping mall
in {city} | in {city}
""",
  "travel": """
in {city} | in {city}
in {country} | in {country}
im Urlaub | on vacation
am Flughafen | at the airport
""",
  "office": """
im Büro | at the office
in der Firma | at the company
bei der Arbeit | at work
zu Hause | at home
""",
  "school": """
in der Schule | at school
in der Bibliothek | in the library
im Unterricht | in class
an der Universität | at the university
zu Hause | at home
""",
  "sport": """
im Park | in the park
im Verein | at the club
hinter der Schule | behind the school
""",
  "leisure": """
im Garten | in the garden
auf der Party | at the party
bei den Nachbarn | at the neighbors' house
in {city} | in {city}
am Strand | on the beach
""",
  "health": """
zu Hause | at home
im Krankenhaus | in the hospital
""",
}
_PLACES_BY_TOPIC = {topic: _read(text) for topic, text in _PLACES.items()}

# What happens around an action, as final clauses: present and past tense.
_WEATHER = """
es stark regnet | it is raining hard | es stark regnete | it was raining hard
es schneit | it is snowing | es schneite | it was snowing
es sehr heiß ist | it is very hot | es sehr heiß war | it was very hot
es draußen kalt ist | it is cold outside | es draußen kalt war | it was cold \
outside
der Zug Verspätung hat | the train is late | der Zug Verspätung hatte | the \
train was late
das Auto kaputt ist | the car is broken | das Auto kaputt war | the car was \
broken
es schon spät ist | it is already late | es schon spät war | it was already late
die Straßen glatt sind | the roads are icy | die Straßen glatt waren | the \
roads were icy
der Strom ausgefallen ist | the power is out | der Strom ausgefallen war | the \
power was out
"""
_CONDITIONS = _read("""
es morgen regnet | it rains tomorrow
das Wetter schön ist | the weather is nice
es nicht zu teuer ist | it is not too expensive
alles gut geht | everything goes well
der Zug pünktlich ist | the train is on time
am Wochenende die Sonne scheint | the sun shines on the weekend
die Geschäfte noch offen sind | the stores are still open
genug Geld übrig ist | there is enough money left
der Chef nichts dagegen hat | the boss doesn't mind
die Gäste früher kommen | the guests come earlier
es in {city} schneit | it snows in {city}
wir am {weekday} frei haben | we have {weekday} off
""")
_HINDRANCES = """
müde sein | be tired
krank sein | be sick
keine Zeit haben | have no time
kein Geld haben | have no money
viel Arbeit haben | have a lot of work
Kopfschmerzen haben | have a headache
in Eile sein | be in a hurry
Fieber haben | have a fever
Rückenschmerzen haben | have a backache
sehr beschäftigt sein | be very busy
erkältet sein | have a cold
zu spät dran sein | be running late
schlechte Laune haben | be in a bad mood
Angst haben | be afraid
"""
_MOTIVES = {
  "kitchen": "Hunger haben | be hungry\nGäste erwarten | expect guests\n"
  "gern gut essen | enjoy good food\nGeburtstag haben | have a birthday",
  "home": "Ordnung mögen | like order\nbald um=ziehen | be moving soon\n"
  "Besuch erwarten | expect visitors",
  "shop": "bald heiraten | be getting married soon\n"
  "auf eine Hochzeit gehen | be going to a wedding\n"
  "gerade viel Geld verdienen | be earning a lot of money right now\n"
  "etwas Neues brauchen | need something new",
  "travel": "endlich Urlaub haben | finally have vacation\n"
  "die Welt kennenlernen wollen | want to see the world\n"
  "dort Freunde haben | have friends there",
  "office": "eine Antwort brauchen | need an answer\n"
  "mehr Geld verdienen wollen | want to earn more money\n"
  "für das Projekt verantwortlich sein | be responsible for the project\n"
  "den Chef beeindrucken wollen | want to impress the boss",
  "school": "morgen eine Prüfung haben | have an exam tomorrow\n"
  "bessere Noten brauchen | need better grades\n"
  "Arzt werden wollen | want to become a doctor",
  "sport": "fit bleiben wollen | want to stay fit\n"
  "Sport lieben | love sports\nviel Energie haben | have a lot of energy",
  "leisure": "heute frei haben | have the day off today\n"
  "sich langweilen | be bored\ngute Laune haben | be in a good mood",
  "health": "krank sein | be sick\nRückenschmerzen haben | have a backache\n"
  "gesund bleiben wollen | want to stay healthy",
}


def _fill(rng: random.Random, chosen: Adverbial) -> Adverbial:
  german, english = chosen.german, chosen.english
  if "{" not in german:
    return chosen
  for slot in _SLOT.findall(german):
    pair = FILLERS[slot[1:-1]](rng)
    german = german.replace(slot, pair[0])
    english = english.replace(slot, pair[1])
  return Adverbial(german, english)


def past(rng: random.Random) -> Adverbial:
  """Draws `gestern`, `vor drei Tagen`, ..."""
  return _fill(rng, rng.choice(_PAST))


def future(rng: random.Random) -> Adverbial:
  """Draws `morgen`, `in zwei Stunden`, ..."""
  return _fill(rng, rng.choice(_FUTURE))


def habit(rng: random.Random) -> Adverbial:
  """Draws `jeden Tag`, `am Wochenende`, ..."""
  return _fill(rng, rng.choice(_HABIT))


def frequency(rng: random.Random) -> Adverbial:
  """Draws `oft`, `nie`, ..."""
  return rng.choice(_FREQUENCY)


def now(rng: random.Random) -> Adverbial:
  """Draws `gerade` (nothing in English), `im Moment`, `jetzt`."""
  return rng.choice(_NOW)


def comment(rng: random.Random) -> Adverbial:
  """Draws `leider`, `wahrscheinlich`, ..."""
  return rng.choice(_DEGREE)


def place(rng: random.Random, topic: str) -> Adverbial:
  """Draws a place where the activities of a topic happen."""
  return _fill(rng, rng.choice(_PLACES_BY_TOPIC[topic]))


def circumstance(rng: random.Random, is_past: bool) -> Adverbial:
  """Draws a final clause such as `es stark regnet`."""
  parts = rng.choice(_WEATHER.strip().splitlines()).split(" | ")
  return Adverbial(*(parts[2:] if is_past else parts[:2]))


def condition(rng: random.Random) -> Adverbial:
  """Draws a final clause for `wenn`, in the present tense."""
  return _fill(rng, rng.choice(_CONDITIONS))


def hindrance(rng: random.Random) -> activities.Activity:
  """Draws a state that keeps somebody from doing something."""
  line = rng.choice(_HINDRANCES.strip().splitlines())
  return activities.parse_line("~" + line, "state")


def motive(rng: random.Random, topic: str) -> activities.Activity:
  """Draws a state that makes somebody do something of a topic."""
  return activities.parse_line(
    "~" + rng.choice(_MOTIVES[topic].split("\n")), ""
  )
