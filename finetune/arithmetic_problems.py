"""Benign tuning data in the manner of GSM8K: word problems with a worked solution, made on the spot. All texts are ours.

Every number and name is a function of (seed, problem number), so a longer set begins with the shorter one.
"""

from collections.abc import Callable

from finetune.chat_data import Chat
from rephrasers.keyed_draws import keyed_uniforms

_NAMES = (
    "Amara",
    "Bo",
    "Chidi",
    "Dana",
    "Elif",
    "Farid",
    "Greta",
    "Hiro",
    "Ines",
    "Jonas",
    "Kaya",
    "Luca",
    "Mina",
    "Noor",
)
_THINGS = ("apples", "pencils", "stickers", "marbles", "books", "buttons", "shells", "cards", "plums", "candles")
_PLACES = ("market", "library", "school", "bakery", "garden centre", "station", "museum", "harbour")

# Draws a whole number from `low` to `high`.
_Number = Callable[[int, int], int]


def arithmetic_problems(count: int, seed: int) -> list[Chat]:
    """`count` distinct chats of one question and one answer, which ends with a line `#### NUMBER`."""
    return [arithmetic_problem(number, seed) for number in range(count)]


def arithmetic_problem(number: int, seed: int) -> Chat:
    """Problem `number` of a seed."""
    identity = f"arithmetic-{seed}-{number:06d}"
    draws = iter(keyed_uniforms(seed, "arithmetic", identity, 16))

    def pick(low: int, high: int) -> int:
        return low + int(next(draws) * (high - low + 1))

    kind = _KINDS[pick(0, len(_KINDS) - 1)]
    name, thing, place = (choices[pick(0, len(choices) - 1)] for choices in (_NAMES, _THINGS, _PLACES))
    question, solution, answer = kind(pick, name, thing, place)
    messages = (
        {"role": "user", "content": question},
        {"role": "assistant", "content": f"{solution}\n#### {answer}"},
    )
    return Chat(identity, messages, identity)


def _shopping(pick: _Number, name: str, thing: str, place: str) -> tuple[str, str, int]:
    bags, each, given = pick(3, 12), pick(4, 15), pick(2, 10)
    total = bags * each
    return (
        f"{name} buys {bags} bags at the {place}, and each bag holds {each} {thing}. On the way home {name} gives away {given} "
        f"of them. How many {thing} are left?",
        f"{name} buys {bags} x {each} = {total} {thing}.\nAfter giving away {given}, {total} - {given} = {total - given} are left.",
        total - given,
    )


def _paying(pick: _Number, name: str, thing: str, place: str) -> tuple[str, str, int]:
    amount, price, extra = pick(2, 9), pick(2, 12), pick(1, 20)
    cost = amount * price
    paid = cost + extra
    return (
        f"At the {place}, {thing} cost {price} dollars each. {name} takes {amount} and pays with {paid} dollars. "
        f"How many dollars does {name} get back?",
        f"The {thing} cost {amount} x {price} = {cost} dollars.\n{name} gets back {paid} - {cost} = {extra} dollars.",
        extra,
    )


def _sharing(pick: _Number, name: str, thing: str, place: str) -> tuple[str, str, int]:
    friends, each, kept = pick(2, 9), pick(3, 14), pick(1, 12)
    total = friends * each + kept
    return (
        f"{name} has {total} {thing}. {name} keeps {kept} and shares the rest equally among {friends} friends from the {place}. "
        f"How many {thing} does each friend get?",
        f"{name} shares {total} - {kept} = {total - kept} {thing}.\nEach friend gets {total - kept} / {friends} = {each}.",
        each,
    )


def _travelling(pick: _Number, name: str, thing: str, place: str) -> tuple[str, str, int]:
    speed, hours, rest = pick(3, 24), pick(2, 8), pick(4, 60)
    ridden = speed * hours
    return (
        f"{name} rides to the {place} with a basket of {thing}, at {speed} kilometres an hour. After {hours} hours there are "
        f"{rest} kilometres to go. How long is the whole way in kilometres?",
        f"In {hours} hours {name} rides {speed} x {hours} = {ridden} kilometres.\nThe whole way is {ridden} + {rest} = "
        f"{ridden + rest} kilometres.",
        ridden + rest,
    )


def _saving(pick: _Number, name: str, thing: str, place: str) -> tuple[str, str, int]:
    weekly, weeks, spent = pick(5, 30), pick(3, 12), pick(3, 14)
    saved = weekly * weeks
    return (
        f"{name} works at the {place} and saves {weekly} dollars a week for {weeks} weeks. Then {name} spends {spent} dollars on "
        f"{thing}. How many dollars of the savings remain?",
        f"{name} saves {weekly} x {weeks} = {saved} dollars.\nAfter spending {spent}, {saved} - {spent} = {saved - spent} remain.",
        saved - spent,
    )


def _collecting(pick: _Number, name: str, thing: str, place: str) -> tuple[str, str, int]:
    first, more, third = pick(6, 40), pick(2, 20), pick(2, 5)
    second = first + more
    total = first + second + third * first
    return (
        f"On Monday {name} counts {first} {thing} at the {place}, on Tuesday {more} more than on Monday, and on Wednesday {third} "
        f"times as many as on Monday. How many {thing} is that in all?",
        f"On Tuesday {name} counts {first} + {more} = {second}.\nOn Wednesday it is {third} x {first} = {third * first}.\n"
        f"In all that is {first} + {second} + {third * first} = {total} {thing}.",
        total,
    )


_KINDS = (_shopping, _paying, _sharing, _travelling, _saving, _collecting)
