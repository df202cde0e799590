"""The language identifier on ordinary, short, empty and broken text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrasers.language import identify_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The weather will be fine tomorrow, and we shall walk to the river.", "en"),
        ("Das Wetter wird morgen schön,\nund wir gehen zum Fluss.", "de"),
        ("Demain il fera beau et nous irons au bord de la rivière.", "fr"),
        ("Завтра будет хорошая погода, и мы пойдём к реке.", "ru"),
        ("明日は天気が良いので、川まで歩きます。", "ja"),
    ],
)
def test_languages(text, language):
    found, probability = identify_language(text)
    assert found == language and 0.5 < probability <= 1.0


@pytest.mark.parametrize("text", ["", " \n\t", "12345 +-*/", "\0\0\0"])
def test_nothing_to_tell_from(text):
    assert identify_language(text) == ("und", 0.0)


def test_line_ends_are_spaces():
    text = "Ein kurzer Satz. Noch ein Satz auf Deutsch."
    assert identify_language(text.replace(" ", "\n")) == identify_language(text)


@given(st.text(alphabet=st.characters(exclude_categories=[])) | st.binary().map(lambda b: b.decode("latin-1")))
def test_never_crashes(text):
    language, probability = identify_language(text)
    assert language and 0.0 <= probability <= 1.0


def test_lone_surrogates_and_nul():
    assert identify_language("The \ud800 weather is \0 fine today, my friend.")[0] == "en"
