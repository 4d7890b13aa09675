"""Templates: shop, kitchen, family, school, office, health, small talk.

The format is that of templates_travel.py.
"""

TEXT = """
Was kostet {n:the+ goods}?
How much is {n:the+ goods}?

{n:the+ goods} kostet nur {price}.
{n:the+ goods} costs only {price}.

{n:this clothes} gibt es für {price} im Angebot.
{n:this clothes} is on sale for {price}.

{n:the clothes} gefällt mir, aber {it:the clothes} ist mir zu teuer.
I like {n:the clothes}, but {it:the clothes} is too expensive for me.

{n:the clothes} passt {d:my man} nicht, weil {it:the clothes} zu klein ist.
{n:the clothes} doesn't fit {d:my man} because {it:the clothes} is too small.

Ich nehme {a:the+ device}, obwohl {it:the+ device} {large_price} kostet.
I'll take {a:the+ device} although {it:the+ device} costs {large_price}.

Wir haben {a:the device} gekauft, weil {it:the device} nur {price} kostet.
We bought {a:the device} because {it:the device} costs only {price}.

Ich hätte gern {grams} {d:bare grocery} und {a:count fruit}.
I would like {grams} of {d:bare grocery} and {a:count fruit}.

Haben Sie {n:this clothes} auch in einer anderen Größe?
Do you also have {n:this clothes} in a different size?

Zusammen macht das {price}.
That comes to {price} altogether.

Das Kilo {n:bare-s fruit} kostet heute {small_price}.
A kilo of {n:bare-s fruit} costs {small_price} today.

Für {a:the fruit} und {a:the grocery} habe ich {spoken_price} bezahlt.
I paid {spoken_price} for {a:the fruit} and {a:the grocery}.

Wenn Sie {a:count clothes} kaufen, bekommen Sie {percent} Rabatt.
If you buy {a:count clothes}, you get a discount of {percent}.

{n:the+ appliance} ist kaputt, deshalb brauchen wir {a:a+ appliance#2}.
{n:the+ appliance} is broken, so we need {a:a+ appliance#2}.

Im {month} wird {n:the vehicle} um {small_percent} teurer.
In {month}, {n:the vehicle} will become {small_percent} more expensive.

Geben Sie {grams} {a:bare grocery} und {liters} {a:bare drink} in {a:the dish}.
Put {grams} of {a:bare grocery} and {liters} of {a:bare drink} in {a:the dish}.

Schneiden Sie {a:the-s fruit} klein und kochen Sie sie {minutes} lang.
Chop {a:the-s fruit} and cook them for {minutes}.

Zum Frühstück esse ich meistens {a:a fruit} und trinke {a:bare drink}.
For breakfast I usually eat {a:a fruit} and drink {a:bare drink}.

Möchten Sie lieber {a:bare drink} oder {a:bare drink#2}?
Would you rather have {a:bare drink} or {a:bare drink#2}?

Diese Suppe schmeckt besser als {n:the snack} von gestern.
This soup tastes better than {n:the snack} from yesterday.

Für den Kuchen brauchst du {grams} Mehl und {few} Eier.
For the cake you need {grams} of flour and {few} eggs.

Stell bitte {a:the-s dish} auf den Tisch und {a:the grocery} in den Schrank.
Please put {a:the-s dish} on the table and {a:the grocery} in the cupboard.

{n:my family} wird am {spoken_day} {spelled} Jahre alt.
{n:my family} will turn {spelled} on {spoken_day}.

{n:my family} wurde am {date} in {city} geboren.
{n:my family} was born in {city} on {date}.

{name} hat im {month} Geburtstag, {name#2} erst im {month#2}.
{name}'s birthday is in {month}, {name#2}'s not until {month#2}.

{n:my family} ist {age} Jahre alt und wohnt in der Nähe von {city}.
{n:my family} is {age} years old and lives near {city}.

Zum Geburtstag hat {n:my woman} mir {a:a+ goods} geschenkt.
For my birthday, {n:my woman} gave me {a:a+ goods}.

Ich habe {few} Cousins und {few#2} Cousinen, aber nur einen Bruder.
I have {few} male cousins and {few#2} female cousins, but only one brother.

{g:name} {n:bare woman} arbeitet als {n:job_woman} in {city}.
{g:name}'s {n:bare woman} works as {n:job_woman} in {city}.

{n:my man} ist {n:job}, {n:my woman} ist {n:job_woman}.
{n:my man} is {n:job}, and {n:my woman} is {n:job_woman}.

{n:the profession_man} heißt {surname} und kommt aus {country}.
The name of {n:the profession_man} is {surname} and he comes from {country}.

Als ich {few} Jahre alt war, wollte ich {n:job} werden.
When I was {few} years old, I wanted to become {n:job}.

In der Klasse von {name} sind {spelled} Schüler.
There are {spelled} pupils in {d:name}'s class.

Der Unterricht beginnt um {time} und endet um {time#2}.
Class begins at {time} and ends at {time#2}.

Die Prüfung in {subject} findet am {full_date}, statt.
The exam in {subject} will take place on {full_date}.

{name} ist gut in {subject}, aber schlecht in {subject#2}.
{name} is good at {subject} but bad at {subject#2}.

Bitte lesen Sie {a:the+ reading} bis zum {weekday}.
Please read {a:the+ reading} by {weekday}.

{n:the+ reading}, {n:the+ reading#2} und {n:the+ media} haben mir gut gefallen.
I really liked {n:the+ reading}, {n:the+ reading#2} and {n:the+ media}.

Auf {language} kann ich nur bis {spelled} zählen.
In {language} I can only count to {spelled}.

Die Besprechung mit {d:my+ acquaintance_woman} ist am {weekday} um {time}.
The meeting with {d:my+ acquaintance_woman} is on {weekday} at {time}.

Könnten Sie mir {a:the+ document} bis {weekday} um {time} schicken?
Could you send me {a:the+ document} by {weekday} at {time}?

Auf Seite {track} {g:the document} habe ich {few} Fehler gefunden.
I found {few} mistakes on page {track} of {g:the document}.

{n:the+ document} wurde von {d:the profession_man} unterschrieben.
{n:the+ document} was signed by {d:the profession_man}.

Unsere Firma sucht {a:a profession_woman} mit {few} Jahren Erfahrung.
Our company is looking for {a:a profession_woman} with {few} years of\
 experience.

Ich arbeite seit {few} Jahren als {n:job} in {city}.
I have been working as {n:job} in {city} for {few} years.

Er verdient {large_price} im Monat, das sind {small_percent} mehr als früher.
He earns {large_price} a month, which is {small_percent} more than before.

Seit {few} Tagen tut mir {n:own body} weh.
{n:own body} has been hurting for {few} days.

Nehmen Sie diese Tabletten {few} Tage lang vor dem Essen.
Take these pills before meals for {few} days.

Mein Arzt sagt, dass ich weniger {a:bare drink} trinken soll.
My doctor says that I should drink less {a:bare drink}.

{n:the+ profession_woman} hatte {few} Tage lang hohes Fieber.
{n:the+ profession_woman} had a high fever for {few} days.

Der Patient wiegt {kilograms} und ist {centimeters} groß.
The patient weighs {kilograms} and is {centimeters} tall.

{name} läuft jeden {weekday} {run} am Fluss entlang.
{name} runs {run} along the river every {weekday}.

Am {weekday} spielen wir um {time} gegen die Mannschaft aus {city}.
On {weekday} at {time} we are playing against the team from {city}.

{n:the profession_man} hat {a:a+ animal} und {a:count animal#2}.
{n:the profession_man} has {a:a+ animal} and {a:count animal#2}.

{n:my+ animal} hat Angst vor {d:the+ animal#2}.
{n:my+ animal} is afraid of {d:the+ animal#2}.

Ist das {n:my+ portable} oder {n:the portable#2} aus {city}?
Is this {n:my+ portable} or {n:the portable#2} from {city}?

{a:which media} hast du am {weekday} gesehen?
{a:which media} did you see on {weekday}?

Es ist schon {time}, und {name} ist immer noch nicht da.
It is already {time}, and {name} is still not here.

Es tut mir leid, dass ich erst um {time} gekommen bin.
I am sorry that I didn't come until {time}.

Viel Glück bei {d:the event} am {weekday}, {name}!
Good luck with {d:the event} on {weekday}, {name}!

Vielen Dank für {a:the+ gift} aus {city}.
Thank you very much for {a:the+ gift} from {city}.

Wie lange dauert {n:the+ event} am {weekday}?
How long will {n:the+ event} on {weekday} last?

Unsere Wohnung hat {few} Zimmer und ist {area} groß.
Our apartment has {few} rooms and is {area} in size.

{n:my acquaintance_man} wohnt in der Gartenstraße {house_number} in {city}.
{n:my acquaintance_man} lives at {house_number} Gartenstraße in {city}.

Die Miete beträgt {large_price} im Monat, ohne Strom und Heizung.
The rent is {large_price} a month, not including electricity and heating.

In {d:the room} stehen {n:a+ furniture} und {n:count furniture#2}.
There are {n:a+ furniture} and {n:count furniture#2} in {d:the room}.

An der Wand in {d:the room} hängt ein altes Bild aus {country}.
An old picture from {country} hangs on the wall in {d:the room}.

Unter {d:the+ furniture} habe ich {a:my+ belonging} gefunden.
I found {a:my+ belonging} under {d:the+ furniture}.

{spelled} plus {few} ist weniger als {hundreds}.
{spelled} plus {few} is less than {hundreds}.
"""
