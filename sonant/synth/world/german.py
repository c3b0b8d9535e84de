"""English sentences of the tiny world with their German translations, by templates that agree in gender and case.

Written without capitals and full stops, as everything in the tiny world.
"""

import random
from dataclasses import dataclass

from sonant.synth.world.facts import DAYS, DIGITS, FOODS, INSTRUMENTS, MEN, PLACES, WOMEN, Fact


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class Noun:
    """A German noun: `gender` m, f or n; `oblique` is its form after "den" and "dem" where that differs."""

    gender: str
    nominative: str
    oblique: str

    def phrase(self, case: str, *, adjective: str = "", definite: bool = True) -> str:
        """Returns article, adjective and noun in `case` (nom, acc or dat): "den roten hund", "ein rotes pferd"."""
        article, ending = _ARTICLES[definite][case][self.gender]
        noun = self.nominative if case == "nom" else self.oblique
        return " ".join(filter(None, (article, adjective and adjective + ending, noun)))


_ARTICLES = {
    True: {
        "nom": {"m": ("der", "e"), "f": ("die", "e"), "n": ("das", "e")},
        "acc": {"m": ("den", "en"), "f": ("die", "e"), "n": ("das", "e")},
        "dat": {"m": ("dem", "en"), "f": ("der", "en"), "n": ("dem", "en")},
    },
    False: {
        "nom": {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")},
        "acc": {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")},
        "dat": {"m": ("einem", "en"), "f": ("einer", "en"), "n": ("einem", "en")},
    },
}

_ANIMALS = """bear m bär bären; camel n kamel; cat f katze; cow f kuh; dog m hund; duck f ente; eagle m adler;
elephant m elefant elefanten; fox m fuchs; frog m frosch; goat f ziege; goose f gans; hen f henne; horse n pferd;
lion m löwe löwen; monkey m affe affen; mouse f maus; owl f eule; parrot m papagei; pig n schwein; rabbit n kaninchen;
shark m hai; sheep n schaf; snake f schlange; squirrel n eichhörnchen; tiger m tiger; turtle f schildkröte;
whale m wal; wolf m wolf; zebra n zebra"""
GERMAN_ANIMALS = {
    english: Noun(gender, forms[0], forms[-1])
    for english, gender, *forms in (entry.split() for entry in _ANIMALS.split(";"))
}
_ENGLISH_ADJECTIVES = _words("black blue brown green grey red white yellow big small young old happy quiet")
_GERMAN_ADJECTIVES = _words("schwarz blau braun grün grau rot weiß gelb groß klein jung alt froh still")
ADJECTIVES = dict(zip(_ENGLISH_ADJECTIVES, _GERMAN_ADJECTIVES, strict=True))
_GERMAN_PLACES = (
    *("in der scheune", "im wald", "im garten", "auf dem hof", "auf dem hügel", "am fluss", "am see"),
    *("in der wüste", "im dschungel", "in der stadt", "am meer", "unter der brücke", "im haus", "im park"),
    *("im tal", "auf der insel"),
)
GERMAN_PLACES = dict(zip(PLACES, _GERMAN_PLACES, strict=True))
_GERMAN_FOODS = _words(
    "äpfel beeren brot kuchen karotten käse mais eier fisch gras honig fleisch nüsse reis salat suppe"
)
GERMAN_FOODS = dict(zip(FOODS, _GERMAN_FOODS, strict=True))
_JOBS = """baker bäcker bäckerin; cook koch köchin; dancer tänzer tänzerin; doctor arzt ärztin; driver fahrer fahrerin;
farmer bauer bäuerin; fisher fischer fischerin; gardener gärtner gärtnerin; judge richter richterin;
painter maler malerin; pilot pilot pilotin; singer sänger sängerin; teacher lehrer lehrerin; writer autor autorin"""
GERMAN_JOBS = {english: (man, woman) for english, man, woman in (entry.split() for entry in _JOBS.split(";"))}
_GERMAN_INSTRUMENTS = _words("trommel flöte gitarre harfe klavier trompete geige")
GERMAN_INSTRUMENTS = dict(zip(INSTRUMENTS, _GERMAN_INSTRUMENTS, strict=True))
_GERMAN_DAYS = _words("montag dienstag mittwoch donnerstag freitag samstag sonntag")
GERMAN_DAYS = dict(zip(DAYS, _GERMAN_DAYS, strict=True))
GERMAN_DIGITS = dict(zip(DIGITS, _words("null eins zwei drei vier fünf sechs sieben acht neun"), strict=True))
VERBS = {"sleeps": "schläft", "runs": "rennt", "sings": "singt", "waits": "wartet"}

Pair = tuple[str, str]  # English, German


def random_pair(rng: random.Random) -> Pair:
    """Returns a random sentence of the grammar and its German translation."""
    return rng.choice(_PATTERNS)(rng)


def job_pair(rng: random.Random) -> Pair:
    """Returns who works as what, with its German translation: the job agrees with the person."""
    person, (job, forms) = _person(rng), rng.choice(list(GERMAN_JOBS.items()))
    return f"{person} is a {job}", f"{person} ist {forms[person in WOMEN]}"


def statement(fact: Fact) -> str:
    """Returns the German for `fact.statement`."""
    if fact.relation in ("colour", "place", "food", "friend"):
        who = GERMAN_ANIMALS[fact.entity].phrase("nom")
        match fact.relation:
            case "colour":
                return f"{who} ist {ADJECTIVES[fact.value]}"
            case "place":
                return f"{who} lebt {GERMAN_PLACES[fact.value]}"
            case "food":
                return f"{who} frisst {GERMAN_FOODS[fact.value]}"
        return f"{who} mag {GERMAN_ANIMALS[fact.value].phrase('acc')}"
    match fact.relation:
        case "work":
            return f"{fact.entity} ist {GERMAN_JOBS[fact.value][fact.entity in WOMEN]}"
        case "rest":
            return f"{fact.entity} ruht am {GERMAN_DAYS[fact.value]}"
        case "instrument":
            return f"{fact.entity} spielt {GERMAN_INSTRUMENTS[fact.value]}"
    return f"die nummer von {fact.entity} ist {GERMAN_DIGITS[fact.value]}"


def vocabulary() -> list[str]:
    """Returns every German word that a translation may hold, each once, sorted."""
    words = {"der", "die", "das", "den", "dem", "ist", "lebt", "frisst", "mag", "sieht", "gibt", "spielt", "ruht", "am"}
    words |= {"nummer", "von", "hat", "wo", "was", "und", "sehen", "ein", "eine", "einen", *VERBS.values()}
    words |= {form for noun in GERMAN_ANIMALS.values() for form in (noun.nominative, noun.oblique)}
    words |= {adjective + ending for adjective in ADJECTIVES.values() for ending in ("", "e", "en", "er", "es")}
    words |= {word for place in GERMAN_PLACES.values() for word in place.split()}
    tables = (GERMAN_FOODS, GERMAN_INSTRUMENTS, GERMAN_DAYS, GERMAN_DIGITS)
    words |= {word for table in tables for word in table.values()}
    return sorted(words | {form for forms in GERMAN_JOBS.values() for form in forms})


def _animal(rng: random.Random) -> tuple[str, Noun]:
    return rng.choice(list(GERMAN_ANIMALS.items()))


def _adjective(rng: random.Random) -> Pair:
    return rng.choice(list(ADJECTIVES.items()))


def _place(rng: random.Random) -> Pair:
    return rng.choice(list(GERMAN_PLACES.items()))


def _food(rng: random.Random) -> Pair:
    return rng.choice(list(GERMAN_FOODS.items()))


def _person(rng: random.Random) -> str:
    return rng.choice(WOMEN + MEN)


def _quality(rng: random.Random) -> Pair:
    (animal, noun), (adjective, eigenschaft) = _animal(rng), _adjective(rng)
    return f"the {animal} is {adjective}", f"{noun.phrase('nom')} ist {eigenschaft}"


def _home(rng: random.Random) -> Pair:
    (animal, noun), (place, ort) = _animal(rng), _place(rng)
    return f"the {animal} lives {place}", f"{noun.phrase('nom')} lebt {ort}"


def _meal(rng: random.Random) -> Pair:
    (animal, noun), (food, speise) = _animal(rng), _food(rng)
    if rng.random() < 0.3:
        return f"does the {animal} eat {food}", f"frisst {noun.phrase('nom')} {speise}"
    return f"the {animal} eats {food}", f"{noun.phrase('nom')} frisst {speise}"


def _liking(rng: random.Random) -> Pair:
    (animal, noun), (friend, freund) = _animal(rng), _animal(rng)
    return f"the {animal} likes the {friend}", f"{noun.phrase('nom')} mag {freund.phrase('acc')}"


def _seeing(rng: random.Random) -> Pair:
    person, (adjective, eigenschaft), (animal, noun) = _person(rng), _adjective(rng), _animal(rng)
    place, ort = _place(rng)
    seen = noun.phrase("acc", adjective=eigenschaft)
    return f"{person} sees the {adjective} {animal} {place}", f"{person} sieht {seen} {ort}"


def _acting(rng: random.Random) -> Pair:
    (adjective, eigenschaft), (animal, noun), (place, ort) = _adjective(rng), _animal(rng), _place(rng)
    verb, tut = rng.choice(list(VERBS.items()))
    return f"the {adjective} {animal} {verb} {place}", f"{noun.phrase('nom', adjective=eigenschaft)} {tut} {ort}"


def _giving(rng: random.Random) -> Pair:
    person, (animal, noun), (food, speise) = _person(rng), _animal(rng), _food(rng)
    return f"{person} gives the {animal} {food}", f"{person} gibt {noun.phrase('dat')} {speise}"


def _having(rng: random.Random) -> Pair:
    person, (animal, noun) = _person(rng), _animal(rng)
    adjective, eigenschaft = rng.choice([pair for pair in ADJECTIVES.items() if pair[0] != "old"])  # no "an"
    owned = noun.phrase("acc", adjective=eigenschaft, definite=False)
    return f"{person} has a {adjective} {animal}", f"{person} hat {owned}"


def _asking(rng: random.Random) -> Pair:
    animal, noun = _animal(rng)
    if rng.random() < 0.5:
        return f"where is the {animal}", f"wo ist {noun.phrase('nom')}"
    return f"what does the {animal} eat", f"was frisst {noun.phrase('nom')}"


def _pair_seeing(rng: random.Random) -> Pair:
    first, second, (animal, noun) = _person(rng), _person(rng), _animal(rng)
    return f"{first} and {second} see the {animal}", f"{first} und {second} sehen {noun.phrase('acc')}"


def _playing(rng: random.Random) -> Pair:
    person, (instrument, name) = _person(rng), rng.choice(list(GERMAN_INSTRUMENTS.items()))
    return f"{person} plays the {instrument}", f"{person} spielt {name}"


def _resting(rng: random.Random) -> Pair:
    person, (day, tag) = _person(rng), rng.choice(list(GERMAN_DAYS.items()))
    return f"{person} rests on {day}", f"{person} ruht am {tag}"


def _number(rng: random.Random) -> Pair:
    person, (digit, ziffer) = _person(rng), rng.choice(list(GERMAN_DIGITS.items()))
    return f"the number of {person} is {digit}", f"die nummer von {person} ist {ziffer}"


_PATTERNS = (
    *(_quality, _home, _meal, _liking, _seeing, _seeing, _acting, _acting, _giving, _having, _asking, _pair_seeing),
    *(job_pair, _playing, _resting, _number),
)
