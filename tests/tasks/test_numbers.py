"""
When two answers are the same number.   python -m pytest tests/tasks/test_numbers.py

Each test names the mistake that it would catch.
"""

import random
import time
from decimal import Decimal
from fractions import Fraction

import pytest

from config import TrainConfig
from curriculum import Task
from tasks.numbers import read_number, same_number


@pytest.mark.parametrize(
    "one, other",
    [
        ("72", "72.0"), ("72.", "72"), (".5", "0.50"), ("007", "7"), ("-0", "0"), ("+3", "3"), ("1e3", "1000"),
        ("2.5E-1", "1/4"), ("1,234,567", "1234567"), ("1,234.50", "2469/2"), ("1,000/2,000", ".5"),
        ("$18", "18"), ("€ 18", "18.00"), ("-$18", "-18"), ("$-18", "-18"), ("$18.", "18 dollars"), ("25%", "25"),
        ("25 %", "25 percent"), ("18 dollars", "18"), ("3 red apples.", "3"), ("5kg", "5"), ("1 apple", "1 apples"),
        ("18 dollars per hour", "$18"), ("7 m/s", "7"), ("8 s", "8"),
        ("5 months", "5"), ("3 baths", "3"), ("2 points", "2 points."), ("6 teeth", "6"),
        ("\u22123", "-3"), ("\u20133", "-3"), ("\uff0d3.0", "-3"), ("1\u20442", ".5"), ("1/2", "0.5"), ("-6/4", "-1.5"),
        ("12345678901234567890", "12345678901234567890.0"), ("1e999", "10e998"), ("1e-400", "10e-401"), (" 8\n", "8"),
    ],
)  # fmt: skip
def test_the_same_number_written_otherwise(one, other):
    assert same_number(one, other) and same_number(other, one) and one != other


@pytest.mark.parametrize(
    "one, other",
    [
        ("12345678901234567890", "12345678901234567891"), ("9007199254740993", "9007199254740992"),  # equal as floats
        ("1e999", "1e998"), ("1e999", "inf"), ("1e-400", "0"), ("0.1", "0.1000000000000000055511151231257827"),
        ("1/3", "0.3333333333333333"), ("1,2", "12"), ("1,2", "1.2"), ("1,23,456", "123456"), ("0,123", "123"),
        ("1234,567", "1234567"), ("1,234567", "1234567"), ("1,2345", "12345"), ("18 dollars", "18 cents"),
        ("$18", "€18"), ("25%", "0.25"), ("2 million", "2"), ("2 and a half", "2"), ("3 dozen", "3"), ("2nd", "2"),
        ("3 halves", "3"), ("2 thirds", "2"), ("5 millions", "5"),
        ("3 fifths", "3"), ("5 tenths", "5"), ("2 lakh", "2"), ("3 crores", "3"), ("7 hundredths of a mile", "7"),
        ("5 milliards", "5"), ("1 twentieth", "1"), ("5 squared", "5"), ("4 quadrillion", "4"),
        ("5k", "5"), ("3x", "3"), ("1 2", "12"), ("1 1/2", "1.5"), ("1/0", "1/0.0"), ("0/0", "0"), ("1/2/20", "1/40"),
        ("--3", "3"), ("-$-3", "3"), ("3-", "-3"), ("1_000", "1000"), ("0x10", "16"), ("٣", "3"), ("nan", "NaN"),
        ("5:30", "5"), ("5..", "5"), ("8 s", "8 m/s"), ("18 or 19", "18"), ("no 5", "5"), ("", "0"), (".", "0"),
        ("$", "0"), ("e3", "1000"),
        ("1e999999999", "1e999999998"), ("1e999999999", "10e999999998"), ("1e-999999999", "0"), ("x", "X"),
        ("9" * 5000, "9" * 5000 + ".0"), ("1/" + "0" * 900, "1"),
    ],
)  # fmt: skip
def test_other_numbers_and_what_is_no_number(one, other):
    assert not same_number(one, other) and not same_number(other, one)


def test_the_same_text_is_right_and_none_is_wrong():
    """Catches a text that is no number refused, and an answer that is missing taken for right."""
    for text in ("", "72", "1,2", "blue", "1e999999999", "9" * 5000):
        assert same_number(text, text)
    assert not same_number(None, "3") and not same_number("3", None) and not same_number(None, None)


def test_no_number_takes_time_or_memory():
    """Catches a power of ten that is written out, an expression that backtracks, Python's limit of 4,300 digits."""
    began = time.monotonic()
    for text in ("1e999999999", "-1e-999999999999999999999", "9" * 10_000_000, "1," * 500_000, "1" * 999 + "x1",
                 "1,234" * 200, "1 " * 499 + "!", "0." + "0" * 997, "1e9999", "1/" + "7" * 900, "a" * 1_000_000,
                 "1 " + "a " * 490 + "1", "$" * 999, "-" * 999, "1" * 499 + "/" + "1" * 499 + "/"):  # fmt: skip
        same_number(text, text + "0"), same_number(text, "1")
    assert time.monotonic() - began < 1


def test_random_numbers_however_they_are_written():
    """Catches a comma, sign, point or power that is read wrongly: equal if and only if Python's Decimal says so."""
    rng = random.Random(0)

    def write(value):
        """The text of a Decimal in one of many ways."""
        way, sign, digits = rng.randrange(4), "-" if value < 0 else "", f"{abs(value):f}"
        if way == 0:
            digits = f"{abs(value):,f}"
        elif way == 1:
            digits = f"{abs(value):e}"
        elif way == 2:
            over, under = Fraction(abs(value)).as_integer_ratio()
            k = rng.randrange(1, 9)
            digits = f"{over * k}/{under * k}"
        elif "." in digits:
            digits += "0" * rng.randrange(3)
        around = [("", ""), ("", ""), ("$", ""), ("", "%"), ("", " apples"), ("£ ", "."), ("", "kg")]
        before, after = rng.choice(around)
        sign = rng.choice("-\u2212\u2013") if sign else rng.choice(["", "", "+"])
        return sign + before + digits + after

    for _ in range(5000):
        number = Decimal(rng.randrange(-(10 ** rng.randrange(1, 19)), 10 ** rng.randrange(1, 19))).scaleb(
            -rng.randrange(6)
        )
        assert read_number(write(number))[0] == Fraction(number)
        near = number + Decimal(rng.choice([-1, 1])).scaleb(-rng.randrange(9))
        one, other = write(number), write(near)
        assert not same_number(one, other), (one, other)


def test_random_texts():
    """Catches tracebacks, rules that are not symmetric, and a value that another reader does not see."""
    rng, n_numbers = random.Random(1), 0
    for _ in range(30_000):
        texts = ["".join(rng.choices("0123456789..,,//e-+$% ax\u2212\n", k=rng.randrange(7))) for _ in range(2)]
        rule = same_number(*texts)
        assert rule == same_number(*texts[::-1]) and (rule or texts[0] != texts[1])
        for text in texts:
            found = read_number(text)
            n_numbers += found is not None
            plain = text.strip().replace("\u2212", "-")
            if found and "/" not in plain and "ee" not in plain and not set(plain) & set("$%ax, \n"):
                assert found[0] == Fraction(Decimal(plain.removesuffix("."))), text
            elif not found and not set(plain) & set(",_ \n"):
                with pytest.raises((ValueError, ZeroDivisionError)):
                    Fraction(plain)
    assert n_numbers > 3000


@pytest.mark.parametrize(
    "text, answer",
    [
        ("1+1\n### 2", "2"), ("### 1\n### 2 ", None), ("### ### ### 2", None), ("#### 2", "2"),
        ("###", ""), ("no mark # 3", None), ("### 1,2", "1,2"),
        ("### 12", "12"), ("### 1,234", "1234"), ("### 1,234,567.5", "1234567.5"), ("### 1,2345", "1,2345"),
        ("###a, b,", "a, b,"),
    ],
)  # fmt: skip
def test_read_answer(text, answer):
    """Catches an answer that is guessed after several marks, and commas that disappear where they belong to it."""
    assert Task(TrainConfig(answer_format="### {}"), None).read_answer(text) == answer
