"""Numbers, dates, times, prices, measures and names of places and languages.

The words come from Babel (CLDR) and num2words, so that both languages follow
their own conventions: `1.234,50 €` is `€1,234.50`, `14. März 2021` is
`March 14, 2021`, `einundzwanzig` is `twenty-one`.
"""

import datetime
import functools
import random
from collections.abc import Callable

from babel import Locale, dates, numbers, units
from num2words import num2words

Pair = tuple[str, str]

_COUNTRIES = (
  "DE FR IT ES PT AT BE DK SE NO FI IS IE PL HU RO BG GR HR SI EE LV LT LU MT "
  "CY AL RU BY GE AM EG MA TN DZ KE ET GH NG ZA TZ MZ NA ZW UG MG IN CN JP KR "
  "VN TH KH ID MY SG NP PK BD LK SA IL JO KW QA CA MX CU JM BR AR CL PE BO CO "
  "EC UY PY CR PA AU NZ TW KZ AO SN CM RW BW MW ZM MM LA HT NI HN GT"
)
_LANGUAGES = (
  "de en fr it es pt nl sv da fi pl cs hu ru uk tr el ar he zh ja ko vi th hi "
  "fa ro bg hr sk sl sr sw id is ga et lv lt ka hy ca eu la"
)
_CITIES = """
Berlin; Hamburg; München Munich; Köln Cologne; Frankfurt; Stuttgart; Leipzig
Dresden; Hannover Hanover; Nürnberg Nuremberg; Bremen; Bonn; Düsseldorf
Heidelberg; Wien Vienna; Salzburg; Zürich Zurich; Genf Geneva; Basel; Bern
Rom Rome; Mailand Milan; Venedig Venice; Florenz Florence; Neapel Naples
Paris; London; Madrid; Barcelona; Lissabon Lisbon; Brüssel Brussels; Amsterdam
Kopenhagen Copenhagen; Stockholm; Oslo; Helsinki; Warschau Warsaw; Prag Prague
Krakau Krakow; Budapest; Athen Athens; Istanbul; Moskau Moscow; Kairo Cairo
Tokio Tokyo; Peking Beijing; Singapur Singapore; Boston; Chicago; Edinburgh
Dublin; Sydney; Toronto; Straßburg Strasbourg; Lyon; Sevilla Seville; Turin
Nizza Nice; Bukarest Bucharest; Belgrad Belgrade; Kiew Kyiv; Antwerpen Antwerp
"""
_CURRENCIES = ("EUR", "EUR", "EUR", "USD", "GBP")
_HOURS_ON_DIAL = 12


def _clean(text: str) -> str:
  # CLDR separates with no-break spaces; the corpus is plain text.
  return text.replace("\u00a0", " ").replace("\u202f", " ")


@functools.cache
def spell(number: int, kind: str = "cardinal") -> Pair:
  """Returns a number in words: `einundzwanzig`, `twenty-one`.

  Args:
    number: what to spell.
    kind: `cardinal`, `ordinal` or `year`, as in num2words.
  """
  german = num2words(number, lang="de", to=kind)
  english = num2words(number, lang="en", to=kind)
  return german, english.replace(" and ", " ").replace(",", "")


def format_date(day: datetime.date) -> Pair:
  """Returns `14. März 2021`, `March 14, 2021`."""
  return (
    dates.format_date(day, "long", "de"),
    dates.format_date(day, "long", "en"),
  )


def format_price(amount: float, currency: str) -> Pair:
  """Returns `1.234,50 €`, `€1,234.50`."""
  return (
    _clean(numbers.format_currency(amount, currency, locale="de")),
    _clean(numbers.format_currency(amount, currency, locale="en")),
  )


def format_number(value: float) -> Pair:
  """Returns `1.234,5`, `1,234.5`."""
  return (
    numbers.format_decimal(value, locale="de"),
    numbers.format_decimal(value, locale="en"),
  )


def format_measure(value: float, unit: str) -> Pair:
  """Returns `3,5 Kilogramm`, `3.5 kilograms`; unit as in CLDR."""
  return (
    _clean(units.format_unit(value, unit, locale="de")),
    _clean(units.format_unit(value, unit, locale="en")),
  )


def clock(hour: int, minute: int) -> Pair:
  """Returns a spoken time: `halb drei`, `half past two`.

  Args:
    hour: 1 to 12.
    minute: 0 to 55 in steps of five; other minutes raise ValueError.
  """
  following = hour % _HOURS_ON_DIAL + 1
  (now, now_en), (after, after_en) = spell(hour), spell(following)
  if minute == 0:
    return ("ein" if hour == 1 else now) + " Uhr", now_en + " o'clock"
  now = "eins" if hour == 1 else now
  if minute == 30:
    return f"halb {after}", f"half past {now_en}"
  if minute == 15:
    return f"Viertel nach {now}", f"a quarter past {now_en}"
  if minute == 45:
    return f"Viertel vor {after}", f"a quarter to {after_en}"
  if minute in (25, 35):
    near = "fünf vor halb" if minute == 25 else "fünf nach halb"
    english = f"twenty-five {'past' if minute == 25 else 'to'} "
    return f"{near} {after}", english + (now_en if minute == 25 else after_en)
  if minute not in range(5, 60, 5):
    raise ValueError(f"minute = {minute}: must be a multiple of 5 below 60")
  past = minute < 30
  step, step_en = spell(minute if past else 60 - minute)
  german = f"{step} nach {now}" if past else f"{step} vor {after}"
  english = f"{step_en} past {now_en}" if past else f"{step_en} to {after_en}"
  return german, english


def format_clock(hour: int, minute: int) -> Pair:
  """Returns a written time: `15:30 Uhr`, `3:30 PM`."""
  time = datetime.time(hour, minute)
  return (
    dates.format_time(time, "short", locale="de") + " Uhr",
    dates.format_time(time, "h:mm a", locale="en"),
  )


@functools.cache
def countries() -> list[Pair]:
  """Returns the names of countries that take no article in either language."""
  german, english = Locale("de").territories, Locale("en").territories
  return [(german[code], english[code]) for code in _COUNTRIES.split()]


@functools.cache
def languages() -> list[Pair]:
  """Returns the names of languages."""
  german, english = Locale("de").languages, Locale("en").languages
  return [(german[code], english[code]) for code in _LANGUAGES.split()]


@functools.cache
def cities() -> list[Pair]:
  """Returns the names of cities; many differ: `München`, `Munich`."""
  entries = _CITIES.replace("\n", ";").split(";")
  found = [entry.split() for entry in entries if entry.strip()]
  return [(entry[0], entry[-1]) for entry in found]


@functools.cache
def _names(kind: str) -> list[Pair]:
  get = dates.get_day_names if kind == "weekday" else dates.get_month_names
  german, english = get("wide", locale="de"), get("wide", locale="en")
  return [(german[i], english[i]) for i in sorted(german)]


def _day(rng: random.Random) -> datetime.date:
  first = datetime.date(1950, 1, 1).toordinal()
  return datetime.date.fromordinal(first + rng.randrange(29_000))


def _coming_day(rng: random.Random) -> datetime.date:
  first = datetime.date(2026, 1, 1).toordinal()
  return datetime.date.fromordinal(first + rng.randrange(1_400))


def _full_date(rng: random.Random) -> Pair:
  # am Freitag, dem 14. März 2025: on Friday, March 14, 2025
  day = _coming_day(rng)
  german = dates.format_date(day, "EEEE, 'dem' d. MMMM y", "de")
  return german, dates.format_date(day, "EEEE, MMMM d, y", "en")


def _spoken_day(rng: random.Random) -> Pair:
  # am ersten Mai: the ordinal takes -en after `am`.
  number, number_en = spell(rng.randint(1, 28), "ordinal")
  month, month_en = rng.choice(_names("month"))
  return f"{number}n {month}", f"the {number_en} of {month_en}"


def _time(rng: random.Random) -> Pair:
  if rng.random() < 0.5:
    return clock(rng.randint(1, 12), rng.choice(range(0, 60, 5)))
  return format_clock(rng.randint(6, 23), rng.choice(range(0, 60, 5)))


def _price(rng: random.Random, low: float, high: float) -> Pair:
  amount = round(rng.uniform(low, high), 2)
  return format_price(amount, rng.choice(_CURRENCIES))


def _spoken_price(rng: random.Random) -> Pair:
  number, number_en = spell(rng.choice((*range(2, 100), *range(100, 1000, 50))))
  unit, unit_en = rng.choice((("Euro", "euros"), ("Dollar", "dollars")))
  return f"{number} {unit}", f"{number_en} {unit_en}"


def _measure(
  unit: str, low: int, high: int, digits: int = 0
) -> Callable[[random.Random], Pair]:
  def draw(rng: random.Random) -> Pair:
    value = round(rng.uniform(low, high), digits)
    return format_measure(value if digits else int(value), unit)

  return draw


def _spelled(
  low: int, high: int, kind: str = "cardinal"
) -> Callable[[random.Random], Pair]:
  return lambda rng: spell(rng.randint(low, high), kind)


def _figure(low: int, high: int, step: int) -> Callable[[random.Random], Pair]:
  return lambda rng: format_number(rng.randrange(low, high, step))


def _percent(rng: random.Random) -> Pair:
  if rng.random() < 0.5:
    german, english = format_number(rng.randint(2, 95))
  else:
    german, english = format_number(round(rng.uniform(0.2, 30), 1))
  return f"{german} Prozent", f"{english} percent"


def _small_percent(rng: random.Random) -> Pair:
  german, english = format_number(round(rng.uniform(0.2, 9), 1))
  return f"{german} Prozent", f"{english} percent"


def _year(rng: random.Random) -> Pair:
  year = str(rng.randint(1780, 2024))
  return year, year


def _plain(low: int, high: int) -> Callable[[random.Random], Pair]:
  return lambda rng: (str(value := rng.randint(low, high)), str(value))


# What a template can ask for by name.
FILLERS: dict[str, Callable[[random.Random], Pair]] = {
  "city": lambda rng: rng.choice(cities()),
  "country": lambda rng: rng.choice(countries()),
  "language": lambda rng: rng.choice(languages()),
  "weekday": lambda rng: rng.choice(_names("weekday")),
  "month": lambda rng: rng.choice(_names("month")),
  "date": lambda rng: format_date(_day(rng)),
  "coming_date": lambda rng: format_date(_coming_day(rng)),
  "full_date": _full_date,
  "spoken_day": _spoken_day,
  "time": _time,
  "price": lambda rng: _price(rng, 2, 90),
  "small_price": lambda rng: format_price(round(rng.uniform(1, 9), 2), "EUR"),
  "large_price": lambda rng: _price(rng, 200, 9000),
  "spoken_price": _spoken_price,
  "percent": _percent,
  "small_percent": _small_percent,
  "year": _year,
  "spelled_year": _spelled(1801, 1999, "year"),
  "spelled": _spelled(3, 99),
  "few": _spelled(2, 12),
  "hundreds": _spelled(101, 999),
  "recent_year": _plain(1985, 2023),
  "track": _plain(2, 24),
  "room_number": _plain(101, 620),
  "house_number": _plain(2, 199),
  "age": _plain(18, 95),
  "population": _figure(12_000, 3_900_000, 1000),
  "thousands": _figure(1100, 98_000, 50),
  "run": _measure("length-kilometer", 3, 25),
  "kilometers": _measure("length-kilometer", 3, 900),
  "meters": _measure("length-meter", 20, 900),
  "kilograms": _measure("mass-kilogram", 46, 98, 1),
  "grams": lambda rng: format_measure(rng.randrange(50, 900, 50), "mass-gram"),
  "liters": _measure("volume-liter", 2, 60, 1),
  "centimeters": _measure("length-centimeter", 148, 199),
  "minutes": _measure("duration-minute", 3, 55),
  "hours": _measure("duration-hour", 2, 23),
  "degrees": _measure("temperature-celsius", -12, 36),
  "speed": lambda rng: format_measure(
    rng.randrange(30, 140, 10), "speed-kilometer-per-hour"
  ),
  "area": _measure("area-square-meter", 38, 190),
}
