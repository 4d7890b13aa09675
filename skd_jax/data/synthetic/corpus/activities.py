"""What people do: verb phrases by topic, in German and English.

A line is `German infinitive phrase | English base phrase`. Slots are shared by
both sides: {a:food} is a noun phrase of class food in the accusative (d for the
dative), {a:the drink} one with a definite article; see slots.py.
sich (accusative) and sich3 (dative) agree with the subject, as does {my}
in English. `=` marks a separable prefix. A leading ~ marks a state (no
progressive form), a leading > an activity that takes no further place.
"""

import dataclasses
import functools

from skd_jax.data.synthetic.corpus import german

_ACTIVITIES = """
# kitchen
{a:meal} essen | eat {a:meal}
{a:food} kaufen | buy {a:food}
{a:drink} trinken | drink {a:drink}
{a:the grocery} in den Keller bringen | take {a:the grocery} to the basement
{a:dish} waschen | wash {a:dish}
das Frühstück machen | make breakfast
das Abendessen kochen | cook dinner
den Tisch decken | set the table
die Küche auf=räumen | tidy up the kitchen
{a:snack} bestellen | order {a:snack}
{a:fruit} schneiden | cut {a:fruit}
{d:person} {a:drink} bringen | bring {d:person} {a:drink}
das Geschirr ab=trocknen | dry the dishes
{a:snack} probieren | try {a:snack}
die Suppe um=rühren | stir the soup
{a:dish} auf den Tisch stellen | put {a:dish} on the table
# home
{a:the furniture} verschieben | move {a:the furniture}
die Küche putzen | clean the kitchen
die Fenster putzen | clean the windows
{a:appliance} installieren | install {a:appliance}
{a:the+ clothes} bügeln | iron {a:the+ clothes}
mit {d:my family} kochen | cook with {d:my family}
die Katze zum Tierarzt bringen | take the cat to the vet
{a:opening} öffnen | open {a:opening}
{a:furniture} verkaufen | sell {a:furniture}
{a:appliance} reparieren | repair {a:appliance}
{a:appliance} ein=schalten | switch on {a:appliance}
{a:appliance} aus=schalten | switch off {a:appliance}
das Fenster zu=machen | close the window
>{a:the+ room} streichen | paint {a:the+ room}
die Wäsche auf=hängen | hang up the laundry
den Müll raus=bringen | take out the trash
die Blumen gießen | water the flowers
{a:belonging} suchen | look for {a:belonging}
das Bett machen | make the bed
Musik hören | listen to music
{a:media} sehen | watch {a:media}
>zu Hause bleiben | stay at home
sich aus=ruhen | rest
sich3 die Zähne putzen | brush {my} teeth
sich3 die Hände waschen | wash {my} hands
{a:plant} pflanzen | plant {a:plant}
{a:the animal} füttern | feed {a:the animal}
den Rasen mähen | mow the lawn
{a:vehicle} waschen | wash {a:vehicle}
# shop
{a:goods} kaufen | buy {a:goods}
{a:clothes} an=probieren | try on {a:clothes}
{a:goods} bezahlen | pay for {a:goods}
{a:clothes} zurück=geben | return {a:clothes}
sich3 {a:goods} an=sehen | look at {a:goods}
{a:goods} aus=suchen | pick out {a:goods}
die Preise vergleichen | compare the prices
Geld aus=geben | spend money
mit Kreditkarte bezahlen | pay by credit card
nach dem Preis fragen | ask about the price
{a:device} um=tauschen | exchange {a:device}
>in die Stadt fahren | drive into town
>auf den Markt gehen | go to the market
# travel
>nach {city} fahren | go to {city}
>nach {country} fliegen | fly to {country}
auf {a:the transport} warten | wait for {a:the transport}
eine Fahrkarte kaufen | buy a ticket
{a:a+ venue} suchen | look for {a:a+ venue}
{a:the+ sight} besuchen | visit {a:the+ sight}
{a:the+ building} besichtigen | tour {a:the+ building}
{a:the sight} fotografieren | photograph {a:the sight}
ein Zimmer reservieren | reserve a room
die Koffer packen | pack the suitcases
>nach dem Weg fragen | ask for directions
{a:vehicle} mieten | rent {a:vehicle}
{d:person} eine Postkarte schreiben | write {d:person} a postcard
>in {city} um=steigen | change trains in {city}
>in {city} an=kommen | arrive in {city}
>am Bahnhof aus=steigen | get off at the train station
in der Sonne liegen | lie in the sun
>ans Meer fahren | go to the seaside
{a:person} vom Bahnhof ab=holen | pick {a:person} up from the train station
{a:document} übersetzen | translate {a:document}
den Urlaub genießen | enjoy the vacation
>durch {a:the+ town} laufen | walk through {a:the+ town}
# office
{a:document} kopieren | copy {a:document}
{d:person} {a:the+ document} zeigen | show {d:person} {a:the+ document}
über {a:problem} nach=denken | think about {a:problem}
{d:person} von {d:the problem} berichten | tell {d:person} about {d:the problem}
auf {a:the document} antworten | reply to {a:the document}
{a:document} schreiben | write {a:document}
{a:document} lesen | read {a:document}
{d:person} {a:document} schicken | send {d:person} {a:document}
{a:document} unterschreiben | sign {a:document}
{a:document} aus=drucken | print out {a:document}
mit {d:person} telefonieren | talk to {d:person} on the phone
eine E-Mail beantworten | answer an e-mail
~an {d:a event} teil=nehmen | take part in {d:a event}
{a:the event} verschieben | postpone {a:the event}
{a:problem} besprechen | discuss {a:problem}
{d:person} {a:problem} erklären | explain {a:problem} to {d:person}
eine Pause machen | take a break
Überstunden machen | work overtime
{a:document} vor=bereiten | prepare {a:document}
eine Lösung finden | find a solution
{a:person} an=rufen | call {a:person}
{a:person} um Hilfe bitten | ask {a:person} for help
{d:person} helfen | help {d:person}
am Computer arbeiten | work on the computer
{a:the event} planen | plan {a:the event}
den Vertrag kündigen | cancel the contract
sich um eine Stelle bewerben | apply for a job
{d:person} eine Frage stellen | ask {d:person} a question
{a:document} überprüfen | check {a:document}
sich mit {d:person} treffen | meet with {d:person}
# school
{a:homework} schreiben | write {a:homework}
{subject} lernen | study {subject}
{language} lernen | learn {language}
{a:reading} lesen | read {a:reading}
die Hausaufgaben machen | do the homework
die Vokabeln wiederholen | review the vocabulary
sich auf {a:the event} vor=bereiten | prepare for {a:the event}
{d:person} {a:reading} vor=lesen | read {a:reading} to {d:person}
ein Bild malen | paint a picture
{a:the homework} verbessern | correct {a:the homework}
{a:reading} aus=leihen | borrow {a:reading}
dem Lehrer zu=hören | listen to the teacher
# sport
{sport} spielen | play {sport}
mit {d:person} {sport} spielen | play {sport} with {d:person}
Rad fahren | ride a bike
>ins Schwimmbad gehen | go to the swimming pool
>im See schwimmen | swim in the lake
>im Wald joggen | jog in the forest
für den Marathon trainieren | train for the marathon
>auf den Berg steigen | climb the mountain
Yoga machen | do yoga
>in den Bergen wandern | hike in the mountains
Gewichte heben | lift weights
# leisure
{d:person} {a:media} empfehlen | recommend {a:media} to {d:person}
{instrument} spielen | play {instrument}
mit {d:the animal} spielen | play with {d:the animal}
mit {d:person} tanzen | dance with {d:person}
ein Lied singen | sing a song
{a:person} besuchen | visit {a:person}
{a:person} ein=laden | invite {a:person}
{d:person} {a:portable} leihen | lend {d:person} {a:portable}
{a:person} fotografieren | photograph {a:person}
Karten spielen | play cards
>ins Kino gehen | go to the movies
>ins Theater gehen | go to the theater
Freunde treffen | meet friends
fern=sehen | watch television
sich mit {d:person} unterhalten | chat with {d:person}
{d:person} {a:gift} zeigen | show {d:person} {a:gift}
{d:person} von {d:the event} erzählen | tell {d:person} about {d:the event}
{d:person} {a:gift} schenken | give {d:person} {a:gift}
einen Kuchen backen | bake a cake
~sich auf {a:the event} freuen | look forward to {a:the event}
>im Park spazieren gehen | go for a walk in the park
ein Foto machen | take a photo
mit {d:person} Geburtstag feiern | celebrate a birthday with {d:person}
{a:plant} zeichnen | draw {a:plant}
# health
>zum Arzt gehen | go to the doctor
>zum Zahnarzt gehen | go to the dentist
die Tabletten nehmen | take the pills
{a:drink} trinken | drink {a:drink}
{a:fruit} essen | eat {a:fruit}
einen Termin vereinbaren | make an appointment
sich gesund ernähren | eat healthily
>ins Krankenhaus fahren | drive to the hospital
>{a:person} im Krankenhaus besuchen | visit {a:person} in the hospital
# accident
das Spiel gewinnen | win the game
das Spiel verlieren | lose the game
{a:my+ portable} verlieren | lose {a:my+ portable}
{a:the+ portable} finden | find {a:the+ portable}
{a:the transport} verpassen | miss {a:the transport}
sich3 {a:own body} verletzen | hurt {a:own body}
die Prüfung in {subject} bestehen | pass the exam in {subject}
{a:the+ dish} kaputt machen | break {a:the+ dish}
>zu spät zu {d:the event} kommen | be late for {d:the event}
>vom Fahrrad fallen | fall off the bike
{a:my belonging} vergessen | forget {a:my belonging}
ein lautes Geräusch hören | hear a loud noise
{a:a+ wild_animal} sehen | see {a:a+ wild_animal}
{a:person} treffen | meet {a:person}
einen Brief aus {country} bekommen | get a letter from {country}
{large_price} gewinnen | win {large_price}
# state
~müde sein | be tired
~krank sein | be sick
~keine Zeit haben | have no time
~viel Arbeit haben | have a lot of work
~Hunger haben | be hungry
~Durst haben | be thirsty
~{a:problem} verstehen | understand {a:problem}
~{a:goods} brauchen | need {a:goods}
~{a:my belonging} vergessen | forget {a:my belonging}
~{a:person} kennen | know {a:person}
~in {city} wohnen | live in {city}
~{language} sprechen | speak {language}
~als {job} arbeiten | work as {job}
~Kopfschmerzen haben | have a headache
~glücklich sein | be happy
~{d:person} vertrauen | trust {d:person}
~Angst vor {d:the+ animal} haben | be afraid of {d:the+ animal}
~in Eile sein | be in a hurry
~nervös sein | be nervous
~Fieber haben | have a fever
"""


@dataclasses.dataclass(frozen=True)
class Activity:
  """A verb phrase: German complements and verb, and the English phrase."""

  topic: str
  complements: str
  verb: german.Verb
  english: str
  is_state: bool
  takes_place: bool


def parse_line(line: str, topic: str) -> Activity:
  """Reads one line of the format above."""
  text, english = (part.strip() for part in line.split("|"))
  is_state, is_placed = text.startswith("~"), text.startswith(">")
  complements, _, verb = text.lstrip("~> ").rpartition(" ")
  takes_place = not (is_state or is_placed)
  return Activity(
    topic, complements, german.Verb.parse(verb), english, is_state, takes_place
  )


@functools.cache
def by_topic() -> dict[str, list[Activity]]:
  """Returns the activities of every topic."""
  found: dict[str, list[Activity]] = {}
  topic = ""
  for line in filter(None, _ACTIVITIES.splitlines()):
    if line.startswith("# "):
      topic = line[2:]
      found[topic] = []
    else:
      found[topic].append(parse_line(line, topic))
  return found
