"""Templates: travel, timetables, directions, places, weather, news.

Two lines a template, German and English, with a blank line between templates;
the slots are those of slots.py.
"""

TEXT = """
Der Zug nach {city} fährt um {time} von Gleis {track} ab.
The train to {city} leaves from platform {track} at {time}.

Der nächste Bus nach {city} kommt in {minutes}.
The next bus to {city} is coming in {minutes}.

Unser Flug nach {city} hat {minutes} Verspätung.
Our flight to {city} is delayed by {minutes}.

Die Fahrt von {city} nach {city#2} dauert {hours} und kostet {large_price}.
The trip from {city} to {city#2} takes {hours} and costs {large_price}.

Von {city} bis {city#2} sind es {kilometers}.
It is {kilometers} from {city} to {city#2}.

Am {weekday} fährt der letzte Zug nach {city} schon um {time}.
On {weekday}, the last train to {city} leaves as early as {time}.

Wann kommt der Zug aus {city} in {city#2} an?
When does the train from {city} arrive in {city#2}?

Wie weit ist es von hier bis {d:the venue}?
How far is it from here to {d:the venue}?

Eine Fahrkarte von {city} nach {city#2} kostet am {weekday} nur {price}.
A ticket from {city} to {city#2} costs only {price} on {weekday}.

Ich habe für den {coming_date} ein Zimmer mit Blick auf {a:the sight}\
 reserviert.
I have reserved a room with a view of {a:the sight} for {coming_date}.

Entschuldigung, wo finde ich {a:the+ venue}?
Excuse me, where can I find {a:the+ venue}?

Gehen Sie geradeaus und biegen Sie hinter {d:the building} links ab.
Go straight ahead and turn left behind {d:the building}.

Biegen Sie nach {meters}n rechts ab, dann sehen Sie {a:the+ building}.
Turn right after {meters}, then you will see {a:the+ building}.

{n:the venue} liegt direkt gegenüber von {d:the building}.
{n:the venue} is directly across from {d:the building}.

{n:the building} steht zwischen {d:the venue} und {d:the sight}.
{n:the building} stands between {d:the venue} and {d:the sight}.

Neben {d:the+ building} gibt es {a:a+ venue}.
There is {a:a+ venue} next to {d:the+ building}.

In {city} gibt es viele {a:bare+-s sight} und {a:a+ building}.
In {city} there are many {a:bare+-s sight} and {a:a+ building}.

Gibt es in der Nähe {g:this building} {a:a+ venue}?
Is there {a:a+ venue} near {g:this building}?

{n:the+ building} in {city} wurde im Jahr {year} gebaut.
{n:the+ building} in {city} was built in {year}.

Der Turm {g:the building} in {city} ist {meters} hoch.
The tower of {g:the building} in {city} is {meters} high.

{n:the venue} ist jeden {weekday} bis {time} geöffnet.
{n:the venue} is open until {time} every {weekday}.

Am {weekday} ist {n:the venue} geschlossen, weil ein Feiertag ist.
On {weekday}, {n:the venue} is closed because it is a holiday.

Von unserem Zimmer aus konnten wir {a:the+ sight} sehen.
From our room we could see {a:the+ sight}.

Ihr Zimmer hat die Nummer {room_number} und liegt neben {d:the room}.
Your room has the number {room_number} and is next to {d:the room}.

Haben Sie vom {spoken_day} bis zum {spoken_day#2} noch ein Zimmer frei?
Do you still have a room available from {spoken_day} to {spoken_day#2}?

Ich war noch nie in {country}, aber ich möchte gern {city} besuchen.
I have never been to {country}, but I would like to visit {city}.

In {country} spricht man kein {language}.
They don't speak {language} in {country}.

Meine Großeltern kommen aus {country} und sprechen {language}.
My grandparents come from {country} and speak {language}.

{name} lernt seit {few} Jahren {language}.
{name} has been learning {language} for {few} years.

{name} wohnt seit {recent_year} in {country}.
{name} has lived in {country} since {recent_year}.

Die Hauptstadt liegt im Süden des Landes und hat {population} Einwohner.
The capital lies in the south of the country and has {population} inhabitants.

{city} hat {population} Einwohner, {city#2} dagegen nur {thousands}.
{city} has {population} inhabitants, whereas {city#2} has only {thousands}.

In {city} sind es heute {degrees}, in {city#2} nur {degrees#2}.
It is {degrees} in {city} today, but only {degrees#2} in {city#2}.

Morgen wird es in {country} sonnig und warm, bei {degrees}.
Tomorrow it will be sunny and warm in {country}, at {degrees}.

Am {weekday} regnet es in {city}, aber am {weekday#2} scheint die Sonne.
On {weekday} it will rain in {city}, but on {weekday#2} the sun will shine.

In der Nacht fällt die Temperatur auf {degrees}.
During the night, the temperature will drop to {degrees}.

Im {month} hat es in {city} {few} Tage lang geschneit.
In {month} it snowed in {city} for {few} days.

Im Norden ist es neblig, während im Süden von {country} die Sonne scheint.
It is foggy in the north, while the sun is shining in the south of {country}.

Nach dem Gewitter lagen {spelled} Bäume auf der Straße nach {city}.
After the storm, {spelled} trees were lying on the road to {city}.

Die Regierung von {country} hat am {weekday} ein neues Gesetz beschlossen.
The government of {country} passed a new law on {weekday}.

Die Präsidentin von {country} reist im {month} nach {city}.
The president of {country} is traveling to {city} in {month}.

Die Preise für {a:bare+-s goods} sind um {small_percent} gestiegen.
The prices of {a:bare+-s goods} have risen by {small_percent}.

Im {month} ist die Zahl der Arbeitslosen in {country} um {small_percent}\
 gesunken.
In {month}, the number of unemployed in {country} fell by {small_percent}.

Die Firma aus {city} hat {thousands} {a:bare-s goods} nach {country} verkauft.
The company from {city} sold {thousands} {a:bare-s goods} to {country}.

Bei dem Unfall in {city} wurden {few} Menschen verletzt.
In the accident in {city}, {few} people were injured.

Mehr als {thousands} Menschen haben in {city} gegen das Gesetz demonstriert.
More than {thousands} people demonstrated against the law in {city}.

Laut einer Umfrage sind {percent} der Menschen in {country} zufrieden.
According to a survey, {percent} of the people in {country} are satisfied.

Forscher aus {country} haben in der Nähe von {city} alte Münzen gefunden.
Researchers from {country} have found old coins near {city}.

Die Mannschaft aus {city} hat gegen {country} mit {few} zu eins gewonnen.
The team from {city} won {few} to one against {country}.

Der Dieb wurde am {date} in {city} von der Polizei verhaftet.
The thief was arrested by the police in {city} on {date}.

Die Brücke wird wegen Bauarbeiten bis zum {coming_date} gesperrt.
The bridge will be closed until {coming_date} because of construction work.

Das Foto {g:the sight} bei {city} stammt aus dem Jahr {spelled_year}.
The photo of {g:the sight} near {city} dates from the year {spelled_year}.

Zwischen {city} und {city#2} fahren heute keine Züge.
There are no trains between {city} and {city#2} today.

Wegen des schlechten Wetters wurde der Flug nach {country} gestrichen.
Because of the bad weather, the flight to {country} was canceled.

Trotz des starken Regens haben wir {a:the+ sight} in {city} besucht.
Despite the heavy rain, we visited {a:the+ sight} in {city}.

Auf der Autobahn darf man hier nicht schneller als {speed} fahren.
On the highway you must not drive faster than {speed} here.

{name} ist mit {d:a vehicle} von {city} nach {city#2} gefahren.
{name} traveled from {city} to {city#2} with {d:a vehicle}.

Während der Reise durch {country} haben wir {a:count+ wild_animal} gesehen.
During the trip through {country} we saw {a:count+ wild_animal}.

Im Zoo von {city} leben {n:count wild_animal} und {n:a+ wild_animal#2}.
{a:count wild_animal} and {a:a+ wild_animal#2} live in the zoo of {city}.

Wie komme ich von {d:the building} zu {d:the+ venue}?
How do I get from {d:the building} to {d:the+ venue}?

{a:which venue} in {city} können Sie mir empfehlen?
{a:which venue} in {city} can you recommend to me?

Das Flugzeug aus {city} ist um {time} in {country} gelandet.
The plane from {city} landed in {country} at {time}.

Wir treffen uns am {weekday} um {time} vor {d:the+ building}.
We are meeting in front of {d:the+ building} on {weekday} at {time}.

Hinter {d:the building} beginnt ein Weg, der zu {d:the+ sight} führt.
Behind {d:the building} begins a path that leads to {d:the+ sight}.

Wer {a:the sight} von {city} sehen will, muss {price} bezahlen.
Anyone who wants to see {a:the sight} of {city} has to pay {price}.
"""
