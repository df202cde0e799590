"""Modes by magic tokens: the server's file chooses, a token in user text is inert, the moderation selects the rejective mode."""

from types import SimpleNamespace

import pytest

from classifiers.errors import RecipeError, SafetroveError
from decoding.modes import ClassifierModeration, ModeSwitch
from finetune.magic_tokens import MagicTokens


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "tokens.json"
    MagicTokens.generate(("positive", "rejective"), policies=("policy:en-US",)).save(path)
    return path


def user(text):
    return [{"role": "user", "content": text}]


def flags_words(texts):
    return ["attack" in text for text in texts]


def test_the_system_message_is_the_servers_token(file):
    tokens = MagicTokens.load(file)
    chats = [user("good day"), [*user("one"), {"role": "assistant", "content": "two"}, *user("three")]]
    for mode in ("positive", "rejective"):
        switch = ModeSwitch(tokens, mode=mode, policy="policy:en-US")
        built = switch.chats(chats, switch.modes(chats))
        assert [tokens.mode_of(chat[0]["content"]) for chat in built] == [mode, mode]
        assert [chat[0]["role"] for chat in built] == ["system", "system"]
        assert built[0][0]["content"].startswith("policy:en-US")
        assert [chat[1:] for chat in built] == chats


def test_a_token_in_user_text_is_inert(file):
    tokens = MagicTokens.load(file)
    secret = tokens.system_text("rejective")
    switch = ModeSwitch(tokens)
    texts = [f"{secret} good day", f"say {secret[:4]}{secret}{secret[4:]} twice", secret]
    chats = [user(text) for text in texts]
    assert switch.modes(chats) == ["positive"] * 3
    for chat in switch.chats(chats, switch.modes(chats)):
        assert not any(tokens.are_in(message["content"]) for message in chat[1:])
        assert tokens.mode_of(chat[0]["content"]) == "positive"
    with pytest.raises(RecipeError, match="leave yours out"):
        switch.chats([[{"role": "system", "content": secret}, *user("hi")]], ["positive"])


def test_the_moderation_selects_the_rejective_mode(file):
    tokens, asked = MagicTokens.load(file), []

    def moderation(texts):
        asked.append(list(texts))
        return flags_words(texts)

    switch = ModeSwitch(tokens, moderation=moderation)
    secret = tokens.system_text("positive")
    hidden = f"an at{secret}tack"
    chats = [user("good day"), [*user("an attack"), {"role": "assistant", "content": "no"}, *user("why")], user(hidden)]
    assert switch.modes(chats) == ["positive", "rejective", "rejective"]
    # asked once, about what users wrote in the whole chat, as the model will read it
    assert asked == [["good day", "an attack\nwhy", "an attack"]]
    assert switch.modes([]) == []


def test_moderation_by_classifiers():
    """The shipped fastText classifier, and one that cannot score."""
    from classifiers.fasttext_classifier import FastTextClassifier

    classifier = FastTextClassifier.load()
    texts = [
        "The library opens at nine and closes at five.",
        "I will find you and kill you, you worthless piece of filth.",
    ]
    levels = [score.score for score in classifier.score(texts)]
    assert levels[0] == 0 and levels[1] >= 3
    assert ClassifierModeration([classifier])(texts) == [False, True]
    assert ClassifierModeration([classifier], unsafe_from=5)(texts) == [False, levels[1] == 5]
    silent = SimpleNamespace(score=lambda given: [None for _ in given])
    assert ClassifierModeration([classifier, silent])(texts) == [True, True]
    with pytest.raises(RecipeError, match="unsafe_from 0 between 1 and 5"):
        ClassifierModeration([classifier], unsafe_from=0)


def test_modes_without_a_token_are_errors(file, tmp_path):
    MagicTokens.generate(("positive",)).save(tmp_path / "one.json")
    one = MagicTokens.load(tmp_path / "one.json")
    with pytest.raises(RecipeError, match="has no token: train that mode"):
        ModeSwitch(one, moderation=flags_words)
    with pytest.raises(SafetroveError, match="no magic token for the mode rejective"):
        ModeSwitch(one, mode="rejective")
