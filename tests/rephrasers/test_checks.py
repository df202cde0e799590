"""The parts of verification's rules with positive and negative cases of their own: shape, style, facts, languages, ends."""

import pytest

from rephrasers.attempts import seed_of_attempt, style_of_attempt
from rephrasers.checks import facts, shape, style, wording
from rephrasers.checks.facts import Fact
from rephrasers.checks.languages import off_language
from rephrasers.prompt_files import STYLE_NAMES, draw_style

LONG = "This is a line of ordinary prose that goes on for a while and ends as lines do."


@pytest.mark.parametrize(
    "line", ["# A title", "### 3. More", "**In bold**", "__Too__", "Under a plain line", "What is fire?", "第一章 春天"]
)
def test_headings_are_found(line):
    assert shape.headings(f"{line}\n\n{LONG}") == [line] and shape.has_title(f"{line}\n{LONG}")


def test_underlined_heading():
    assert shape.headings(f"Spring\n======\n{LONG}") == ["Spring"]


@pytest.mark.parametrize("line", [LONG, "- a list item", "1. a numbered item", "Short sentence.", "He said:"])
def test_other_lines_are_no_headings(line):
    assert line not in shape.headings(f"{line}\n{LONG}")
    assert not shape.headings("The last line")


@pytest.mark.parametrize(
    ("text", "speakers", "turns"),
    [
        ("Mia: Hi\nTom: Hello\nMia: Why?\nTom: So.", 2, 4),
        ("**Reporter:** Hi\n\n**Expert:** Hello\n\n**Reporter:** Why?\n\n**Expert (smiles):** So.", 2, 4),
        ("Q: Hi?\nA: Hello\nQ: Why?\nA: So.", 2, 4),
        ("小雨：你好吗\n阿明：很好\n小雨：为什么\n阿明：因为天气好", 2, 4),
        ("— Pourquoi ?\n— Parce que.\n— Ah bon ?\n— Oui.", 2, 4),
        ("Mia: Hi\nTom: Hello\nAnn: Hey\nMia: a\nTom: b\nAnn: c", 3, 6),
        ("Note: be careful.\nRemember: be kind.\nLessons begin at 10:30 and end\nat 12:00.", 0, 0),
        ("See https://a.example/b\nSee https://a.example/c", 0, 0),
        ("Host: Hello.\nWelcome.\nHost: Goodbye.", 1, 2),
        (LONG, 0, 0),
    ],
)
def test_speakers(text, speakers, turns):
    labels = shape.turn_labels(text)
    assert (len(set(labels)), len(labels)) == (speakers, turns)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("**Why is it blue?**\nBecause of the light.\n\n**How far is it?**\nVery far away.", 2),
        ("Q: Why is it blue?\nA: Because of the light.", 1),
        ("1. Why is it blue? Because of the light and the air.", 1),
        ("### Why?\n\nBecause of the light.\n### And then?\nIt gets dark again.", 2),
        ("Why is it blue?\nHow far is it?\nWho knows?", 0),
        ("It is blue. Why? Because of the light.", 0),
        ("Why is it blue?", 0),
    ],
)
def test_question_answer_pairs(text, pairs):
    assert shape.question_answer_pairs(text) == pairs


def test_expectations_are_met_or_named():
    wanted = style.read_expectations(
        {"headings": {"least": 1}, "speakers": {"most": 1}, "title": True, "third_person": True}, "x"
    )
    assert style.unmet(f"# Title\n\n{LONG}", wanted, "en") == ()
    assert style.unmet("Mia: I?\nTom: you!\nMia: me?\nTom: you!", wanted, "en") == (
        "speakers", "headings", "title", "third_person",
    )  # fmt: skip
    assert style.unmet("a b c", style.read_expectations({"characters": {"least": 6}}, "x")) == ("characters",)
    assert style.unmet("x", style.read_expectations({"last_turn_words": {"least": 3}}, "x"), turns=["a", "no sir"])
    assert not style.unmet(
        "x", style.read_expectations({"last_turn_words": {"least": 3}}, "x"), turns=["a", "no, dear sir"]
    )
    ending = style.read_expectations({"closing_question": True}, "x")
    assert style.unmet("Why? " + LONG * 3, ending) and not style.unmet(LONG * 3 + " Why?", ending)


def test_pronouns_in_quotation_marks_and_unknown_languages_do_not_count():
    assert style.pronoun_share('She said "I want you" and left.', "en") == 0
    assert style.pronoun_share("I want you", "en") == pytest.approx(2 / 3)
    assert style.pronoun_share("Ich will dich", "de") == pytest.approx(2 / 3)
    assert style.pronoun_share("I want you", "xx") == style.pronoun_share("I want you", None) == 0


def test_facts_that_may_be_asked_for():
    found = facts.facts_of(
        "On 3 May 1873 about 7,200,000 people came to Vienna and New York; 2.5 million in the United States."
    )
    assert found == {
        *(Fact("number", number) for number in ("3", "1873", "7200000", "2500000")),
        Fact("month", "5"),
        *(Fact("place", place) for place in ("Vienna", "New York", "United States")),
    }


@pytest.mark.parametrize(
    "text",
    [
        "Take 500 mg with 20 ml of it at 60 °C and 12 volts.",
        "Call 555 013 2277 or 5550132277, at 10:30, see https://a.example/17 or mail 3@b.example.",
        "1. Wait\n2. Listen",
        "Gregor Pallinek may march on.",
        "Paris Pallinek and Sofia Elderberry live next door.",
    ],
)
def test_facts_that_may_not_be_asked_for(text):
    assert facts.facts_of(text) == set()


def test_thousands_set_apart_by_spaces_are_a_number():
    assert facts.facts_of("470 000 personnes") == {Fact("number", "470000")}
    assert facts.facts_of("7 200 000 000 people") == {Fact("number", "7200000000")}


def test_facts_are_kept_in_words_and_inflected():
    asked = facts.facts_of("In Bosnia 12 people met in April 1996, with 1,000 guests from Switzerland.")
    assert facts.kept_facts(asked, "Twelve Bosnian friends met in April of 1996 with a thousand Swiss.") == {
        fact for fact in asked if fact.value != "Switzerland"
    }
    assert facts.kept_facts(asked, "Some people met.") == set()
    assert facts.kept_facts(facts.facts_of("Es waren 3 aus Polen."), "Drei kamen aus Polen.") == facts.facts_of(
        "3 Polen"
    )


def test_how_many_facts_are_enough():
    asked = {Fact("number", str(n)) for n in range(20)}
    some = lambda n: set(list(asked)[:n])  # noqa: E731
    assert facts.enough(asked, some(5)) and not facts.enough(asked, some(4))
    assert facts.enough(some(4), some(2)) and not facts.enough(some(4), some(1))
    assert facts.enough(some(1), set()) and facts.enough(set(), set()) and not facts.enough(some(2), set())


FRENCH = "La mairie rappelle que les chiens doivent rester en laisse dans le parc pendant tout le mois de juin."


def test_mixed_languages():
    assert off_language(f"{LONG}\n\n{FRENCH}", "en")
    assert not off_language(f'{LONG} {LONG}\n{LONG} {LONG}\n{LONG}\nA sign says "chiens en laisse".', "en")
    assert not off_language("Det er en god dag i dag, og vi går en tur i skogen med hunden vår.", "da")
    assert not off_language(FRENCH, None) and not off_language(FRENCH, "und") and not off_language(FRENCH, "fr")


@pytest.mark.parametrize(
    "text", ["We went home because the rain was so", "He opened the door,", "天气很好，", "and so on and on and then -"]
)
def test_broken_ends(text):
    assert wording.ends_abruptly(text)


@pytest.mark.parametrize(
    "text",
    [LONG, "“So be it.”", "What now?", "See you soon", "- one of the many items in a list", "天气很好。", "", "**Yes!**",
     "Der Rest ist Schweigen …", "วันนี้อากาศดีมากและเราไปเดินเล่นกัน", "(With thanks to all of those who helped.)"],
)  # fmt: skip
def test_whole_ends(text):
    assert not wording.ends_abruptly(text)


def test_copied_run():
    source = " ".join(f"w{n}" for n in range(60))
    own = " ".join(f"v{n}" for n in range(200))
    assert wording.copied_run(source, source) == 60 and wording.copied_run(own, source) == 0
    assert wording.copies(f"{own} {' '.join(source.split()[:30])}", source)
    assert not wording.copies(f"{own} {' '.join(source.split()[:29])} {own}", source)


def test_styles_and_seeds_of_attempts():
    for document in ("doc-0", "doc-1", "doc-2"):
        tried = [style_of_attempt(0, document, attempt).name for attempt in range(1, 13)]
        assert tried[0] == draw_style(0, document).name and sorted(tried) == sorted(STYLE_NAMES)
        assert tried == [style_of_attempt(0, document, attempt).name for attempt in range(1, 13)]
    assert len({style_of_attempt(0, f"doc-{n}", 2).name for n in range(100)}) == 12
    with pytest.raises(ValueError, match="attempt 13: there are styles for the attempts 1 to 12"):
        style_of_attempt(0, "doc-0", 13)
    seeds = [seed_of_attempt(7, attempt) for attempt in range(1, 6)]
    assert seeds[0] == 7 and len(set(seeds)) == 5 and all(0 <= seed < 2**63 for seed in seeds)
