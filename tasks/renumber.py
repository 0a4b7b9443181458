"""
New numbers for the stories of GSM8K, so that there are many problems of each.

    python prepare_gsm8k.py --source=openai --renumber=40    # each story up to 40 times: docs/gsm8k.md

    before   Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. ...
             <<48/2=24>> <<48+24=72>> 72
    after    Natalia sold clips to 62 of her friends in April, and then she sold half as many clips in May. ...
             <<62/2=31>> <<62+31=93>> 93

A problem can be used if it is known where each number of its steps comes from: it stands in the question, in digits;
or it is the result of an earlier step; or it is a constant with its word in the question, such as the 2 of "half" and
the 7 of "week". The numbers of the question are then drawn anew, and the steps computed again.
"""

import ast
import operator
import random
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import prepare_gsm8k
from config import UserError, counted, option, parse
from data import write_files
from prepare_gsm8k import SOURCES, read_files

# 1,000 is one number, and so is 1.5; in "2nd", ".5" and "3:30" nothing is replaced
NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
FIXED_BEFORE, FIXED_AFTER = re.compile(r"[.:]$"), re.compile(r"(st|nd|rd|th)\b|[:.,][0-9]")
PERCENT = re.compile(r"\s*(%|percent)")
TOKEN = re.compile(r"[0-9]*\.?[0-9]+|[-+*/()]")
LONGEST = 100  # characters of a step; 9 digits of a number
CONSTANTS = {  # what a step may take from elsewhere, and the words that say so
    2: "half twice double doubled two couple pair pairs halves",
    3: "three triple tripled thrice third thirds",
    4: "four quarter quarters quadruple fourth fourths",
    5: "five fifth fifths",
    6: "six",
    7: "seven week weeks weekly",
    8: "eight",
    9: "nine",
    10: "ten",
    11: "eleven",
    12: "twelve dozen dozens year years month months monthly yearly",
    24: "day days daily hour hours",
    30: "month",
    60: "hour hours minute minutes",
    100: "% percent percentage cents",
}
WORDS = {number: {*words.split()} for number, words in CONSTANTS.items()}


@dataclass
class RenumberConfig(prepare_gsm8k.GSM8KConfig):
    out_dir: str = option("data/gsm8k_stories", "where train.json, valid.json, test.json and new.json go")
    renumber: int = option(0, "problems with new numbers from each story, at most", least=1, most=10_000)
    largest: int = option(9_999, "the largest number", least=10, most=10**9)
    operations: int = option(9, "most operations in a step", least=1)
    width: int = option(1, "fewest digits of a number: 07 for 7 with a width of 2", least=1, most=9)
    equations: str = option(
        "none",
        "bare equations: none, to train on besides the stories, or nothing else (in all files)",
        ("none", "mixed", "only"),
    )

    def __post_init__(self):
        if not self.renumber:
            raise UserError("--largest, --operations, --width and --equations belong to --renumber=N")
        if self.source != "openai":
            raise UserError(f"--renumber is for --source=openai, but this is {self.source}")


class Unusable(ValueError):
    """Why a problem cannot be used."""


class Story(NamedTuple):
    """A problem whose numbers can be replaced. Numbers of the question are called n0, n1, ..., results r0, r1, ..."""

    parts: list  # of the question: text, name of a number, text, name, ..., text
    numbers: dict  # {name: whole number} of those that steps use, all different
    percents: set  # names of numbers that are per cent, and at most 100
    fractions: list  # pairs of names, such as those of 3/4, whose first number is the smaller one
    steps: list  # left sides as lists of tokens: operators, constants, names
    trees: list  # the same, parsed


# ---------------------------------------------------------------- from a problem to a story


def split_question(question):
    """The texts and, between them, whole numbers that can be replaced: [text, number, text, ...]."""
    parts, end = [""], 0
    for found in NUMBER.finditer(question):
        before, after = question[: found.start()], question[found.end() :]
        number = found.group().replace(",", "")
        fixed = "." in number or len(number) > 9 or FIXED_BEFORE.search(before) or FIXED_AFTER.match(after)
        parts[-1] += question[end : found.start()]
        end = found.end()
        if fixed or int(number) < 2:  # "1 apple" would need another word with another number
            parts[-1] += found.group()
        else:
            parts += [int(number), ""]
    parts[-1] += question[end:]
    return parts


def split_equation(step):
    """<<48/2=24>> as its left side in tokens and its result; Unusable if it is none, or not in whole numbers."""
    left, equals, result = step.removeprefix("<<").removesuffix(">>").replace(" ", "").partition("=")
    tokens = TOKEN.findall(left)
    whole = "".join(tokens) == left and len(step) <= LONGEST
    if not equals or not whole or not re.fullmatch(r"-?[0-9]*\.?[0-9]+", result):
        raise Unusable("a step is no equation of numbers")
    if "." in left + result:
        raise Unusable("a step is not in whole numbers")
    return tokens, int(result)


def name_operands(tokens, names, words):
    """The tokens of a left side, with numbers replaced by their names; Unusable where one comes from nowhere."""
    named = []
    for token in tokens:
        if not token.isdigit():
            named.append(token)
        elif int(token) in names:
            named.append(names[int(token)])
        elif words & WORDS.get(int(token), set()):
            named.append(token)
        else:
            raise Unusable("a number in a step is neither in the question nor an earlier result")
    return named


def read_story(problem):
    """A problem {"question", "steps", "answer"} as a Story; Unusable says why it is none."""
    if not problem["steps"]:
        raise Unusable("no steps")
    parts = split_question(problem["question"])
    words = {*re.findall(r"[a-z]+|%", problem["question"].lower())}
    names = {number: f"n{i}" for i, number in enumerate(dict.fromkeys(parts[1::2]))}
    steps = []
    for i, step in enumerate(problem["steps"]):
        tokens, result = split_equation(step)
        steps.append(name_operands(tokens, names, words))
        if result in names:
            raise Unusable("a result is equal to another number")
        names[result] = f"r{i}"
    if problem["answer"] != str(result):
        raise Unusable("the last result is not the answer")
    return make_story(parts, names, steps)


def make_story(parts, names, steps):
    """A Story in which numbers that no step uses have become text."""
    used = {token for step in steps for token in step}
    numbers = {name: number for number, name in names.items() if name in used and name.startswith("n")}
    if not numbers:
        raise Unusable("no step uses a number of the question")
    merged = [parts[0]]
    for number, text in zip(parts[1::2], parts[2::2]):
        if names[number] in numbers:
            merged += [names[number], text]
        else:
            merged[-1] += f"{number}{text}"
    percents = {name for name, text in zip(merged[1::2], merged[2::2]) if PERCENT.match(text) and numbers[name] <= 100}
    triples = zip(merged[1::2], merged[2::2], merged[3::2])
    fractions = [(over, under) for over, text, under in triples if text == "/" and numbers[over] < numbers[under]]
    return Story(merged, numbers, percents, fractions, steps, [parse_expression(step) for step in steps])


def parse_expression(tokens):
    """A left side as a tree of operations; Unusable if it is none."""
    try:
        tree = ast.parse("".join(tokens), mode="eval").body
    except SyntaxError:
        raise Unusable("a step is no equation of numbers") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and type(node.op) not in OPERATORS:
            raise Unusable("a step is no equation of numbers")
        if not isinstance(node, (ast.BinOp, ast.Name, ast.Constant, ast.operator, ast.expr_context)):
            raise Unusable("a step is no equation of numbers")
    return tree


# ---------------------------------------------------------------- from a story to problems


def divide(a, b):
    return a // b if a % b == 0 else Fraction(a, b)


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: divide}


def value(node, values):
    """What a tree of operations comes to, exactly; values: {name: number}."""
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](value(node.left, values), value(node.right, values))
    return values[node.id] if isinstance(node, ast.Name) else node.value


def compute(story, numbers, largest):
    """{name: value} of the numbers and all results; None if a result is not whole, or not from 1 to largest."""
    values = dict(numbers)
    for i, tree in enumerate(story.trees):
        try:
            result = value(tree, values)
        except ZeroDivisionError:
            return None
        if result != int(result) or not 1 <= result <= largest:
            return None
        values[f"r{i}"] = int(result)
    return values


def draw_number(old, rng, highest):
    """A number from half to twice the old one, at least 2 and at most highest; tens stay tens."""
    unit = 10 if old % 10 == 0 else 1
    most = min(2 * old, highest) // unit
    least = -(-old // (2 * unit))  # rounded up
    if old > highest:  # then it is drawn from the upper three quarters
        least = most // 4
    least = max(least, 2 if unit == 1 else 1)
    return unit * rng.randint(least, max(least, most))


def draw_numbers(story, rng, largest):
    """{name: new number} for a story; None if they do not fit together."""
    numbers = {}
    for name, old in story.numbers.items():
        numbers[name] = draw_number(old, rng, min(100, largest) if name in story.percents else largest)
    different = len({*numbers.values()}) == len(numbers)
    proper = all(numbers[over] < numbers[under] for over, under in story.fractions)
    return numbers if different and proper else None


def write(story, values, width=1):
    """The problem that a story is with these values, in numbers of at least so many digits: 07 with a width of 2."""
    written = {name: f"{number:0{width}}" for name, number in values.items()}
    question = story.parts[0]
    for name, text in zip(story.parts[1::2], story.parts[2::2]):
        question += written[name] + text
    steps = []
    for i, tokens in enumerate(story.steps):
        left = "".join(written.get(token) or token.zfill(width if token.isdigit() else 0) for token in tokens)
        steps.append(f"<<{left}={written[f'r{i}']}>>")
    return {"question": question, "steps": steps, "answer": written[f"r{len(steps) - 1}"]}


def renumber(story, n, rng, largest, width=1, tries=100):
    """Up to n different problems with new numbers, fewer if they are not found within n * tries draws."""
    found = {}
    for _ in range(n * tries):
        numbers = draw_numbers(story, rng, largest)
        values = compute(story, numbers, largest) if numbers else None
        if values:
            found.setdefault(tuple(values.items()), write(story, values, width))
        if len(found) == n:
            break
    return [*found.values()]


# ---------------------------------------------------------------- from all problems to files


def wording(question):
    """A question without its numbers and spaces: the same for a story with other numbers."""
    return re.sub(r"[\W0-9]+", " ", question).strip().lower()


def n_operations(step):
    return len(re.findall(r"[-+*/]", step.partition("=")[0]))


def find_stories(problems, left_out, operations):
    """(the stories of the problems, no two of them worded alike; Counter of why the other problems are none).

    left_out: questions whose stories must not be used; operations: how many a step may have.
    """
    seen, stories, why = {wording(question) for question in left_out}, [], Counter()
    for problem in problems:
        try:
            if wording(problem["question"]) in seen:
                raise Unusable("the story is in a file that is left out, or was there before")
            story = read_story(problem)
            if max(map(n_operations, problem["steps"])) > operations:
                raise Unusable(f"more than {counted(operations, 'operation')} in a step")
            check_original(story, problem)
        except Unusable as e:
            why[str(e)] += 1
        else:
            seen.add(wording(problem["question"]))
            stories.append(story)
    return stories, why


def check_original(story, problem):
    """Unusable unless a story with its old numbers is the problem that it comes from, but for commas in numbers."""
    values = compute(story, story.numbers, largest=float("inf"))
    if values is None:
        raise Unusable("a result is not a whole number of at least 1")
    again = write(story, values)
    if [split_equation(step) for step in again["steps"]] != [split_equation(step) for step in problem["steps"]]:
        raise Unusable("a step is computed wrongly")


VALID, TEST, NEW_STORIES, NEW_EACH = 500, 1000, 200, 5  # how many; a tenth at most


def make_files(problems, left_out, n, largest, operations, width=1, seed=0):
    """({name: problems}, lines that say what could be used): train, valid and test with n problems a story, and new.

    left_out: questions whose stories must not be used; width: fewest digits of a number.
    """
    rng = random.Random(seed)
    stories, why = find_stories(problems, left_out, operations)
    rng.shuffle(stories)
    n_new = min(NEW_STORIES, len(stories) // 10)
    new = [renumber(story, NEW_EACH, rng, largest, width) for story in stories[:n_new]]
    known = [renumber(story, n, rng, largest, width) for story in stories[n_new:]]
    pool = [problem for found in known for problem in found[1:]]  # the first one of each story is to train on
    rng.shuffle(pool)
    n_test, n_valid = min(TEST, len(pool) // 10), min(VALID, len(pool) // 10)
    train = [problem for found in known for problem in found[:1]] + pool[n_test + n_valid :]
    rng.shuffle(train)
    files = {"train": train, "valid": pool[n_test : n_test + n_valid], "test": pool[:n_test], "new": sum(new, [])}
    return files, account(len(problems), known, new, why)


def account(n_problems, known, new, why):
    """Lines that say how many problems could be used, and why the others could not."""
    why = why + Counter({"no numbers were found that keep the results whole and small enough": (known + new).count([])})
    used = [sum(map(bool, stories)) for stories in (known, new)]
    lines = [f"{sum(used):,} of {n_problems:,} problems can be used, {used[1]:,} of them are kept apart (new.json)"]
    return lines + [f"{count:>7,}  {reason}" for reason, count in why.most_common() if count]


def without_words(problem):
    """A problem as bare equations to be solved, "<<62/2=a>> <<62+a=b>>", with the same steps and answer."""
    names, written = {}, []
    for i, step in enumerate(problem["steps"]):
        left, result = step[2:-2].split("=")
        left = re.sub("[0-9]+", lambda number: names.get(number.group(), number.group()), left)
        names[result] = chr(ord("a") + i)
        written.append(f"<<{left}={names[result]}>>")
    return {**problem, "question": " ".join(written)}


def with_equations(files, only):
    """The same files with bare equations: besides the stories to train on, or instead of all stories."""
    if only:
        return {name: [*map(without_words, problems)] for name, problems in files.items()}
    return {**files, "train": [*files["train"], *map(without_words, files["train"])]}


def main(argv):
    cfg = parse(RenumberConfig, argv, __doc__)
    sources = read_files({**SOURCES["openai"], "valid": SOURCES["aug"]["valid"]}, cfg.from_)
    left_out = [problem["question"] for split in ("test", "valid") for problem in sources[split]]
    files, lines = make_files(sources["train"], left_out, cfg.renumber, cfg.largest, cfg.operations, cfg.width)
    print("\n".join(lines))
    if not all(files.values()):
        raise UserError("too few stories can be used to make train, valid, test and new of them")
    if cfg.equations != "none":
        files = with_equations(files, only=cfg.equations == "only")
    write_files(cfg.out_dir, files)
