"""Read the number that an answer ends with, and verify it: exact, safe, and strict about which number counts.

    reward = 1 if the completion's number equals that of the data set's own answer, as fractions, else 0

The number is read, in this order, after the last `####` (GSM8K: Cobbe et al. 2021, arXiv 2110.14168), in the last `\\boxed{}`, after the
last "answer is" or "answer:", and else it is the last one of the text. Nothing that a model wrote is ever evaluated as code.
"""

import re
from fractions import Fraction

INSTRUCTION = "Solve the problem step by step. End with a line of #### and the answer."
DIGITS = 50  # no grade-school number is longer, and Python refuses to read one of thousands
# one spelling for each sign: dashes that stand for a minus, the fraction slash, what LaTeX puts between digits or before a sign
SPELLINGS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2013\ufe63\uff0d", "-"),
    "\u2044": "/",
    "\u2009": "",
    "\u202f": "",
}
SPELLINGS |= {"{,}": ",", "\\,": "", "\\!": "", "\\$": "$", "\\(": " ", "\\[": " "}
SPELLING = re.compile("|".join(map(re.escape, SPELLINGS)))
FRACTION = re.compile(r"\\[dt]?frac\{([0-9]{1,50})\}\{([0-9]{1,50})\}")
PLAIN = r"[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|(?<!\w)\.[0-9]+"
NUMBER = (  # a minus is a sign only where nothing stands before it that it could be subtracted from
    r"(?P<minus>(?<![\w)\]}%.])-)?[$€£¥]?(?P<after>(?<=[$€£¥])-)?"
    rf"(?:(?P<whole>[0-9]+) (?=[0-9]+/[0-9]))?(?P<top>{PLAIN})(?: ?/ ?(?P<bottom>[0-9]+))?"
)
ANYWHERE = re.compile(NUMBER)
# "5 + 6 =" or "x =", and what may stand before a number; possessive (++), so that no text is gone over twice
SUM = r"(?:(?:[A-Za-z]++|[-+*/×÷()$€£¥%0-9., ]++) *+=)*+[\s*_`:(]*+"
AT_ONCE, NEAR = re.compile(r"[\s*_`:(]*+" + SUM + NUMBER), re.compile(r"[^0-9.\n]{0,40}?" + SUM + NUMBER)
LAST = {
    r"####": AT_ONCE,
    r"\\boxed\{": NEAR,
    r"answer(?: is\b|:)": NEAR,
}  # up to the last mark, and how its number follows
LAST = [(re.compile(f".*{mark}", re.DOTALL | re.IGNORECASE), number) for mark, number in LAST.items()]


def read(text):
    """Return the number that a text ends with, as a Fraction, or None.

    After a mark the number must follow: at once after `####`, within a few words after the others; "5 + 6 = 11" there reads 11. A mark
    without one is passed over. Thousands may have commas; currency, percent and units are left out ("25%" reads 25). "3/4", "1 1/2" and
    \\frac{3}{4} are fractions. Not read: number words, "1,5", more than 50 digits, division by zero, powers of ten as in 1e5.
    """
    text = FRACTION.sub(r"\1/\2", SPELLING.sub(lambda found: SPELLINGS[found[0]], text))
    for mark, number in LAST:
        if there := mark.match(text):
            line = re.split(r"[\n}]", text[there.end() :].lstrip(), maxsplit=1)[0]
            if found := number.match(line):
                return _value(found, line)
    found = None
    for found in ANYWHERE.finditer(text):  # noqa: B007 (only the last counts)
        pass
    return found and _value(found, text)


def _value(found, text):
    """Return the Fraction that a match of NUMBER says, None if it says none."""
    whole, top, bottom = found["whole"] or "0", found["top"], found["bottom"] or "1"
    readable = (
        re.fullmatch(r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?(?:\.[0-9]+)?", top)
        and max(map(len, (whole, top, bottom))) <= DIGITS
    )
    if (
        not readable
        or not int(bottom)
        or re.match(r"e[+-]?[0-9]", text[found.end() : found.end() + 3].lower())
    ):
        return None
    value = int(whole) + Fraction(top.replace(",", "")) / int(bottom)
    return -value if found["minus"] or found["after"] else value


def verify(prompts, completions, answer, **columns):
    """Return 1.0 for each completion whose number is that of its answer, else 0.0: a reward function as TRL calls it.

    Parameters
    ----------
    prompts, completions : list of str, or of chats (lists of messages, of which the last one counts)
    answer : list of str
        The data set's own answers, as GSM8K has them.

    Raises
    ------
    ValueError
        An answer of the data set has no number.
    """
    rewards = []
    for completion, own in zip(completions, answer, strict=True):
        if (right := read(own)) is None:
            raise ValueError(f"no number can be read in the data set's own answer {own!r:.200}")
        rewards.append(
            float(read(completion if isinstance(completion, str) else completion[-1]["content"]) == right)
        )
    return rewards


def prompt(question, tokenizer, shots=()):
    """Return the text that asks a model for an answer, in its chat template if it has one; shots: (question, answer) pairs before it."""
    chat = [{"role": "system", "content": INSTRUCTION}]
    for asked, told in shots:
        chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": rationale(told)}]
    chat.append({"role": "user", "content": question})
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return "".join(f"{turn['role']}: {turn['content']}\n" for turn in chat) + "assistant: "


def rationale(answer):
    """Return an answer of GSM8K as one would write it: without its calculator's notes, <<3*4=12>>."""
    return re.sub(r"<<[^<>\n]*+>>", "", answer)
