"""Nouns by meaning, in German and English.

An entry is `article singular plural english`: r, e, s stand for der, die, das;
r* marks the weak declension (der Student, den Studenten); a plural of `-` marks
a mass noun; p marks a noun that has only a plural.
"""

import functools

from skd_jax.data.synthetic.corpus import german

_GENDER = {"r": "m", "e": "f", "s": "n", "p": "p"}

_THINGS = """
# fruit
e Aprikose Aprikosen apricot; e Himbeere Himbeeren raspberry
r Kürbis Kürbisse pumpkin; e Paprika Paprikas bell pepper; e Feige Feigen fig
r Apfel Äpfel apple; e Birne Birnen pear; e Orange Orangen orange
e Banane Bananen banana; e Zitrone Zitronen lemon; r Pfirsich Pfirsiche peach
e Kirsche Kirschen cherry; e Erdbeere Erdbeeren strawberry
e Tomate Tomaten tomato; e Kartoffel Kartoffeln potato; e Zwiebel Zwiebeln onion
e Gurke Gurken cucumber; e Karotte Karotten carrot; e Melone Melonen melon
e Pflaume Pflaumen plum; r Pilz Pilze mushroom; e Traube Trauben grape
# snack
e Waffel Waffeln waffle; r Hamburger Hamburger hamburger
r Eintopf Eintöpfe stew; r Auflauf Aufläufe casserole
s Brötchen Brötchen roll; e Suppe Suppen soup; r Salat Salate salad
s Ei Eier egg; e Wurst Würste sausage; r Kuchen Kuchen cake
e Torte Torten tart; e Pizza Pizzen pizza; s Eis - ice cream
r Pfannkuchen Pfannkuchen pancake; r Keks Kekse cookie; s Sandwich Sandwiches \
sandwich
r Fisch Fische fish; s Hähnchen Hähnchen chicken; e Brezel Brezeln pretzel
r Joghurt - yogurt; s Omelett Omeletts omelet; s Steak Steaks steak
# grocery
r Pfeffer - pepper; r Quark - curd cheese; e Petersilie - parsley
r Speck - bacon; e Hefe - yeast; r Zimt - cinnamon
s Brot - bread; r Käse - cheese; e Butter - butter; r Reis - rice
s Mehl - flour; r Zucker - sugar; s Salz - salt; s Fleisch - meat
s Gemüse - vegetables; s Obst - fruit; r Honig - honey; e Marmelade - jam
e Schokolade - chocolate; r Schinken - ham; e Sahne - cream; s Öl - oil
r Senf - mustard; r Essig - vinegar; r Knoblauch - garlic; r Spinat - spinach
# drink
r Kaffee - coffee; r Tee - tea; s Wasser - water; e Milch - milk; s Bier - beer
r Wein - wine; r Apfelsaft - apple juice; r Orangensaft - orange juice
e Limonade - lemonade; r Kakao - hot chocolate; s Mineralwasser - mineral water
r Rotwein - red wine; r Weißwein - white wine; r Kräutertee - herbal tea
# clothes
r Regenmantel Regenmäntel raincoat; r Badeanzug Badeanzüge swimsuit
s Nachthemd Nachthemden nightgown; e Strickjacke Strickjacken cardigan
e Lederjacke Lederjacken leather jacket; s Halstuch Halstücher neckerchief
r Mantel Mäntel coat; e Jacke Jacken jacket; s Hemd Hemden shirt
e Bluse Blusen blouse; s Kleid Kleider dress; r Rock Röcke skirt
r Pullover Pullover sweater; r Anzug Anzüge suit; e Mütze Mützen cap
r Hut Hüte hat; r Schal Schals scarf; e Krawatte Krawatten tie
r Gürtel Gürtel belt; s T-Shirt T-Shirts T-shirt; e Weste Westen vest
r Bademantel Bademäntel bathrobe; e Uniform Uniformen uniform
# reading
s Tagebuch Tagebücher diary; s Kochbuch Kochbücher cookbook
e Biografie Biografien biography; s Wörterbuch Wörterbücher dictionary
s Buch Bücher book; r Roman Romane novel; e Zeitung Zeitungen newspaper
e Zeitschrift Zeitschriften magazine; r Artikel Artikel article
r Brief Briefe letter; e Geschichte Geschichten story; s Gedicht Gedichte poem
r Krimi Krimis crime novel; s Märchen Märchen fairy tale
r Bericht Berichte report; r Reiseführer Reiseführer travel guide
# document
r Lebenslauf Lebensläufe résumé; e Quittung Quittungen receipt
r Zeitplan Zeitpläne schedule
r Vertrag Verträge contract; s Formular Formulare form; e Rechnung Rechnungen \
invoice
e Präsentation Präsentationen presentation; e Anzeige Anzeigen advertisement
e Liste Listen list; e Tabelle Tabellen table; r Entwurf Entwürfe draft
r Antrag Anträge application; s Angebot Angebote offer; r Plan Pläne plan
e Nachricht Nachrichten message; e Bestellung Bestellungen order
# vehicle
s Auto Autos car; s Fahrrad Fahrräder bicycle; s Motorrad Motorräder motorcycle
r Lastwagen Lastwagen truck; s Taxi Taxis taxi; r Traktor Traktoren tractor
r Wohnwagen Wohnwagen camper; r Roller Roller scooter
# transport
r Zug Züge train; r Bus Busse bus; e Straßenbahn Straßenbahnen tram
e U-Bahn U-Bahnen subway; e Fähre Fähren ferry; s Schiff Schiffe ship
s Flugzeug Flugzeuge plane
# animal
r Hamster Hamster hamster; r Papagei Papageien parrot; r Hahn Hähne rooster
s Lamm Lämmer lamb; s Pony Ponys pony; e Schildkröte Schildkröten turtle
r Hund Hunde dog; e Katze Katzen cat; s Pferd Pferde horse; e Kuh Kühe cow
s Schwein Schweine pig; s Schaf Schafe sheep; s Huhn Hühner chicken
e Ente Enten duck; r Vogel Vögel bird; s Kaninchen Kaninchen rabbit
e Ziege Ziegen goat; r Esel Esel donkey; e Gans Gänse goose
# wild_animal
s Eichhörnchen Eichhörnchen squirrel; r Hirsch Hirsche deer
s Zebra Zebras zebra; r Wal Wale whale; s Krokodil Krokodile crocodile
s Kamel Kamele camel; r Igel Igel hedgehog; r Schmetterling Schmetterlinge \
butterfly
r* Löwe Löwen lion; r* Affe Affen monkey; r* Elefant Elefanten elephant
r Tiger Tiger tiger; r Wolf Wölfe wolf; r Fuchs Füchse fox; r* Bär Bären bear
e Giraffe Giraffen giraffe; r Delfin Delfine dolphin; e Schlange Schlangen snake
r Adler Adler eagle; e Eule Eulen owl; r* Hase Hasen hare
# furniture
r Hocker Hocker stool; e Matratze Matratzen mattress
r Kleiderschrank Kleiderschränke wardrobe; e Vitrine Vitrinen display cabinet
r Schaukelstuhl Schaukelstühle rocking chair; s Kissen Kissen pillow
r Tisch Tische table; r Stuhl Stühle chair; s Bett Betten bed
s Sofa Sofas sofa; r Schrank Schränke closet; e Lampe Lampen lamp
s Regal Regale shelf; r Teppich Teppiche carpet; r Spiegel Spiegel mirror
r Schreibtisch Schreibtische desk; r Sessel Sessel armchair
r Vorhang Vorhänge curtain; e Kommode Kommoden dresser
# appliance
r Toaster Toaster toaster; r Mixer Mixer blender
s Bügeleisen Bügeleisen iron; e Mikrowelle Mikrowellen microwave
e Waschmaschine Waschmaschinen washing machine; r Kühlschrank Kühlschränke \
refrigerator
r Herd Herde stove; r Ofen Öfen oven; s Radio Radios radio
r Fernseher Fernseher television; e Heizung Heizungen heater
e Spülmaschine Spülmaschinen dishwasher
r Staubsauger Staubsauger vacuum cleaner
r Drucker Drucker printer; e Kaffeemaschine Kaffeemaschinen coffee machine
# device
r Wecker Wecker alarm clock; r Lautsprecher Lautsprecher loudspeaker
r Bildschirm Bildschirme screen; e Tastatur Tastaturen keyboard
s Handy Handys cell phone; r Computer Computer computer; r Laptop Laptops laptop
e Kamera Kameras camera; e Uhr Uhren watch
r Taschenrechner Taschenrechner calculator
s Tablet Tablets tablet; r Rucksack Rucksäcke backpack; r Koffer Koffer suitcase
e Tasche Taschen bag; r Regenschirm Regenschirme umbrella
e Taschenlampe Taschenlampen flashlight; s Fernrohr Fernrohre telescope
# belonging
r Geldschein Geldscheine banknote; e Mappe Mappen folder
r Bleistift Bleistifte pencil; s Feuerzeug Feuerzeuge lighter
r Schlüssel Schlüssel key; r Ausweis Ausweise ID card; r Reisepass Reisepässe \
passport
r Geldbeutel Geldbeutel wallet; e Fahrkarte Fahrkarten ticket
r Ring Ringe ring; e Kreditkarte Kreditkarten credit card
r Handschuh Handschuhe glove; r Kalender Kalender calendar
r Führerschein Führerscheine driver's license
# gift
s Parfüm Parfüms perfume; e Kerze Kerzen candle; s Gemälde Gemälde painting
e Vase Vasen vase; e Schallplatte Schallplatten record
s Geschenk Geschenke present; r Blumenstrauß Blumensträuße bouquet
e Postkarte Postkarten postcard; e Kette Ketten necklace; s Armband Armbänder \
bracelet
e Einladung Einladungen invitation; s Foto Fotos photo; e Rose Rosen rose
e Puppe Puppen doll; r* Teddybär Teddybären teddy bear
# dish
r Teller Teller plate; e Tasse Tassen cup; s Glas Gläser glass
r Löffel Löffel spoon; e Gabel Gabeln fork; s Messer Messer knife
r Topf Töpfe pot; e Pfanne Pfannen pan; e Schüssel Schüsseln bowl
e Flasche Flaschen bottle; e Kanne Kannen jug
# opening
s Fenster Fenster window; e Tür Türen door; s Tor Tore gate
s Paket Pakete package; e Kiste Kisten crate; e Schublade Schubladen drawer
# instrument
e Harfe - harp; s Saxofon - saxophone; e Orgel - organ; e Klarinette - clarinet
s Klavier - piano; e Geige - violin; e Gitarre - guitar; e Flöte - flute
s Cello - cello; e Trompete - trumpet; s Schlagzeug - drums
# sport
s Eishockey - ice hockey; s Wasserball - water polo; s Rugby - rugby
r Fußball - soccer; s Tennis - tennis; r Basketball - basketball
r Handball - handball; s Tischtennis - table tennis; r Volleyball - volleyball
s Schach - chess; s Badminton - badminton; s Golf - golf
# media
e Sendung Sendungen broadcast; r Dokumentarfilm Dokumentarfilme documentary
s Ballett Ballette ballet; s Musical Musicals musical
r Film Filme movie; e Serie Serien series; s Konzert Konzerte concert
s Theaterstück Theaterstücke play; e Ausstellung Ausstellungen exhibition
e Oper Opern opera; s Fußballspiel Fußballspiele soccer game
# event
s Turnier Turniere tournament; e Taufe Taufen christening
s Picknick Picknicks picnic; e Versteigerung Versteigerungen auction
r Wettbewerb Wettbewerbe competition
e Party Partys party; e Hochzeit Hochzeiten wedding; r Ausflug Ausflüge trip
e Prüfung Prüfungen exam; e Besprechung Besprechungen meeting
s Fest Feste celebration; e Reise Reisen journey; e Feier Feiern ceremony
s Vorstellungsgespräch Vorstellungsgespräche job interview
r Termin Termine appointment; e Konferenz Konferenzen conference
# subject
e Architektur - architecture; e Psychologie - psychology
e Astronomie - astronomy; e Literatur - literature
e Mathematik - mathematics; e Physik - physics; e Chemie - chemistry
e Biologie - biology; e Kunst - art; e Musik - music; e Informatik - computer \
science
e Medizin - medicine; e Philosophie - philosophy; e Geografie - geography
# body
r Kopf Köpfe head; r Arm Arme arm; s Bein Beine leg; r Fuß Füße foot
r Rücken Rücken back; r Bauch Bäuche stomach; s Knie Knie knee
s Auge Augen eye; s Ohr Ohren ear; e Schulter Schultern shoulder
r Finger Finger finger; r Hals Hälse throat; r Zahn Zähne tooth
# homework
e Aufgabe Aufgaben exercise; r Aufsatz Aufsätze essay; r Text Texte text
s Referat Referate talk; e Übersetzung Übersetzungen translation
# plant
e Lilie Lilien lily; e Eiche Eichen oak; e Birke Birken birch
e Kiefer Kiefern pine
r Baum Bäume tree; e Blume Blumen flower; e Tulpe Tulpen tulip
r Busch Büsche bush; e Hecke Hecken hedge; e Palme Palmen palm tree
e Pflanze Pflanzen plant; e Sonnenblume Sonnenblumen sunflower
# problem
s Missverständnis Missverständnisse misunderstanding; s Ziel Ziele goal
e Beschwerde Beschwerden complaint; r Vorteil Vorteile advantage
s Problem Probleme problem; r Fehler Fehler mistake; e Frage Fragen question
e Idee Ideen idea; r Vorschlag Vorschläge suggestion; s Ergebnis Ergebnisse \
result
e Entscheidung Entscheidungen decision; s Thema Themen topic
e Möglichkeit Möglichkeiten possibility; e Lösung Lösungen solution
"""

_PLACES = """
# building
r Bauernhof Bauernhöfe farmhouse; e Kapelle Kapellen chapel
e Scheune Scheunen barn; r Leuchtturm Leuchttürme lighthouse
s Gericht Gerichte courthouse; s Kloster Klöster monastery
e Universität Universitäten university; r Kindergarten Kindergärten kindergarten
s Haus Häuser house; e Wohnung Wohnungen apartment; e Schule Schulen school
s Krankenhaus Krankenhäuser hospital; e Kirche Kirchen church
e Brücke Brücken bridge
r Turm Türme tower; s Schloss Schlösser castle; s Museum Museen museum
e Bibliothek Bibliotheken library; s Rathaus Rathäuser town hall
e Fabrik Fabriken factory; s Stadion Stadien stadium; r Bahnhof Bahnhöfe train \
station
r Flughafen Flughäfen airport; s Einkaufszentrum Einkaufszentren shopping mall
r Spielplatz Spielplätze \
playground
s Schwimmbad Schwimmbäder swimming pool; s Bürogebäude Bürogebäude office \
building
# venue
e Drogerie Drogerien drugstore; r Blumenladen Blumenläden flower shop
e Eisdiele Eisdielen ice cream parlor; e Kneipe Kneipen pub
r Kiosk Kioske newsstand; s Reisebüro Reisebüros travel agency
s Hotel Hotels hotel; s Restaurant Restaurants restaurant; s Café Cafés café
e Bäckerei Bäckereien bakery; r Supermarkt Supermärkte supermarket
e Apotheke Apotheken pharmacy; e Buchhandlung Buchhandlungen bookstore
s Kino Kinos movie theater; e Bank Banken bank; r Friseur Friseure hairdresser
e Post - post office; e Metzgerei Metzgereien butcher shop; s Theater Theater \
theater
e Tankstelle Tankstellen gas station; r Markt Märkte market
# sight
r Platz Plätze square; e Ruine Ruinen ruin; e Bucht Buchten bay
s Tal Täler valley; e Quelle Quellen spring; r Teich Teiche pond
r Dom Dome cathedral; r Park Parks park; r Zoo Zoos zoo; r Marktplatz \
Marktplätze market square
e Burg Burgen fortress; r Strand Strände beach; r See Seen lake
r Wald Wälder forest; r Berg Berge mountain; r Fluss Flüsse river
e Insel Inseln island; s Dorf Dörfer village; e Altstadt Altstädte old town
r Hafen Häfen harbor; r Wasserfall Wasserfälle waterfall; e Höhle Höhlen cave
r Garten Gärten garden; s Denkmal Denkmäler monument
# room
e Küche Küchen kitchen; s Wohnzimmer Wohnzimmer living room
s Schlafzimmer Schlafzimmer bedroom; s Badezimmer Badezimmer bathroom
r Keller Keller basement; e Garage Garagen garage; r Flur Flure hallway
s Büro Büros office; r Balkon Balkone balcony; s Kinderzimmer Kinderzimmer \
nursery
"""

_PEOPLE = """
# man
r Vater Väter father; r Bruder Brüder brother; r Sohn Söhne son
r Großvater Großväter grandfather; r Onkel Onkel uncle; r Mann Männer husband
r* Neffe Neffen nephew; r Cousin Cousins cousin
r Schwiegervater Schwiegerväter father-in-law
# woman
e Mutter Mütter mother; e Schwester Schwestern sister; e Tochter Töchter \
daughter
e Großmutter Großmütter grandmother; e Tante Tanten aunt; e Frau Frauen wife
e Nichte Nichten niece; e Schwiegermutter Schwiegermütter mother-in-law
# acquaintance_man
r Freund Freunde friend; r* Nachbar Nachbarn neighbor; r* Kollege Kollegen \
colleague
r Chef Chefs boss; r Lehrer Lehrer teacher; r Arzt Ärzte doctor
r Vermieter Vermieter landlord; r Zahnarzt Zahnärzte dentist
r Trainer Trainer coach
# acquaintance_woman
e Freundin Freundinnen friend; e Nachbarin Nachbarinnen neighbor
e Kollegin Kolleginnen colleague; e Chefin Chefinnen boss
e Lehrerin Lehrerinnen teacher; e Ärztin Ärztinnen doctor
e Trainerin Trainerinnen coach; e Zahnärztin Zahnärztinnen dentist
# profession_man
r Dolmetscher Dolmetscher interpreter; r Klempner Klempner plumber
r Dachdecker Dachdecker roofer; r* Soldat Soldaten soldier
r Schneider Schneider tailor; r Richter Richter judge
r* Komponist Komponisten composer
r* Chirurg Chirurgen surgeon; r Buchhalter Buchhalter accountant
r Forscher Forscher researcher; r Hausmeister Hausmeister caretaker
r Bäcker Bäcker baker; r Koch Köche cook; r Kellner Kellner waiter
r Verkäufer Verkäufer salesman; r* Student Studenten student
r* Polizist Polizisten police officer; r Mechaniker Mechaniker mechanic
r Gärtner Gärtner gardener; r* Journalist Journalisten journalist
r Rechtsanwalt Rechtsanwälte lawyer; r Ingenieur Ingenieure engineer
r* Pilot Piloten pilot; r Maler Maler painter; r* Architekt Architekten \
architect
r Schauspieler Schauspieler actor; r Sänger Sänger singer
r* Bauer Bauern farmer
r Busfahrer Busfahrer bus driver; r* Fotograf Fotografen photographer
r Bürgermeister Bürgermeister mayor
r Direktor Direktoren principal; r Schriftsteller Schriftsteller writer
r Elektriker Elektriker electrician; r Tischler Tischler carpenter
r Apotheker Apotheker pharmacist
# profession_woman
e Dolmetscherin Dolmetscherinnen interpreter; e Richterin Richterinnen judge
e Schneiderin Schneiderinnen tailor; e Forscherin Forscherinnen researcher
e Tierärztin Tierärztinnen veterinarian; e Tänzerin Tänzerinnen dancer
e Fotografin Fotografinnen photographer; e Gärtnerin Gärtnerinnen gardener
e Buchhalterin Buchhalterinnen accountant; e Soldatin Soldatinnen soldier
e Bäckerin Bäckerinnen baker; e Köchin Köchinnen cook
e Kellnerin Kellnerinnen waitress
e Verkäuferin Verkäuferinnen saleswoman; e Studentin Studentinnen student
e Polizistin Polizistinnen policewoman; e Mechanikerin Mechanikerinnen mechanic
e Journalistin Journalistinnen journalist; e Anwältin Anwältinnen lawyer
e Ingenieurin Ingenieurinnen engineer; e Pilotin Pilotinnen pilot
e Malerin Malerinnen painter; e Architektin Architektinnen architect
e Schauspielerin Schauspielerinnen actress; e Sängerin Sängerinnen singer
e Bürgermeisterin Bürgermeisterinnen mayor
e Schriftstellerin Schriftstellerinnen writer
e Krankenschwester Krankenschwestern nurse
e Apothekerin Apothekerinnen pharmacist
e Sekretärin Sekretärinnen secretary
# visitor_man
r* Tourist Touristen tourist; r Schüler Schüler pupil; r Gast Gäste guest
r* Kunde Kunden customer; r* Patient Patienten patient
# visitor_woman
e Schülerin Schülerinnen pupil; e Touristin Touristinnen tourist
e Kundin Kundinnen customer; e Patientin Patientinnen patient
# stranger
r Mann Männer man; e Frau Frauen woman; r* Junge Jungen boy
s Mädchen Mädchen girl
s Kind Kinder child; e Dame Damen lady
r Radfahrer Radfahrer cyclist; e Läuferin Läuferinnen runner
# group
p Eltern parents; p Kinder children; p Großeltern grandparents
p Geschwister siblings; p Freunde friends; p Nachbarn neighbors
p Kollegen colleagues; p Gäste guests; p Verwandten relatives
"""


def _parse(text: str) -> dict[str, list[german.Noun]]:
  lexicon: dict[str, list[german.Noun]] = {}
  section = ""
  for line in text.splitlines():
    if line.startswith("# "):
      section = line[2:]
      lexicon[section] = []
      continue
    for entry in filter(None, (part.strip() for part in line.split(";"))):
      mark, word, *rest = entry.split()
      gender, weak = _GENDER[mark[0]], mark.endswith("*")
      if gender == "p":
        noun = german.Noun(word, word, "p", " ".join(rest))
      else:
        plural = "" if rest[0] == "-" else rest[0]
        noun = german.Noun(word, plural, gender, " ".join(rest[1:]), weak)
      lexicon[section].append(noun)
  return lexicon


@functools.cache
def lexicon() -> dict[str, list[german.Noun]]:
  """Returns the nouns of every class, by class name."""
  return _parse(_THINGS) | _parse(_PLACES) | _parse(_PEOPLE)
