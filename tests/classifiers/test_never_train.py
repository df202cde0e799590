"""What is never trained on. The numbers below are made up: they pass check digits and belong to nobody."""

import pytest

from classifiers.never_train import LEAST_PROBABILITY, exposed_private_data, never_train_reason, passes_luhn
from classifiers.rubric import NEVER_TRAIN_CATEGORIES
from classifiers.score import Score


def test_luhn():
    assert passes_luhn("79927398713")
    assert not passes_luhn("79927398714")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Name: A. Person\nVisa 4539 1488 0343 6467 exp 01/31 cvv 000", "payment card number"),
        ("A. Person, born 1970, SSN 535-01-0000", None),
        ("A. Person, born 1970, SSN 535-01-0001", "social security number"),
        ("a@example.com:secret1\nb@example.com:secret2\nc@example.com:secret3\n", "list of logins with passwords"),
    ],
)
def test_exposed_records(text, reason):
    assert exposed_private_data(text) == reason
    assert never_train_reason(text, {}) == (f"privacy: {reason}" if reason else None)


CARD, IN_FOURS = "4539148803436467", "4539 1488 0343 6467"


@pytest.mark.parametrize(
    "record",
    [
        "visa {} 01/31 000",
        "visa {} 000",
        "visa {} 0131 000",
        "exp 01/31 {} cvv 000",
        "17 {} visa",
        "A. Person,{},01/31,000,visa",
        "17,{},01/31,000,visa",
        "visa no.{}",
        "cvv {0} {0} {0}",
    ],
)
@pytest.mark.parametrize("number", [CARD, IN_FOURS])
def test_a_card_number_is_found_beside_the_other_fields_of_its_record(record, number):
    assert exposed_private_data(record.format(number)) == "payment card number"


def test_a_card_number_of_fifteen_digits_is_found_beside_other_fields():
    assert exposed_private_data("amex 3714 960353 98438 01/31") == "payment card number"


@pytest.mark.parametrize(
    "text",
    [
        "Visa, transactions by year: 2010 2011 2012 2013 2014 2015 2016 2017 2018 2019 2020 2021 2022 2023",
        "Visa exp. 2011 2015 2019 2030",
        f"The share (exp. value) was 0.{CARD} in the first quarter.",
        f"Visa, shipment AB-{CARD}, {CARD}-7 and 1{CARD}.",
        "Contact: office@example.org, telephone +1 555 010 0199, Monday to Friday.",
        "ISBN 978-3-16-148410-0, order number 4539148803436467.",
        "Test our checkout with Visa 4242 4242 4242 4242, any expiry, cvv 123.",
        "Part 535-01-0001 fits the older pump.",
        "The sample card shows the social security number 078-05-1120.",
        "Staff:\na@example.org: Mrs Example, head of office\nb@example.org\nc@example.org\n",
    ],
)
def test_ordinary_pages_pass(text):
    assert exposed_private_data(text) is None


@pytest.mark.parametrize("index", range(3))
def test_a_classifier_is_enough_at_any_score(index):
    category = NEVER_TRAIN_CATEGORIES[index]
    for level in (0, 4):
        for shift, expected in ((0.0, True), (-0.01, False)):
            outputs = [0.0, 0.0, 0.0]
            outputs[index] = LEAST_PROBABILITY[category] + shift
            probabilities = tuple(float(i == level) for i in range(6))
            score = Score(level, probabilities, "other" if level else "none", 0.5, 1, None, tuple(outputs))
            reason = never_train_reason("A text.", {"embedding": score, "fasttext": None})
            assert (reason is not None and reason.startswith(category)) == expected


def plain_score(level, category, outputs=()):
    probabilities = tuple(float(i == level) for i in range(6))
    return Score(level, probabilities, category, 0.5, 1, None, outputs)


@pytest.mark.parametrize(("category", "level", "expected"), [
    ("child_exploitation", 3, "child_exploitation: judge score 3"), ("weapons", 5, "weapons: judge score 5"),
    ("weapons", 2, None), ("privacy", 5, None), ("hate", 5, None),
])  # fmt: skip
def test_without_outputs_of_its_own_a_high_score_in_the_category_is_enough(category, level, expected):
    scores = {"judge": plain_score(level, category), "fasttext": plain_score(0, "none")}
    assert never_train_reason("A text.", scores) == expected
    scores["embedding"] = plain_score(0, "none", (0.0, 0.0, 0.0))  # who has such outputs is asked alone
    assert never_train_reason("A text.", scores) is None


@pytest.mark.parametrize("unit", ["1", "1 ", "4539 ", "a@", "a@b.c:", "a.", "535-01-0001 ", "\n"])
def test_patterns_take_linear_time(unit):
    assert exposed_private_data(unit * (1_000_000 // len(unit))) in (None, "list of logins with passwords")
