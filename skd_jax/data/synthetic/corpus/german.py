"""German inflection: nouns, determiners, adjectives and verbs.

Letters: case is one of n(ominative), a(ccusative), d(ative), g(enitive);
gender is one of m, f, n, or p for any plural.
"""

import dataclasses

_DEFINITE = {
  "m": {"n": "der", "a": "den", "d": "dem", "g": "des"},
  "f": {"n": "die", "a": "die", "d": "der", "g": "der"},
  "n": {"n": "das", "a": "das", "d": "dem", "g": "des"},
  "p": {"n": "die", "a": "die", "d": "den", "g": "der"},
}
# The endings of ein, kein, mein, dein, ... and of adjectives with no article.
_EIN_ENDING = {
  "m": {"n": "", "a": "en", "d": "em", "g": "es"},
  "f": {"n": "e", "a": "e", "d": "er", "g": "er"},
  "n": {"n": "", "a": "", "d": "em", "g": "es"},
  "p": {"n": "e", "a": "e", "d": "en", "g": "er"},
}
_STRONG_ENDING = {
  "m": {"n": "er", "a": "en", "d": "em", "g": "en"},
  "f": {"n": "e", "a": "e", "d": "er", "g": "er"},
  "n": {"n": "es", "a": "es", "d": "em", "g": "en"},
  "p": {"n": "e", "a": "e", "d": "en", "g": "er"},
}
_PRONOUN = {
  "m": {"n": "er", "a": "ihn", "d": "ihm"},
  "f": {"n": "sie", "a": "sie", "d": "ihr"},
  "n": {"n": "es", "a": "es", "d": "ihm"},
  "p": {"n": "sie", "a": "sie", "d": "ihnen"},
}
_GENITIVE = {
  "Bus": "Busses",
  "Freund": "Freundes",
  "Mann": "Mannes",
  "Sohn": "Sohnes",
  "Hund": "Hundes",
}
_CONTRACTION = {
  "in dem": "im",
  "in das": "ins",
  "an dem": "am",
  "an das": "ans",
  "zu dem": "zum",
  "zu der": "zur",
  "von dem": "vom",
  "bei dem": "beim",
}


@dataclasses.dataclass(frozen=True)
class Noun:
  """A noun with its English translation; `plural` is empty for mass nouns."""

  singular: str
  plural: str
  gender: str  # m, f, n; p for a noun without a singular
  english: str
  weak: bool = False  # der Student, den Studenten

  def decline(self, case: str, plural: bool = False) -> str:
    """Returns the noun in a case: `Haus.decline("d", True)` is `Häusern`."""
    if plural or self.gender == "p":
      word = self.plural or self.singular
      return word + "n" if case == "d" and word[-1] not in "ns" else word
    if self.weak and case != "n":
      return self.plural
    if case == "g" and self.gender in "mn":
      if self.singular in _GENITIVE:
        return _GENITIVE[self.singular]
      return self.singular + ("es" if self.singular[-1] in "sßxz" else "s")
    return self.singular


def definite(gender: str, case: str) -> str:
  """Returns der, die, das, ... in a case."""
  return _DEFINITE[gender][case]


def ein_word(stem: str, gender: str, case: str) -> str:
  """Returns ein, kein, mein, unser, ... (the stem) with its ending."""
  ending = _EIN_ENDING[gender][case]
  if stem == "euer" and ending:
    return "eur" + ending
  return stem + ending


def der_word(stem: str, gender: str, case: str) -> str:
  """Returns dies-, welch-, jed- with its ending: `diesem`, `welche`."""
  ending = "es" if case == "g" and gender in "mn" else None
  return stem + (ending or _STRONG_ENDING[gender][case])


def pronoun(gender: str, case: str) -> str:
  """Returns er, sie, es, ihn, ihm, ... for a thing or a person."""
  return _PRONOUN[gender][case]


def relative_pronoun(gender: str, case: str) -> str:
  """Returns der, den, dem, denen, ... that open a relative clause."""
  return "denen" if (gender, case) == ("p", "d") else _DEFINITE[gender][case]


def adjective(word: str, declension: str, gender: str, case: str) -> str:
  """Returns the adjective with its ending.

  Args:
    word: the base form, such as `groß`, `teuer`, `hoch`.
    declension: `weak` after der, dieser, ...; `mixed` after ein, kein, mein;
      `strong` with no article.
    gender: m, f, n or p.
    case: n, a, d or g.
  """
  stem = {"hoch": "hoh"}.get(word, word)
  if stem.endswith(("teuer", "sauer")):
    stem = stem[:-2] + "r"
  elif stem.endswith(("dunkel", "flexibel", "komfortabel")):
    stem = stem[:-2] + "l"
  elif stem.endswith("e"):
    stem = stem[:-1]
  if declension == "strong":
    return stem + _STRONG_ENDING[gender][case]
  # der groß-e Mann, die groß-e Frau, das groß-e Haus: -e where the article
  # shows no case; otherwise -en. After ein, the missing ending moves over:
  # ein groß-er Mann, ein groß-es Haus.
  if declension == "mixed" and gender in "mn" and case == "n":
    return stem + ("er" if gender == "m" else "es")
  if declension == "mixed" and gender == "n" and case == "a":
    return stem + "es"
  bare = (gender in "mfn" and case == "n") or (gender in "fn" and case == "a")
  return stem + ("e" if bare else "en")


def contract(text: str) -> str:
  """Joins prepositions and articles: `in dem Park` becomes `im Park`."""
  words = text.split(" ")
  out: list[str] = []
  for word in words:
    joined = _CONTRACTION.get(f"{out[-1]} {word}") if out else None
    if joined:
      out[-1] = joined
    else:
      out.append(word)
  return " ".join(out)


# infinitive, third person singular, preterite, participle, auxiliary if sein
_STRONG_VERBS = """
beginnen beginnt begann begonnen; beißen beißt biss gebissen
bekommen bekommt bekam bekommen; bestehen besteht bestand bestanden
bieten bietet bot geboten; binden bindet band gebunden
bitten bittet bat gebeten; bleiben bleibt blieb geblieben sein
braten brät briet gebraten; brechen bricht brach gebrochen
brennen brennt brannte gebrannt; bringen bringt brachte gebracht
denken denkt dachte gedacht; empfehlen empfiehlt empfahl empfohlen
entscheiden entscheidet entschied entschieden; essen isst aß gegessen
erfinden erfindet erfand erfunden; erhalten erhält erhielt erhalten
fahren fährt fuhr gefahren sein; fallen fällt fiel gefallen sein
fangen fängt fing gefangen; finden findet fand gefunden
fliegen fliegt flog geflogen sein; fressen frisst fraß gefressen
gefallen gefällt gefiel gefallen; geben gibt gab gegeben
gehen geht ging gegangen sein; genießen genießt genoss genossen
gewinnen gewinnt gewann gewonnen; gießen gießt goss gegossen
halten hält hielt gehalten
heben hebt hob gehoben; helfen hilft half geholfen
kennen kennt kannte gekannt; kommen kommt kam gekommen sein
laden lädt lud geladen; lassen lässt ließ gelassen
laufen läuft lief gelaufen sein; leihen leiht lieh geliehen
lesen liest las gelesen; liegen liegt lag gelegen
lügen lügt log gelogen; messen misst maß gemessen
nehmen nimmt nahm genommen; nennen nennt nannte genannt
reiten reitet ritt geritten sein; rufen ruft rief gerufen
scheinen scheint schien geschienen; schieben schiebt schob geschoben
schießen schießt schoss geschossen; schlafen schläft schlief geschlafen
schlagen schlägt schlug geschlagen; schließen schließt schloss geschlossen
schneiden schneidet schnitt geschnitten; schreiben schreibt schrieb geschrieben
schwimmen schwimmt schwamm geschwommen sein; sehen sieht sah gesehen
singen singt sang gesungen; sitzen sitzt saß gesessen
sprechen spricht sprach gesprochen; springen springt sprang gesprungen sein
stehen steht stand gestanden; streichen streicht strich gestrichen
backen backt backte gebacken; bewerben bewirbt bewarb beworben
stehlen stiehlt stahl gestohlen
steigen steigt stieg gestiegen sein; sterben stirbt starb gestorben sein
tragen trägt trug getragen; treffen trifft traf getroffen
treiben treibt trieb getrieben; treten tritt trat getreten sein
trinken trinkt trank getrunken; tun tut tat getan
überweisen überweist überwies überwiesen; vergessen vergisst vergaß vergessen
vergleichen vergleicht verglich verglichen; verlassen verlässt verließ verlassen
verlieren verliert verlor verloren; vermeiden vermeidet vermied vermieden
verschieben verschiebt verschob verschoben; verbringen verbringt verbrachte \
verbracht
verbieten verbietet verbot verboten; versprechen verspricht versprach \
versprochen
verstehen versteht verstand verstanden; wachsen wächst wuchs gewachsen sein
waschen wäscht wusch gewaschen; werfen wirft warf geworfen
wissen weiß wusste gewusst; ziehen zieht zog gezogen
beschreiben beschreibt beschrieb beschrieben; betreten betritt betrat betreten
unterschreiben unterschreibt unterschrieb unterschrieben
besprechen bespricht besprach besprochen; unterhalten unterhält unterhielt \
unterhalten
sein ist war gewesen sein; haben hat hatte gehabt
werden wird wurde geworden sein; können kann konnte gekonnt
müssen muss musste gemusst; wollen will wollte gewollt
dürfen darf durfte gedurft; sollen soll sollte gesollt
mögen mag mochte gemocht; schreien schreit schrie geschrien
"""
_SEIN = {
  "reisen",
  "wandern",
  "joggen",
  "landen",
  "folgen",
  "stürzen",
  "klettern",
}
# Separable verbs whose auxiliary differs from that of their stem.
_AUX = {
  "aufstehen": "sein",
  "aufwachen": "sein",
  "einziehen": "sein",
  "umziehen": "sein",
  "ausziehen": "sein",
  "umsteigen": "sein",
}
_INSEPARABLE = ("be", "ver", "er", "ent", "zer", "über", "unter", "wieder")
_PRESENT = {
  "sein": ("bin", "bist", "ist", "sind", "seid", "sind"),
  "haben": ("habe", "hast", "hat", "haben", "habt", "haben"),
  "werden": ("werde", "wirst", "wird", "werden", "werdet", "werden"),
  "wissen": ("weiß", "weißt", "weiß", "wissen", "wisst", "wissen"),
  "tun": ("tue", "tust", "tut", "tun", "tut", "tun"),
  "können": ("kann", "kannst", "kann", "können", "könnt", "können"),
  "müssen": ("muss", "musst", "muss", "müssen", "müsst", "müssen"),
  "wollen": ("will", "willst", "will", "wollen", "wollt", "wollen"),
  "dürfen": ("darf", "darfst", "darf", "dürfen", "dürft", "dürfen"),
  "sollen": ("soll", "sollst", "soll", "sollen", "sollt", "sollen"),
  "mögen": ("mag", "magst", "mag", "mögen", "mögt", "mögen"),
}
# First person singular of the subjunctive, and of "would like".
_SUBJUNCTIVE = {
  "sein": "wäre",
  "haben": "hätte",
  "werden": "würde",
  "können": "könnte",
  "müssen": "müsste",
  "sollen": "sollte",
  "mögen": "möchte",
}


def _parse_strong() -> dict[str, list[str]]:
  entries = _STRONG_VERBS.replace("\n", ";").split(";")
  rows = [entry.split() for entry in entries if entry.strip()]
  return {str(row[0]): [str(part) for part in row[1:]] for row in rows}


_STRONG = _parse_strong()


@dataclasses.dataclass(frozen=True)
class Verb:
  """A verb; `prefix` is the separable part (`auf` of `aufstehen`)."""

  stem_infinitive: str
  prefix: str = ""

  @classmethod
  def parse(cls, word: str) -> "Verb":
    """Reads `auf=stehen` (separable) or `verstehen`."""
    prefix, _, rest = word.rpartition("=")
    return cls(rest, prefix)

  @property
  def infinitive(self) -> str:
    """Returns the dictionary form, such as `aufstehen`."""
    return self.prefix + self.stem_infinitive

  @property
  def zu_infinitive(self) -> str:
    """Returns `aufzustehen`, or `zu verstehen`."""
    joint = "zu" if self.prefix else "zu "
    return self.prefix + joint + self.stem_infinitive

  @property
  def participle(self) -> str:
    """Returns the past participle, such as `aufgestanden`."""
    word = self.stem_infinitive
    if word in _STRONG:
      return self.prefix + _STRONG[word][2]
    ge = "" if word.startswith(_INSEPARABLE) or word.endswith("ieren") else "ge"
    stem = _stem(word)
    return self.prefix + ge + stem + ("et" if _needs_e(stem) else "t")

  @property
  def auxiliary(self) -> str:
    """Returns the verb that forms the perfect: `haben` or `sein`."""
    if self.infinitive in _AUX:
      return _AUX[self.infinitive]
    if self.stem_infinitive in _SEIN:
      return "sein"
    known = _STRONG.get(self.stem_infinitive, [])
    return "sein" if "sein" in known[3:] else "haben"

  def present(self, person: int, plural: bool) -> str:
    """Returns the present form without the separable prefix."""
    word, slot = self.stem_infinitive, person - 1 + 3 * plural
    if word in _PRESENT:
      return _PRESENT[word][slot]
    stem = _stem(word)
    link = "e" if _needs_e(stem) else ""
    first = stem[:-2] + "le" if stem.endswith("el") else stem + "e"
    third = _STRONG[word][0] if word in _STRONG else stem + link + "t"
    second = _second_person(stem, third)
    return (first, second, third, word, stem + link + "t", word)[slot]

  def preterite(self, person: int, plural: bool) -> str:
    """Returns the simple past without the separable prefix."""
    word = self.stem_infinitive
    if word in _STRONG:
      return _past_endings(_STRONG[word][1], person, plural)
    stem = _stem(word)
    first = stem + ("ete" if _needs_e(stem) else "te")
    return _past_endings(first, person, plural)

  def subjunctive(self, person: int, plural: bool) -> str:
    """Returns hätte, wäre, würde, könnte, ... (auxiliaries and modals)."""
    return _past_endings(_SUBJUNCTIVE[self.stem_infinitive], person, plural)

  def imperative(self) -> str:
    """Returns the form for du, without the separable prefix: `gib`, `öffne`."""
    word = self.stem_infinitive
    if word == "sein":
      return "sei"
    stem = _stem(word)
    third = _STRONG[word][0] if word in _STRONG else ""
    # Only the change from e to i reaches the imperative: gib, but fahr.
    if third and "i" in third and "i" not in stem and "e" in stem:
      return third[:-1]
    if stem.endswith("el") and not stem.endswith("iel"):
      return stem[:-2] + "le"  # bügle, but spiel
    takes_e = stem.endswith("ig") and not stem.endswith("eig")
    return stem + "e" if takes_e or _needs_e(stem) else stem


def _stem(infinitive: str) -> str:
  return infinitive[: -2 if infinitive.endswith("en") else -1]


def _needs_e(stem: str) -> bool:
  # wart-et, öffn-et, zeichn-et, atm-et; but lern-t, komm-t, wohn-t
  if stem.endswith(("t", "d", "chn")):
    return True
  return stem[-1] in "mn" and stem[-2] not in "aeiouäöürlhmn"


def _second_person(stem: str, third: str) -> str:
  if stem.endswith("t") and not third.endswith("et"):
    return third + "st"  # hält, hältst
  base = third[:-1]
  return third if base[-1] in "sßzx" else base + "st"


def _past_endings(first: str, person: int, plural: bool) -> str:
  slot = person - 1 + 3 * plural
  if first == "wäre":
    return ("wäre", "wärst", "wäre", "wären", "wärt", "wären")[slot]
  if first.endswith("e"):
    return first + ("", "st", "", "n", "t", "n")[slot]
  link = "e" if first[-1] in "sßz" else ""  # lasest, but fandst
  plural_link = "e" if first[-1] in "td" else ""  # fandet, but last
  return first + ("", link + "st", "", "en", plural_link + "t", "en")[slot]
