import random

import pytest

from sonant.synth.world.facts import ANIMALS, FOODS, JOBS, PEOPLE, Fact, facts
from sonant.synth.world.german import (
    ADJECTIVES,
    GERMAN_ANIMALS,
    GERMAN_FOODS,
    GERMAN_JOBS,
    random_pair,
    statement,
    vocabulary,
)


def translated(english: str) -> str:
    """What the templates say for a sentence, found by drawing until it comes."""
    rng = random.Random(0)
    return next(german for source, german in (random_pair(rng) for _ in range(2_000_000)) if source == english)


@pytest.mark.parametrize(
    ("animal", "case", "definite", "expected"),
    [
        ("dog", "nom", True, "der rote hund"),
        ("dog", "acc", True, "den roten hund"),
        ("dog", "dat", True, "dem roten hund"),
        ("cat", "nom", True, "die rote katze"),
        ("cat", "acc", True, "die rote katze"),
        ("cat", "dat", True, "der roten katze"),
        ("horse", "nom", True, "das rote pferd"),
        ("horse", "acc", True, "das rote pferd"),
        ("horse", "dat", True, "dem roten pferd"),
        ("dog", "nom", False, "ein roter hund"),
        ("dog", "acc", False, "einen roten hund"),
        ("cat", "acc", False, "eine rote katze"),
        ("horse", "acc", False, "ein rotes pferd"),
        ("lion", "nom", True, "der rote löwe"),
        ("lion", "acc", True, "den roten löwen"),
        ("bear", "dat", True, "dem roten bären"),
        ("elephant", "acc", False, "einen roten elefanten"),
        ("monkey", "dat", True, "dem roten affen"),
    ],
)
def test_articles_adjectives_and_weak_nouns_agree(animal: str, case: str, definite: bool, expected: str):
    assert GERMAN_ANIMALS[animal].phrase(case, adjective="rot", definite=definite) == expected


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("the cat is white", "die katze ist weiß"),
        ("the lion likes the bear", "der löwe mag den bären"),
        ("does the hen eat corn", "frisst die henne mais"),
        ("where is the horse", "wo ist das pferd"),
        ("anna is a doctor", "anna ist ärztin"),
        ("ben is a cook", "ben ist koch"),
        ("emma rests on friday", "emma ruht am freitag"),
        ("leo plays the violin", "leo spielt geige"),
        ("the number of rosa is five", "die nummer von rosa ist fünf"),
    ],
)
def test_sentences_are_translated_as_by_hand(english: str, german: str):
    assert translated(english) == german


def test_every_animal_food_and_job_has_a_german_word():
    assert set(GERMAN_ANIMALS) == set(ANIMALS)
    assert set(GERMAN_FOODS) == set(FOODS)
    assert set(GERMAN_JOBS) == set(JOBS)
    assert all(GERMAN_JOBS[job][0] != GERMAN_JOBS[job][1] or job == "pilot" for job in JOBS)


def test_the_vocabulary_holds_every_word_of_translations():
    rng = random.Random(1)
    said = {word for _ in range(3000) for word in random_pair(rng)[1].split()}
    assert said <= {*vocabulary(), *PEOPLE}


def test_no_sentence_says_a_old():
    rng = random.Random(2)
    assert "old" in ADJECTIVES
    assert not any(" a old " in random_pair(rng)[0] for _ in range(3000))


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (Fact("dog", "colour", "red"), "der hund ist rot"),
        (Fact("cat", "place", "in the barn"), "die katze lebt in der scheune"),
        (Fact("horse", "food", "bread"), "das pferd frisst brot"),
        (Fact("cow", "friend", "bear"), "die kuh mag den bären"),
        (Fact("anna", "work", "cook"), "anna ist köchin"),
        (Fact("ben", "work", "cook"), "ben ist koch"),
        (Fact("leo", "rest", "sunday"), "leo ruht am sonntag"),
        (Fact("tina", "instrument", "harp"), "tina spielt harfe"),
        (Fact("sam", "number", "two"), "die nummer von sam ist zwei"),
    ],
)
def test_what_is_true_can_be_said_in_german(fact: Fact, expected: str):
    assert statement(fact) == expected


def test_every_fact_is_translated_as_its_sentence_would_be():
    rng = random.Random(0)
    told = dict(random_pair(rng) for _ in range(60_000))
    both = [fact for fact in facts() if fact.statement in told]
    assert len(both) > 150
    assert all(statement(fact) == told[fact.statement] for fact in both)
    assert {word for fact in facts() for word in statement(fact).split()} <= {*vocabulary(), *PEOPLE}
