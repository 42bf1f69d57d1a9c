"""Checks the sample sets: layout, balance, duplicates, and every computation. Prints nothing wrong or fails."""

import json
import pathlib
import re
from fractions import Fraction

HERE = pathlib.Path(__file__).parent
EQUATION = re.compile(r"(\d+(?:\.\d+)?(?: [-+*/] \d+(?:\.\d+)?)+) = (\d+(?:\.\d+)?)")


def rows(name):
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def value(expression):
    """Exact value of `a op b op c`, with * and / before + and -."""
    numbers = [Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", expression)]
    operators = re.findall(r" ([-+*/]) ", expression)
    terms = [numbers[0]]
    for operator, number in zip(operators, numbers[1:]):
        if operator == "*":
            terms[-1] *= number
        elif operator == "/":
            terms[-1] /= number
        else:
            terms.append(number if operator == "+" else -number)
    return sum(terms)


def check_choices(name, stem, options, answer, balanced=True):
    items = rows(name)
    assert len({item[stem] for item in items}) == len(items), f"{name}: a {stem} appears twice"
    for item in items:
        assert len(item[options]) == 4 and len(set(item[options])) == 4, item
        assert isinstance(item[answer], int) and 0 <= item[answer] < 4, item
        assert all(text == text.strip() and text for text in [item[stem], *item[options]]), item
    counts = [sum(item[answer] == position for item in items) for position in range(4)]
    assert not balanced or max(counts) - min(counts) <= 1, f"{name}: answer positions {counts}"
    return items


def check_arithmetic(name):
    items = rows(name)
    for item in items:
        *steps, last = item["answer"].split("\n")
        final = re.fullmatch(r"#### (-?\d+)", last)
        assert final and steps, item
        results = []
        for step in steps:
            for expression, result in EQUATION.findall(step):
                assert value(expression) == Fraction(result), (step, value(expression))
                results.append(Fraction(result))
            assert step.count("=") == len(EQUATION.findall(step)), f"not checked: {step}"
        # The last result is the answer, up to the rounding that a question may ask for.
        assert round(results[-1]) == int(final[1]), item
        assert results[-1].denominator == 1 or "ound to the nearest" in item["question"], item
        # No number comes from nowhere: each is in the question, computed before, or a unit's size.
        known = {Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", item["question"])}
        known |= {Fraction(n) for n in (1, 2, 3, 4, 5, 7, 60, 100, 1000)}
        for expression, result in EQUATION.findall("\n".join(steps)):
            used = {Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", expression)}
            assert used <= known, (item["question"], used - known)
            known.add(Fraction(result))
    return items


knowledge = check_choices("knowledge.jsonl", "question", "choices", "answer")
subjects = {item["subject"] for item in knowledge}
assert len(knowledge) >= 60 and len(subjects) >= 10 and len({item["id"] for item in knowledge}) == len(knowledge)
shots = check_choices("knowledge_shots.jsonl", "question", "choices", "answer", balanced=False)
assert not {s["question"] for s in shots} & {k["question"] for k in knowledge}
arithmetic, worked = check_arithmetic("arithmetic.jsonl"), check_arithmetic("arithmetic_shots.jsonl")
assert len({item["question"] for item in arithmetic + worked}) == len(arithmetic) + len(worked)
completion = check_choices("completion.jsonl", "context", "endings", "label")
assert len(arithmetic) >= 40 and len(worked) == 8 and len(completion) >= 40
print(f"{len(knowledge)} questions over {len(subjects)} subjects, {len(arithmetic)} problems, {len(completion)} completions: ok")
