"""Support mails for one business line, "billing" of a subscription company.

The mails are graded by what a reader must do to find the intent. On the *usual* levels a word
decides (`keyword`), a negation picks one of two (`negation`), two facts are looked up together
(`combination`), two amounts are compared (`quantity`), or a wish is replaced and perhaps restored
(`change`). On the two *unfamiliar* levels wishes are laid one on another and taken off again in
several steps (`undo`), or the amounts pick one of two wishes (`condition`).
Labels mean the same on every level; only the mix drifts.

    >>> generate(2, seed=1) == generate(2, seed=1)
    True
    >>> {ticket.level for ticket in generate(200, seed=1)} <= set(LEVELS)
    True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

LABELS: tuple[str, ...] = (
    "refund",
    "invoice",
    "payment",
    "cancellation",
    "upgrade",
    "downgrade",
    "fraud",
    "account",
)
"""The intents, in the order of `assets/labels/billing.txt`."""

LEVELS = ("keyword", "negation", "combination", "quantity", "change", "undo", "condition")


def _mix(*shares: float) -> Mapping[str, float]:
    return MappingProxyType(dict(zip(LEVELS, shares, strict=True)))


USUAL_MIX = _mix(0.42, 0.20, 0.14, 0.12, 0.11, 0.005, 0.005)
"""Share of each level, in the order of `LEVELS`, in the traffic that exits are calibrated on."""
DRIFTED_MIX = _mix(0.15, 0.07, 0.05, 0.04, 0.04, 0.30, 0.35)
"""Share of each level once the traffic has drifted fully."""
TRAINING_MIX = _mix(0.05, 0.11, 0.13, 0.15, 0.14, 0.18, 0.24)
"""Share of each level in what the full model learns from: it has seen every form."""

SHORTEST_WORDS = 9
"""Shorter mails get fillers until they are practically unique."""
LONG_WORDS = 34
"""Mails of this length get no further filler, which keeps all of them below about 55 words."""


@dataclass(frozen=True)
class Ticket:
    """One mail, its true intent (one of `LABELS`) and the level that made it."""

    text: str
    label: str
    level: str


WISHES: Mapping[str, tuple[str, ...]] = {
    "refund": ("a refund", "my money back", "a full refund"),
    "invoice": ("an invoice", "a copy of the bill", "a new invoice"),
    "payment": ("a payment", "a bank transfer", "a late payment"),
    "cancellation": ("a cancellation", "an end to my contract", "a quick cancellation"),
    "upgrade": ("an upgrade", "a bigger plan", "an instant upgrade"),
    "downgrade": ("a downgrade", "a smaller plan", "a simple downgrade"),
    "fraud": ("a fraud report", "a stolen card", "a case of fraud"),
    "account": ("my account", "my login", "my account details"),
}

PLAN_FACTS: Mapping[str, tuple[str, ...]] = {
    "running": ("my plan is active", "my plan is running well", "we still use our plan"),
    "ended": ("my plan ended in {month}", "my plan is over", "our plan stopped in {month}"),
    "never": ("i never ordered a plan", "we have no plan with you", "i never signed up"),
    "full": ("my plan is at its limit", "our plan is full", "we hit the limit of our plan"),
}

CHARGE_FACTS: Mapping[str, tuple[str, ...]] = {
    "taken": ("one charge went through", "you charged my card once", "my bank shows one charge"),
    "failed": ("my card was declined", "the charge failed", "my bank refused the charge"),
    "twice": ("i was charged twice", "my bank shows two charges", "you charged my card twice"),
}

HANDLING: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("running", "taken"): "invoice",
        ("running", "failed"): "payment",
        ("running", "twice"): "refund",
        ("ended", "taken"): "refund",
        ("ended", "failed"): "account",
        ("ended", "twice"): "fraud",
        ("never", "taken"): "fraud",
        ("never", "failed"): "cancellation",
        ("never", "twice"): "account",
        ("full", "taken"): "upgrade",
        ("full", "failed"): "downgrade",
        ("full", "twice"): "cancellation",
    }
)
"""The desk's handling table: what a plan fact and a charge fact mean together."""

AMOUNTS = (20, 40, 60, 80)
"""Few and far apart: the pilot is about exits, and not about arithmetic."""
CHARGED = ("you charged {n} euros", "the bank took {n} euros", "i paid {n} euros")
AGREED = ("we agreed {n} euros", "the price is {n} euros", "the fee is {n} euros")
USED = ("i used {n} gigabytes", "we need {n} gigabytes", "our team uses {n} gigabytes")
COVERED = ("the limit is {n} gigabytes", "we get {n} gigabytes", "the plan has {n} gigabytes")

ASKS = (
    "i am writing about {wish}",
    "i would like to ask about {wish}",
    "please help me with {wish}",
    "this is about {wish}",
    "can you look into {wish}",
    "i need help with {wish}",
)
CHOICES = (
    "this is not about {other}, it is about {wish}",
    "i do not mean {other}, i mean {wish}",
    "i need {wish}, not {other}",
    "it is about {wish} and not about {other}",
    "please do not send {other}, only {wish}",
    "{wish} is what i need, {other} is not",
)
CHANGES = (
    "no, make it {wish}",
    "change that to {wish}",
    "i changed my mind, now {wish}",
    "rather {wish}",
)
UNDOS = ("undo that", "undo my last change", "no, back to what i said before that")
CONDITIONS = (
    "if that is too much, {wish}, otherwise {other}",
    "if it is above that, i need {wish}, if not, {other}",
    "{wish} in case it is too much, otherwise {other}",
    "{other}, but if that is too much, {wish}",
)
GREETINGS = ("hello", "hi", "dear team", "good morning", "hello {name}", "hi {name}")
CLOSINGS = ("thanks", "thank you, {name}", "regards, {name}", "best wishes, {name}", "{name}")
FILLERS = (
    "i am a customer since {month}",
    "my ticket is {ticket}",
    "i use the {product} at home",
    "i tried to call you on {day}",
    "my colleague {name} uses the {product}",
    "we got the {product} in {month}",
    "please answer before {day}",
    "i live in {city}",
)
NAMES = """
    anna ben carla david emma felix greta hugo ida jonas kenji lena marco nina oscar paula quinn
    rosa sven tara umar vera wanda yuki zoe aiko bruno clara
"""
MONTHS = """
    january february march april may june july august september october november december
"""
DAYS = "monday tuesday wednesday thursday friday saturday sunday"
CITIES = "berlin osaka lyon madrid oslo porto vienna dublin kyoto prague"
SLOTS: Mapping[str, tuple[str, ...]] = {
    "name": tuple(NAMES.split()),
    "month": tuple(MONTHS.split()),
    "day": tuple(DAYS.split()),
    "product": ("music box", "video box", "cloud drive", "news reader", "photo book", "radio"),
    "city": tuple(CITIES.split()),
}


def generate(count: int, *, seed: int, drift: float = 0.0) -> list[Ticket]:
    """`count` mails, a function of `seed` alone; `drift` moves the mix of levels.

    `drift` 0 is `USUAL_MIX`, 1 is `DRIFTED_MIX`, and between them shares are interpolated.
    """
    if not 0.0 <= drift <= 1.0:
        raise ValueError(f"drift is {drift}; it is a share and must lie in [0, 1]")
    mix = {level: (1 - drift) * USUAL_MIX[level] + drift * DRIFTED_MIX[level] for level in LEVELS}
    return draw(count, mix, Random(seed))


def draw(count: int, mix: Mapping[str, float], random: Random) -> list[Ticket]:
    """`count` mails whose levels are drawn with the shares in `mix`."""
    levels = random.choices(list(mix), weights=list(mix.values()), k=count)
    return [_ticket(level, random) for level in levels]


def _ticket(level: str, random: Random) -> Ticket:
    body, label = _BODIES[level](random)
    text = body
    wanted_fillers = random.choice((0, 1, 1, 2))
    while _words(text) < SHORTEST_WORDS or (wanted_fillers > 0 and _words(text) < LONG_WORDS):
        filler = _filled(FILLERS, random)
        text = f"{filler}. {text}" if random.random() < 0.5 else f"{text}. {filler}"
        wanted_fillers -= 1
    if random.random() < 0.6:
        text = f"{_filled(GREETINGS, random)}, {text}"
    if random.random() < 0.6:
        text = f"{text}. {_filled(CLOSINGS, random)}"
    return Ticket(text=text, label=label, level=level)


def _words(text: str) -> int:
    return len(text.split())


def _filled(phrases: tuple[str, ...], random: Random, **given: str) -> str:
    """One of `phrases`, its open slots filled by chance except those in `given`."""
    slots = {slot: random.choice(words) for slot, words in SLOTS.items()}
    slots["ticket"] = f"#{random.randrange(1000, 10000)}"
    return random.choice(phrases).format_map(slots | given)


def _keyword(random: Random) -> tuple[str, str]:
    label = random.choice(LABELS)
    return _filled(ASKS, random, wish=random.choice(WISHES[label])), label


def _negation(random: Random) -> tuple[str, str]:
    label, other = random.sample(LABELS, 2)
    wish, rejected = random.choice(WISHES[label]), random.choice(WISHES[other])
    return _filled(CHOICES, random, wish=wish, other=rejected), label


def _combination(random: Random) -> tuple[str, str]:
    (plan, charge), label = random.choice(list(HANDLING.items()))
    facts = [_filled(PLAN_FACTS[plan], random), _filled(CHARGE_FACTS[charge], random)]
    random.shuffle(facts)
    if random.random() < 0.4:
        facts.insert(1, _filled(FILLERS, random))
        return ". ".join(facts), label
    return random.choice((" and ", ", ", ". ", " but ")).join(facts), label


def _amounts(random: Random) -> tuple[str, bool, bool]:
    """A real and an expected amount, whether they are money, and whether the real one is higher."""
    real, expected = random.sample(AMOUNTS, 2)
    money = random.random() < 0.5
    real_phrases, expected_phrases = (CHARGED, AGREED) if money else (USED, COVERED)
    first = _filled(real_phrases, random, n=str(real))
    second = _filled(expected_phrases, random, n=str(expected))
    joint = random.choice((" and ", ", ", ". ", " but "))
    return f"{first}{joint}{second}", money, real > expected


def _quantity(random: Random) -> tuple[str, str]:
    body, money, above = _amounts(random)
    more, less = ("refund", "payment") if money else ("upgrade", "downgrade")
    return body, more if above else less


def _condition(random: Random) -> tuple[str, str]:
    """Two wishes, of which the amounts pick one."""
    body, _, above = _amounts(random)
    label, other = random.sample(LABELS, 2)
    wish, otherwise = random.choice(WISHES[label]), random.choice(WISHES[other])
    choice = _filled(CONDITIONS, random, wish=wish, other=otherwise)
    return f"{body}. {choice}", label if above else other


def _stacked(steps: int, random: Random) -> tuple[str, str]:
    """Wishes laid one on another and taken off again; the top one counts."""
    stack = [random.choice(LABELS)]
    parts = [_filled(ASKS, random, wish=random.choice(WISHES[stack[-1]]))]
    for _ in range(steps):
        if len(stack) > 1 and random.random() < 0.6:
            stack.pop()
            parts.append(_filled(UNDOS, random))
        else:
            stack.append(random.choice([label for label in LABELS if label != stack[-1]]))
            parts.append(_filled(CHANGES, random, wish=random.choice(WISHES[stack[-1]])))
    return ". ".join(parts), stack[-1]


def _change(random: Random) -> tuple[str, str]:
    return _stacked(random.choice((1, 2)), random)


def _undo(random: Random) -> tuple[str, str]:
    return _stacked(random.choice((2, 3, 4)), random)


_BODIES: Mapping[str, Callable[[Random], tuple[str, str]]] = {
    "keyword": _keyword,
    "negation": _negation,
    "combination": _combination,
    "quantity": _quantity,
    "change": _change,
    "undo": _undo,
    "condition": _condition,
}
