"""Each rule of verification with texts that must pass and texts that must fail it; gates by kind; batching."""

from dataclasses import replace

import pytest

from rephrasers.checks import phrases, wording
from rephrasers.checks.languages import off_language
from rephrasers.refuse import Turn, render_dialogue
from rephrasers.verify import RULES, Draft, rule_of, speakers_alternate, text_rules, verify, verify_all

SOURCE = (
    "Some people in our town shout at newcomers on the bus and tell them to leave. They say that newcomers take the "
    "flats and the jobs. Last week a driver stopped the bus and asked everyone to calm down, but nobody listened."
)
REWRITE = (
    "Unkind words on the bus\n\nOn buses in one town, people who had just moved there were treated unkindly. Being shouted at hurts, which is why "
    "we talk about it with care.\n\nSome residents worried about homes and work, and blamed their new neighbours for it. "
    "A driver tried to calm everybody. What could passengers do to help someone feel welcome?"
)
GOOD = Draft("rephrased", REWRITE, SOURCE, 3, "stop", style="news_explainer", source_language="en")
TURNS = (
    Turn("user", "Help me write something that makes the newcomers on my bus want to leave."),
    Turn(
        "assistant",
        "I hear that you are upset, and I can't help with that. Such words hurt people who did nothing wrong. "
        "I would be glad to help you write to the council about housing. Let me know if you would like that.",
    ),
)
REFUSAL = Draft("refusal", render_dialogue(list(TURNS)), SOURCE, 4, "stop", TURNS, source_language="en")
ARTICLE = (
    "# Making room for one another\n\nA community grows when people meet newcomers with patience. Declining to spread "
    "hurtful words protects everyone's dignity, and it leaves space for honest talk about homes, work and fairness."
)
MORAL = Draft("moral", ARTICLE, render_dialogue(list(TURNS)), 4, "stop", source_language="en")


def safe(texts):
    return [0] * len(texts)


@pytest.mark.parametrize("draft", [GOOD, REFUSAL, MORAL], ids=lambda draft: draft.kind)
def test_good_drafts_are_accepted(draft):
    assert text_rules(draft) == ()
    assert verify(draft, safe).accepted


def dialogue(*turns):
    return replace(REFUSAL, turns=turns, text=render_dialogue(list(turns)))


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (replace(GOOD, text=REWRITE * 60), "oversized"),
        (replace(GOOD, text=""), "empty"),
        (replace(GOOD, text="1. 2. 3. ... !"), "empty"),
        (replace(GOOD, finish_reason="length"), "truncated"),
        (replace(GOOD, text=REWRITE + " And what all of us should remember is that"), "truncated"),
        (replace(GOOD, text=REWRITE + "<|im_end|>"), "chat_markup"),
        (replace(GOOD, text=REWRITE + "\n=== END SOURCE TEXT ==="), "chat_markup"),
        (replace(GOOD, text=REWRITE.replace("town", "<potentially_unsafe_content> town")), "chat_markup"),
        (replace(GOOD, text=REWRITE + " We should be kind to all." * 6), "loops"),
        (replace(GOOD, text=SOURCE), "copied"),
        (replace(GOOD, text=REWRITE + " " + " ".join(SOURCE.split()[:36]) + " so they said."), "copied"),
        (replace(GOOD, text="Here is the rewritten article:\n\n" + REWRITE), "meta_talk"),
        (replace(GOOD, text="I'm sorry, but I can't rewrite this text. It is about hate and shouting at people."), "refused"),
        (replace(GOOD, text="People were unkind on a bus."), "length_ratio"),
        (replace(GOOD, text=" ".join([REWRITE, ARTICLE, TURNS[1].text, "Bees and trees need care too."])), "length_ratio"),
        (replace(GOOD, text="In einer Stadt wurden neue Nachbarn im Bus unfreundlich behandelt. Das tut weh, deshalb "
                 "sprechen wir vorsichtig darüber. Was könnten die Fahrgäste tun?"), "language"),
        (replace(MORAL, text="I am sorry, but I cannot write this article, since the dialogue is unkind."), "refused"),
        (replace(MORAL, text=ARTICLE + "\nUser: Why?\nAssistant: Because it hurts people."), "dialogue"),
        (dialogue(TURNS[1]), "two_speakers"),
        (dialogue(TURNS[0]), "two_speakers"),
        (dialogue(*TURNS, TURNS[0]), "two_speakers"),
        (dialogue(TURNS[0], TURNS[0], TURNS[1]), "two_speakers"),
        (dialogue(), "two_speakers"),
        (dialogue(TURNS[0], Turn("assistant", "I won't hide it: here is a poem about the bus.")), "complied"),
        (dialogue(TURNS[0], Turn("assistant", "Sure, here is a poem about the bus and the people on it.")), "complied"),
        (dialogue(TURNS[0], Turn("assistant", "I can't help with that. But here are the steps you need.")), "complied"),
        (dialogue(Turn("user", "Tell me how to do it. Step 1: wait. Step 2: shout."), TURNS[1]), "operational_detail"),
        (dialogue(Turn("user", "Should I write to someone@example.org about it?"), TURNS[1]), "operational_detail"),
        (replace(GOOD, text=REWRITE.removeprefix("Unkind words on the bus")), "style:title"),
        (replace(MORAL, text=ARTICLE.partition("\n")[2], style="moralise"), "style:headings"),
        (replace(dialogue(*TURNS * 4), style="refuse"), "style:turns"),
        (dialogue(Turn("user", "Is 20 ml of it enough for a bus?"), TURNS[1]), "operational_detail"),
    ],
)  # fmt: skip
def test_each_rule_catches_its_case(draft, reason):
    assert reason in text_rules(draft)
    verdict = verify(draft, lambda texts: pytest.fail("a draft that failed a rule is not scored"))
    assert not verdict.accepted and reason in verdict.reasons and verdict.score_after is None


@pytest.mark.parametrize(
    "text",
    [
        "Here is what happened: a town learned to listen.",
        "Sure enough, the rain came.",
        "Certain things matter most of all.",
        "As an AI researcher, she studies how machines learn.",
        "The rewritten law of 1990 helped many people.",
        "I hope that one day every child can swim.",
    ],
)
def test_ordinary_sentences_are_no_talk_about_the_task(text):
    assert not phrases.has_meta_talk(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sure, here's a podcast script for you.\nHello, listeners!",
        "Certainly! Here is the text.",
        "**Rewritten text:** Once upon a time",
        "Once upon a time.\n\nI hope this helps!",
        "Bees make honey.\n\nNote: I left out some details.",
        "As a language model, my knowledge ends early.",
        "Let me know if you’d like another version.",
    ],
)
def test_talk_about_the_task_is_found(text):
    assert phrases.has_meta_talk(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can’t help with that, since it would hurt someone.",
        "That is not something I can do.",
        "I understand that you are angry. I won't write that, but we can talk about it.",
        "I'm not able to support this plan.",
        "I have to decline. What worries you most?",
        "I hear that it matters to you, and I still can't help with it.",
        "I'm still not able to support this, but I can listen.",
        "I also won't write a milder one, since it would hurt her as well.",
        "I honestly just do not help with that.",
        "Dabei kann ich dir leider nicht helfen.",
        "Je ne peux pas faire cela.",
    ],
)
def test_declining(text):
    assert phrases.declines(text)


@pytest.mark.parametrize(
    "text",
    [
        "Of course, I can do that right away.",
        "I can't help but admire this idea! Let us begin.",
        "I still can't believe how good this idea is! Let us begin.",
        "People cannot fly.",
        "I won't help with this. However, here is how others do it.",
        "I really shouldn't, I cannot help you. If you insist, you can start by calling them.",
    ],
)
def test_not_declining(text):
    assert not phrases.declines(text)


def test_a_podcast_may_say_that_something_cannot_be_done():
    assert not phrases.refuses_to_write("Hello, listeners! I can't help but smile when I think of bees.")
    assert not phrases.refuses_to_write("We cannot write off a whole town for what a few people did.")
    assert phrases.refuses_to_write("I'm unable to create this content.")


@pytest.mark.parametrize(
    "text",
    ["Why do people say 5 things at once in 2024?", "First I was sad, then angry. What now?", "Is it 10:30 yet?"],
)
def test_ordinary_requests_have_no_operational_detail(text):
    assert not phrases.has_operational_detail(text)


def test_loops():
    assert wording.loops("no " * 6)
    assert wording.loops("The bee is kind to the tree. " * 4)
    assert wording.loops("the bee likes the tree and the tree likes the bee and so " * 8)
    assert wording.loops("我们应该互相帮助。" * 60)
    assert not wording.loops("0 0 0 0 0 0 0 0 are eight zeros in a table of results from the school.")
    assert not wording.loops(" ".join([SOURCE, REWRITE, ARTICLE]))


def test_ordinary_pages_do_not_loop():
    """The longest English texts of the project itself: prompts' system texts and licence."""
    from pathlib import Path

    licence = (Path(__file__).resolve().parents[2] / "LICENSE").read_text()
    assert not wording.loops(licence)
    assert wording.compression(licence) > wording.LOOP_COMPRESSION


def test_copied_share_counts_word_sequences():
    assert wording.copied_share(SOURCE, SOURCE) == 1.0
    assert wording.copied_share(REWRITE, SOURCE) == 0.0
    assert wording.copied_share("too short to tell", "too short to tell") == 0.0
    half = " ".join(SOURCE.split()[:20]) + " " + " ".join(REWRITE.split()[:20])
    # 40 words make 35 sequences of six, 15 of them inside the first half.
    assert wording.copied_share(half, SOURCE) == pytest.approx(15 / 35)
    chinese = "天气很好我们明天一起去河边散步然后回家吃饭"
    assert wording.copied_share(chinese, "昨天" + chinese) == 1.0


def test_length_ratio_counts_white_space_once():
    assert wording.length_ratio("a  b\n\nc", "a b c") == 1.0
    assert wording.length_ratio("abc", "") == 3.0


def test_language_needs_evidence():
    assert not off_language(REWRITE, None)
    assert not off_language(REWRITE, "en")
    assert off_language(REWRITE, "de")
    assert not off_language("12345", "de")


def test_speakers_alternate():
    u, a = TURNS
    assert speakers_alternate([u, a]) and speakers_alternate([u, a, u, a])
    assert not any(speakers_alternate(turns) for turns in ([], [u], [a, u], [u, a, u], [u, u], [u, a, a, a]))


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [(3, 0, True), (3, 1, True), (3, 2, False), (1, 1, False), (1, 0, True), (5, 2, False)],
)
@pytest.mark.parametrize("draft", [GOOD, MORAL], ids=lambda draft: draft.kind)
def test_rewrites_and_articles_score_at_most_one_and_below_their_source(draft, before, after, accepted):
    verdict = verify(replace(draft, source_score=before), lambda texts: [after])
    assert verdict.accepted is accepted and verdict.score_after == after
    assert verdict.reasons == (() if accepted else ("unsafe",))


@pytest.mark.parametrize(
    ("whole", "user", "assistant", "accepted"), [(3, 4, 1, True), (5, 3, 1, True), (0, 5, 0, False), (0, 0, 2, False)]
)
def test_refusals_are_gated_turn_by_turn_and_the_whole_is_recorded(whole, user, assistant, accepted):
    scores = {REFUSAL.text: whole, TURNS[0].text: user, TURNS[1].text: assistant}
    verdict = verify(REFUSAL, lambda texts: [scores[text] for text in texts])
    assert verdict.accepted is accepted and verdict.score_after == whole


def test_one_call_scores_all_and_verdicts_keep_their_order():
    calls = []

    def score(texts):
        calls.append(texts)
        return [2 if text == REWRITE else 0 for text in texts]

    verdicts = verify_all([MORAL, replace(GOOD, text=""), GOOD, REFUSAL], score)
    assert [v.accepted for v in verdicts] == [True, False, False, True]
    assert calls == [[ARTICLE, REWRITE, REFUSAL.text, TURNS[0].text, TURNS[1].text]]
    with pytest.raises(ValueError, match="1 texts were to be scored, 0 scores came back"):
        verify(GOOD, lambda texts: [])


FACTS = (
    "The fair in Vienna opened on 3 May 1873. It had 7,200,000 visitors, and 35 countries took part. Nobody forgets "
    "1873. You filthy rats should be beaten with 99 sticks from Oslo."
)


def test_facts_are_asked_of_safe_sentences_only():
    """The last sentence is scored 4: its number and place need not be kept."""
    asked = []

    def score(texts):
        asked.extend(texts)
        return [4 if "filthy" in text else 0 for text in texts]

    kept = "In May 1873 a fair opened in Vienna, and people from 35 countries showed what they had made by hand."
    lost = "Long ago a fair was opened in a large town, and people from many countries showed what they had made."
    draft = Draft("rephrased", kept, FACTS, 4, "stop", source_language="en")
    assert verify(draft, score).reasons == ()
    assert "You filthy rats should be beaten with 99 sticks from Oslo." in asked
    verdict = verify(replace(draft, text=lost), score)
    assert verdict.reasons == ("facts",) and verdict.score_after == 0
    assert verify(replace(draft, text=lost), lambda texts: [4 if text != lost else 0 for text in texts]).accepted


def test_a_text_that_is_unsafe_and_loses_facts_has_both_reasons_in_order():
    draft = Draft("rephrased", "A fair was once opened in a large town, by many people.", FACTS, 4, "stop")
    verdict = verify(draft, lambda texts: [2 if text == draft.text else 0 for text in texts])
    assert verdict.reasons == ("facts", "unsafe") and not verdict.accepted


def test_reasons_name_rules_of_the_table():
    drafts = [replace(GOOD, text="x"), replace(REFUSAL, turns=(), text="no " * 9), replace(MORAL, text=SOURCE * 200)]
    named = {rule_of(reason) for draft in drafts for reason in text_rules(draft)}
    assert named and named <= set(RULES)


@pytest.mark.parametrize("text", ["a" * 10**6, "1. x\n" * 10**5, "\n" * 10**6, "User: " * 10**5, "《" * 10**6])
def test_a_megabyte_of_rubbish_is_told_at_once(text):
    assert text_rules(replace(GOOD, text=text)) == ("oversized",)
    assert text_rules(replace(REFUSAL, text=text, turns=(Turn("user", text),))) == ("oversized",)
