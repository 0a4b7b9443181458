"""
Answers that are numbers: with --task=numbers one is right if it is the same number, in whatever way it is written.

    same_number("$1,234.50", "2469/2")  ->  True
"""

import re
from fractions import Fraction

import curriculum

LONGEST = 1000  # characters of a number, and
LARGEST = 9999  # its power of ten: so that 1e999999999 takes no memory; what is beyond is compared as text
SIGNS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")  # hyphens, dashes, minus signs
SLASHES = dict.fromkeys(map(ord, "\u2044\u2215"), "/")  # of a fraction, and of a division
UNITS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "%": "percent"}
# words that make another number of the one before them: 2 million, 3 halves, 2 and a half, 3 fifths, 2nd, 5 squared
CHANGES = re.compile(
    r"""dozen|half|halve|third|quarter|squared|cubed|lakh|lac|crore|k|mn|mio|bn|tn|mrd|st|nd|rd|th
        |(hundred|thousand|\w*illion|\w*illiard)(th)?
        |(four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w+teen|\w+tie)th""",
    re.VERBOSE,
)
DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"  # a comma is a thousands separator, or the text is no number
NUMBER = re.compile(
    rf"""(?P<minus>[+-]?)\s?(?P<currency>[$€£¥]?)\s?(?P<minus2>-?)
         (?: (?P<over>{DIGITS})/(?P<under>{DIGITS})
           | (?P<whole>{DIGITS}|(?=\.[0-9])) (?:\.(?P<part>[0-9]*))? (?:e(?P<power>[+-]?[0-9]+))? )
         (?P<unit>\s*% | [^\W\d_]{{2,}}(?:[ ]\D*)? | \s+[^\W\d_]\D* | ) (?<!\.)\.?""",
    re.VERBOSE | re.IGNORECASE,
)


def read_number(text):
    """(the exact value of a text that is one number, its units, words in the singular); None if it is none."""
    found = NUMBER.fullmatch(text.strip().translate(SIGNS | SLASHES)) if len(text) <= LONGEST else None
    if not found or (found["minus"] and found["minus2"]):
        return None
    units = re.findall(r"[^\W\d_]+|[%$€£¥]", f"{found['currency']} {found['unit']}".lower())
    units = [UNITS.get(word) or word.removesuffix("s") or word for word in units]
    power = int(found["power"] or 0)
    over, under = (found[name].replace(",", "") if found[name] else "0" for name in ("over", "under"))
    if any(map(CHANGES.fullmatch, units)) or abs(power) > LARGEST or (found["under"] and not int(under)):
        return None
    if found["under"]:
        value = Fraction(int(over), int(under))
    else:
        whole, part = (found["whole"] or "").replace(",", ""), found["part"] or ""
        value = Fraction(int(whole + part)) * Fraction(10) ** (power - len(part))
    return (-value if "-" in (found["minus"], found["minus2"]) else value), units


def same_number(answer, right):
    """Whether two answers (texts, or None) are equal, as texts or as numbers.

    Numbers are compared exactly, whatever their length. Seen through are thousands separators, signs of any kind,
    fractions, powers of ten, a currency, a percent sign or a word after the number, so that $18, 18 dollars and 18 are
    equal, and $18 per hour, too. But 18 dollars and 18 cents are not, nor 25% and 0.25, nor 1,2 and 12.
    """
    if answer is None or right is None:
        return False
    a, b = read_number(answer), read_number(right)
    if not a or not b:
        return answer == right
    return a[0] == b[0] and all(unit == other for unit, other in zip(a[1], b[1]))


class Task(curriculum.Task):
    def is_right(self, answer, expected):
        return same_number(answer, expected)
