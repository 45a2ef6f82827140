"""The verifier: it reads the value that a text says or none, all of GSM8K and nothing wrong as right, and no text can hurt it."""

import ast
import gc
import json
import operator
import os
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsf.lab import data
from rsf.lab.tasks import answers
from rsf.lab.tasks.answers import read, verify

READ = {
    # after ####
    "#### 42": 42,
    "####42": 42,
    "####\n42": 42,
    "so 7 * 6 = 42\n#### 42\n\nIs there more? 7": 42,
    "#### **42**": 42,
    '#### "42"': 42,
    "#### 42.": 42,
    "#### 42,": 42,
    "#### 42\r\n": 42,
    "#### 007": 7,
    "#### 42 apples": 42,
    "#### 42 apples in total.": 42,
    "#### 42 apples. That is all.": 42,
    "#### 42 minutes!": 42,
    "#### 42 (since x = 7)": 42,
    "#### 42 apples (rounded up from 41.6)": 42,
    "#### 42, since 6 * 7 = 42": 42,
    "#### 42 cm": 42,
    "#### 42cm": 42,
    "#### 42 km/h": 42,
    "#### $42/hour": 42,
    "#### 42°C": 42,
    # an expression before it
    "#### 5 + 6 = 11": 11,
    "#### 5+6=11": 11,
    "#### $5 + $6 = $11": 11,
    "#### 2 * (3 + 4) = 14": 14,
    "#### 5 x 3 = 15": 15,
    "#### 5 × 3 = 15": 15,
    "#### 5 apples + 6 apples = 11 apples": 11,
    "#### 3*4 = 12*2 = 24": 24,
    "#### 2^3 = 8": 8,
    "#### x = 5": 5,
    "#### Total cost = $5": 5,
    "#### x = 5 + 6 = 11": 11,
    # signs, thousands, currency, percent, decimals
    "#### -5": -5,
    "#### \u22125": -5,
    "#### \u20135": -5,
    "#### $-5": -5,
    "#### -$5": -5,
    "#### +5": 5,
    "#### 1,234": 1234,
    "#### 1,234,567.50": Fraction("1234567.5"),
    "#### 1\u202f234\u202f567": 1234567,
    "#### 1\u00a0234": 1234,
    "#### 1'234": 1234,
    "#### 1’234": 1234,
    "#### $1,234.50.": Fraction("1234.5"),
    "#### \u20ac7": 7,
    "#### 7 €": 7,
    "#### 7$": 7,
    "#### US$7": 7,
    "#### 7 USD": 7,
    "#### 25%": 25,
    "#### 25 %": 25,
    "#### 25 percent": 25,
    "#### 2.50": Fraction(5, 2),
    "#### .5": Fraction(1, 2),
    "#### -.5": Fraction(-1, 2),
    # fractions
    "#### 3/4": Fraction(3, 4),
    "#### 3\u20444": Fraction(3, 4),
    "#### 12 / 4": 3,
    "#### 1 1/2": Fraction(3, 2),
    "#### -1 1/2 hours": Fraction(-3, 2),
    r"#### $\frac{3}{4}$": Fraction(3, 4),
    # LaTeX
    r"so \boxed{42}": 42,
    r"so $\boxed{42}$.": 42,
    r"\[\boxed{42}\]": 42,
    r"The answer is \(\boxed{42}\).": 42,
    r"**\boxed{42}**": 42,
    "\\boxed{\n42\n}": 42,
    r"\boxed{42} apples": 42,
    r"\boxed{\dfrac{3}{4}}": Fraction(3, 4),
    r"\boxed{1\frac{1}{2}}": Fraction(3, 2),
    r"\boxed{42\text{ apples}}": 42,
    r"\boxed{\text{42}}": 42,
    r"\boxed{5\ \text{cm}}": 5,
    r"\boxed{5\,\text{km}}": 5,
    r"\boxed{-\frac{1}{2}}": Fraction(-1, 2),
    r"\boxed{\$1{,}234}": 1234,
    r"\boxed{1\,234}": 1234,
    r"\boxed{25\%}": 25,
    r"\boxed{6 \times 7 = 42}": 42,
    r"\boxed{x = -3}, not 5": -3,
    # words, where #### is missing or not yet followed by a number
    "The answer is 42, not 7.": 42,
    "The final answer is: $1,000.": 1000,
    "The final answer is $42$. I hope it is correct.": 42,
    "The answer is therefore 12.": 12,
    "The answer is 5 + 6 = 11.": 11,
    "The answer is: 5 + 6 = 11": 11,
    "The answer is 11. Check: 11 - 6 = 5.": 11,
    "The answer is **42 apples**.": 42,
    "**Answer:** 42": 42,
    "Answer:\n42": 42,
    "<answer>42</answer> Check: 40 + 3 = 43": 42,
    "ANSWER: -3 (see above, 4)": -3,
    "#### Step 2: add\nThe answer is 8.": 8,
    "#### 2. Calculate 6 * 7\n#### 42": 42,
    "#### The answer is 5": 5,
    # several that agree, or of which the last is of a higher kind
    "#### 42\n#### 42": 42,
    "The answer is 41.\n#### 42": 42,
    "The answer is 5 per box. How many are in 3? 15.\nCheck that.\n#### 15": 15,
    # reasoning is not the answer
    "<think>so the answer is 5</think> In total it is 42.": 42,
    "<think>#### 5</think>\n#### 42": 42,
    "so it is 5, or rather 6</think>\n#### 42": 42,
    "<Thinking>5</Thinking>42": 42,
    # nor is what follows the first one in a text that runs on
    "#### 42\n\nQuestion: 3 + 4?\nAnswer: #### 7": 42,
    "The answer is 42.\n\nQ: What is 3 + 4?\nA: The answer is 7.": 42,
    "The answer is 42.\n\n**Problem 2.** What is 3 + 4?\n#### 7": 42,
    "\\boxed{42}\n\nUser: 3 + 4?\n\\boxed{7}": 42,
    "#### 42\n\n### Instruction:\nAdd 3 and 4.\n\n### Response:\n#### 7": 42,
    "#### 42\n\nTom has 3 apples and gets 4. How many are these?\n3 + 4 = 7\n#### 7": 42,
    "#### 42<|im_end|>\n<|im_start|>user\n3 + 4?\n#### 7": 42,
    "Question: 3 + 4?\nAnswer: 7": 7,
    # without a mark the last number
    "42": 42,
    "In total it is 42.": 42,
    "10 - 5 = 5": 5,
    "= 42": 42,
    "so x = 5": 5,
    "She sold 48+24 = <<48+24=72>>72 clips.": 72,
    "Therefore, Tom has **11** apples.": 11,
    "That makes $1,234.50.": Fraction("1234.5"),
    "A: 18": 18,
    "(-3)": -3,
    "the result is -3": -3,
    "costs Rs.500": 500,
    "a total of 3/4": Fraction(3, 4),
    "It is 1 1/2 hours": Fraction(3, 2),
    "The box holds 80.\nThree children came.": 80,
}
# what is not read, and what it says: None for no single number
UNREAD = {
    "": None,
    "nothing": None,
    "####": None,
    "so 42 ####": 42,
    "forty-two": 42,
    "#### five (5)": 5,
    "#### 5 (five)": 5,
    "#### 5 or 6": None,
    "#### 4\nNo, wait.\n#### 5": 5,
    "The answer is 5. Wait, it is 6.": 6,
    "The answer is 5.\nNo, it is 6.": 6,
    "#### 42\n#### 7": None,
    "#### 42\nThe answer is 43.": None,
    "#### 12 #### 13": None,
    "#### 5\n6": None,
    r"\boxed{5} or \boxed{6}": None,
    "The answer is 41. The answer is 42.": None,
    "The answer is not 5.": None,
    "I don't think the answer is 5.": None,
    "If the answer is 5, then x is 7.": None,
    "The wrong answer is 5.": None,
    "The answer is 42.\n\nHow many is 3 + 4?\n#### 7": 42,
    "The total is 42.\n\nQuestion: 3 + 4?\nAnswer: #### 7": 42,
    "The total is 42.\n\nQ: 3 + 4?\nA: 7": 42,
    "<think>#### 42 perhaps": None,
    "<answer>5 or 6</answer>": None,
    "#### 1. Find the cost of 7": None,
    "Answer: 3 dogs came. Each has 4 legs. So 12.": 12,
    "| Answer: | 42 |": 42,
    # LaTeX and algebra are for a library that is made for them
    r"\boxed{\frac12}": Fraction(1, 2),
    r"\boxed{\frac{-1}{2}}": Fraction(-1, 2),
    r"\boxed{\frac{3.5}{2}}": Fraction(7, 4),
    r"\boxed{\frac{1,000}{2}}": 500,
    r"\boxed{\cfrac{1}{2}}": Fraction(1, 2),
    r"\boxed{\frac{1}{2}3}": None,
    r"\boxed{5}^2": 25,
    r"\boxed{5} \times 10^3": 5000,
    r"\boxed{5}00": None,
    r"\boxed{5\text{0}}": None,
    r"\boxed{2\sqrt{3}}": None,
    r"\boxed{{42}}": 42,
    r"\boxed{2\boxed{5}}": None,
    r"\boxed{42": 42,
    r"\boxed{(5, 6)}": None,
    "#### 2x = 10": 5,
    "#### x + 3 = 8": 5,
    "#### 11 = 5 + 6": 11,
    "#### 5 + 6 = 11 + 3": None,
    # without a mark: ranges, products, times, powers, lists, measures of two units, words after it
    "10-5": 5,
    "from 3\u20135": None,
    "from 5 to 7": None,
    "temperatures of 5 and -3": None,
    "price * 3": None,
    "price *3": None,
    "#### 5*": None,
    "5°C to 10°C": None,
    "between 5' and 6'": None,
    r"\boxed{\frac{1}{2}\frac{1}{3}}": Fraction(1, 6),
    r"\boxed{3\text{ or }4}": None,
    r"\boxed{5 \text{ dozen}}": 60,
    "It is 5 (6 with tax)": None,
    "1. Add them.\n2. Then subtract.": None,
    "It takes 3 hours, 30 minutes.": Fraction(7, 2),
    "It is 5. So she has seven.": 7,
    "5 apples, then more.\n#### \u0661\u0662": 12,
    "0, 1, 2, 3": None,
    "It is 5, if x = 2": None,
    "(5) and then (6)": None,
    "($5)": -5,
}


@pytest.mark.parametrize("text, number", READ.items(), ids=[repr(text)[:40] for text in READ])
def test_the_value_that_a_text_says_is_read(text, number):
    assert read(text) == number and isinstance(read(text), Fraction)


@pytest.mark.parametrize("text", UNREAD, ids=[repr(text)[:40] for text in UNREAD])
def test_what_is_doubtful_is_not_read(text):
    assert read(text) is None


FORMS = [
    *("#### {}", "####{}", "so 3 * 4 = 12\n#### {}", "#### x = {}", "#### 2 + 3 = {}", "#### **{}**"),
    *("\\boxed{{{}}}", "So $\\boxed{{{}}}$.", "The answer is {}.", "The answer is: {}", "Answer: {}\n"),
    *("**Answer:** {}", "the final answer is {}", "<answer>{}</answer>", "So the total is {}.", "That makes {}"),
    *("Total = {}", "She has {} left.", "A: {}", "{}", "**{}**"),
]  # fmt: skip
# what says another number than its 5 (or 1, or 10), or no single one
OTHERS = """\
powers and functions: 5² | 5⁻¹ | 5^2 | 5^{2} | 5**2 | 5! | 5!! | √5 | ∛5 | 5√2 | sqrt(5) | f(5) | 3(5) | (5)6 | (2)(5) | 5(6) | 5π | 5₂
powers of ten: 5e3 | 5E3 | 5e-3 | 5.0e3 | 5×10³ | 5x10^3 | 5*10^3 | 5·10^3 | 5×7 | 5*7 | 5·7 | 5∙7 | 5⋅7 | 5÷7 | 5//7 | 5%3
multiples: 5k | 5K | 5M | 5B | 5T | 5bn | 5mn | 5.6M | $5M | $5k | $5bn | €5m | £5m | $5MM | 5MUSD | 5 million | 1.5 million | 5 thousand | 5 hundred | 5 dozen | 5 billion | 5 trillion | 5 k | 5 K | 5 M | 5 B | 5 mil | 5 grand | 5 lakh | 5 tens | 5 sixes | $5 million | $5.2 billion | a dozen | 5 (million) | 5 (in thousands)
algebra: 5x | 5y | 5n | 5i | 5pi | 5ab | 5a5 | A5 | 5A | B-5 | -x=5 | 2x=5 | 3x=5 | x^2=5 | x/2=5 | x+1=5 | x>5 | x<5 | x>=5 | x<=5 | x!=5 | x≠5 | x≈5
numerals: 5½ | 5¼ | ½5 | ½ | ٥ | ５ | ۵ | ५ | 五 | Ⅴ | ⑤ | ₅ | 5٣ | 5\u0301 | 0x5 | 0b101 | 0o5 | 101₂
ranges: 5-7 | 5–7 | 5—7 | 5~7 | 5..7 | 5...7 | 5…7 | 5:6 | 5:30 | 5/6/7 | 5,6 | 5;6 | 5|6 | 5&6 | (5,6) | [5,6] | 5%-6% | $5-$6 | -5-6 | 5+7 | 5 or 6 | 5 or six | 5 and 6 | 5 and six | 5 to 6 | 5 to six | 5 - 6 | 5 – 6 | 5 — 6 | between 5 and 6 | from 5 to 6 | 5 through 9 | 5, 6 | 5, six | 5; 6 | 5 : 6 | 5% to 6% | 5 (or 6) | 5 (6 if Tom counts)
limits: ±5 | ~5 | ≈5 | ≥5 | ≤5 | <5 | >5 | 5+ | 5- | 5? | 5... | 5… | 5.. | |-5| | #5 | №5 | @5 | --5 | +-5 | ++5 | 5/0 | 5/ | about 5 | around 5 | roughly 5 | approx. 5 | nearly 5 | at least 5 | at most 5 | more than 5 | less than 5 | over 5 | under 5 | up to 5 | 5 or so | 5 or more | not 5 | no 5 | 5 etc. | 5 ... | 5 if x = 2 | 5 unless 6
marks: 5_000 | 5'000'0 | 5.000.000 | 5.000,00 | 5,00 | 5,0 | 5,00,000 | 5,0000 | 1.2.3 | 0,123 | 12,34,56 | 1,5
times: 5h30 | 5h30m | 5m30s | 5'6" | 5°30' | 5:00pm | 5pm | 5am | 5PM | 5th | 1st | 2nd | 2020-05-05 | 05/05/2020 | 5kg300 | 5 pm | 5 p.m. | 5 PM | 5 o'clock | 5 o’clock | 12 noon | January 5 | Jan. 5 | 5 January | May 5 | 5 May 2020 | 5 hours 30 minutes | 5 hours and 30 minutes | 5 h 30 min | 5 ft 6 in | 5 feet, 6 inches | 5 dollars and 30 cents | 5 lbs. 6 oz. | 5 in. by 7 in. | the 5th | 5 th
mixed: 5 and a half | 5 & a half | 5 ½ | 5 halves | 5 and two thirds | 1 3/2 | 5 6 | 5 000 | 5 00 | 1 000 000 | 5 1/2 1/2 | 1-1/2 | half of 5 | twice 5 | two times 5 | twenty 5
products: 5 x 10 | 5 × 10 | 5 * 10 | 5 . 10 | 5 by 10 | 5 by ten | 5 times ten | 5 times 10 | 5 over 7 | 5 divided by 7 | 5 divided by two | 2 (5) | 2 x | 5 ^ 2 | 5 ** 2 | 5 ² | 5 squared | 5 cubed | 5 factorial | 5 to the power of 3 | 5 to the 3rd | 5 choose 2 | 5 mod 3 | the square root of 5 | sqrt 5 | log 5 | 5 x
signs: - 5 | negative 5 | minus 5 | 5 plus 7 | 5 plus two | 5 minus two | 5 less than six | 5 more than six | 20 - 5 | 5 below zero | $(5) | ($5)
shares: 5% of 20 | 20% of 5 | 5 percent of 20 | 5 out of 10 | 3 of 5 | 1 in 5 | 5 remainder 2 | 5 R2 | 5 base 7 | 101 in binary
equations: x = 5, y = 6 | x = 5 and y = 6 | x = 5 or 6 | x + 3 = 5 | 5 = 2x | 5 = 3 + 2 | 5 < 6 | √x = 5 | log x = 5 | 1/x = 5
"""
OTHERS = dict(line.split(": ", 1) for line in OTHERS.splitlines())
OTHERS = {kind: texts.split(" | ") for kind, texts in OTHERS.items()}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_number_inside_another_is_not_read_whatever_stands_around_it(kind):
    found = {form.format(text): read(form.format(text)) for text in OTHERS[kind] for form in FORMS}
    assert {text: number for text, number in found.items() if number is not None} == {}
    assert len(found) == len(set(OTHERS[kind])) * len(FORMS)
    assert all(read(form.format(5)) == 5 for form in FORMS)  # it is not the form that is not read


def test_code_in_a_completion_is_never_run(tmp_path):
    target = tmp_path / "made"
    assert (
        read(f"#### __import__('pathlib').Path({str(target)!r}).touch() or 7") != 42 and not target.exists()
    )
    source = Path(answers.__file__).read_text(encoding="utf-8")
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec", "compile", "__import__"}


PIECES = [
    *("9", "1,", "1 ", "1/", "1 1/", "-", "$-", "= ", "1=", "a =", "#### ", "answer is ", "answer:", "\\frac{1"),
    *("\\boxed{", "<<", ".", " ", "*", "\n", "(1", "x", "5²", "1a", "a'", "aa-", "1+", "x = 1 + 1 = ", "?"),
    *("<think>", "</think>", "\\boxed{1}", "\\boxed{1} or ", "\\text{", "{", "}", "answer is 1 not ", "Q: 1\n"),
    *("answer is 1 (a ", "answer is a", "#### 1\n", "don't ", "not a ", "\n# ", "1'000'", "\u00a0", "1 hundred "),
]  # fmt: skip
HEADS = ["", "#### ", "answer is 1", "\\boxed{a"]


@pytest.fixture
def alone():
    """The objects that other tests left are not walked by the collector: what is timed is the reader."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_of_a_hundred_thousand_characters_takes_long(piece, alone):
    for head in HEADS:
        text = head + piece * (10**5 // len(piece)) + "\n5"
        started = time.thread_time()
        read(text), answers.rationale(text)
        assert time.thread_time() - started < 0.9, head


EXACT = settings(deadline=None, derandomize=True)
NUMBERS = st.fractions(max_denominator=10**6).filter(lambda value: len(str(value)) < 40)
WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="0123456789#\\-/,.=$%\u2044\u2013"), max_size=40
)


SPEECH = st.lists(
    st.sampled_from(["So", "Tom", "now", "has", "a", "total", "of", "pears,", "is:", "It", "all."])
)


@EXACT
@given(NUMBERS, WORDS, st.sampled_from(["{}\n#### {}", "{} the answer is {}", "{} \\boxed{{{}}}"]))
def test_any_number_written_out_after_a_mark_is_read_back_exactly(number, words, form):
    assert read(form.format(words.replace("answer", ""), number)) == number


@EXACT
@given(NUMBERS, SPEECH)
def test_any_number_at_the_end_of_plain_speech_is_read_back_exactly(number, words):
    assert read(" ".join([*words, "makes", f"{number}."])) == number


@EXACT
@given(NUMBERS, st.text(max_size=30), st.text(max_size=3), st.sampled_from(["#### {}{}{}", "{}{}{}", "The answer is {}{}{}."]))  # fmt: skip
def test_what_is_read_begins_and_ends_where_the_text_says(number, after, before, form):
    """Whatever stands around a number, it is that number, one that stands around it, or none."""
    found = read(form.format(before, number, after))
    around = re.sub("[,'’]", "", f"{before} {after}")
    assert found is None or abs(found) == abs(number) or any(map(str.isdigit, around))


@EXACT
@given(st.decimals(-(10**12), 10**12, places=2))
def test_any_sum_of_money_with_commas_is_read_back_exactly(amount):
    assert read(f"#### ${amount:,}") == Fraction(amount) == read(f"that makes ${amount:,}.")


@EXACT
@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text):
    assert isinstance(read(text + " #### " + text), Fraction | None)


def test_a_reward_is_one_for_the_same_number_and_zero_else():
    right = ["... #### 1,200", "#### 3/4", "#### 3/4", "#### 7"]
    given_ = ["#### 1200.00", "#### 0.75", "#### 0.750001", "no number"]
    assert verify(["?"] * 4, given_, right, other=range(4)) == [1.0, 1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"no number can be read in the data set's own answer 'seven'"):
        verify(["?"], ["7"], ["seven"])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        verify(["?"] * 2, ["7"] * 2, ["7"])


SEVEN = [
    "it is 7",
    [{"role": "assistant", "content": "it is 7"}],
    [{"role": "assistant", "content": "#### 8"}, {"role": "assistant", "content": "#### 7"}],
    [{"role": "assistant", "content": [{"type": "text", "text": "#### 7"}]}],
    [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "The answer "}, {"type": "text", "text": "is 7."}],
        }
    ],
    [
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "text": "8"}, {"type": "output_text", "text": "7"}],
        }
    ],
    [{"role": "assistant", "content": ["#### 7"]}],
]
NOTHING = [
    None,
    "",
    [],
    [{"role": "assistant", "content": None}],
    [{"role": "assistant", "tool_calls": []}],
    [{"role": "assistant", "content": [{"type": "image", "image": 7}]}],
    [{"role": "assistant", "content": [{"type": "text", "text": None}]}],
]


def test_messages_and_numbers_are_verified_as_texts_are():
    for own in ("#### 7", 7, 7.0, Fraction(7), "7", SEVEN[1]):
        assert verify(["?"] * 7, SEVEN, [own] * 7) == [1.0] * 7
        assert verify(["?"] * 7, NOTHING, [own] * 7) == [0.0] * 7
    assert verify(["?"] * 3, ["-0.5", "#### -1/2", "0.5"], [-0.5] * 3) == [1.0, 1.0, 0.0]
    for own in (None, float("nan"), True):
        with pytest.raises(ValueError, match="no number can be read"):
            verify(["?"], ["7"], [own])


def with_other_number(answer, change):
    """An answer whose last line says another number."""
    steps, _, own = answer.rpartition("#### ")
    return f"{steps}#### {change(Fraction(own.replace(',', '')))}"


def all_is_well(problems):
    """Each own answer is right, and wrong is everything that only looks like it."""
    prompts, own = problems["question"], problems["answer"]
    plain = [
        Fraction(text.split("####")[1].strip().replace(",", "")) for text in own
    ]  # another reading, written apart
    assert [read(text) for text in own] == plain and verify(prompts, own, own) == [1.0] * len(own)
    assert verify(prompts, list(map(answers.rationale, own)), own) == [1.0] * len(own)
    for change in (
        lambda x: x + 1,
        lambda x: x - 1,
        lambda x: 10 * x + 1,
        lambda x: f"1{x}",
        lambda x: f"{x}1",
    ):
        wrong = [with_other_number(text, change) for text in own]
        assert not any(verify(prompts, wrong, own))


def real(file):
    """A file of the folder with the real data, or no test."""
    there = Path(os.environ.get("RSF_DATA", "nowhere")) / "gsm8k" / file
    if not there.exists():
        pytest.skip(f"RSF_DATA names no folder with gsm8k/{file}")
    return there


def test_the_whole_of_gsm8k_verifies_itself_and_no_other_number_does():
    real("test.parquet")
    problems = data.load("gsm8k", source="local")
    assert len(problems.train) == 7473 and len(problems.test) == 1319
    for part in (problems.train, problems.test):
        all_is_well(part)


def test_the_verdicts_on_four_models_are_those_of_the_authors():
    """5,276 solutions of the data set's repository (example_model_solutions.jsonl), as they are and with a mark."""
    rows = map(json.loads, real("example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines())
    judged = [(row["ground_truth"], one) for row in rows for one in row.values() if isinstance(one, dict)]
    own, solutions = [own for own, _ in judged], [one["solution"] for _, one in judged]
    verdicts = [float(one["is_correct"]) for _, one in judged]
    marked = [re.sub(r"\nA: ?(.*)\Z", r"\n#### \1", text) for text in solutions]
    assert len(judged) == 4 * 1319 and 0.2 < sum(verdicts) / len(verdicts) < 0.6
    assert verify(own, solutions, own) == verify(own, marked, own) == verdicts


MINI = data.load("gsm8k", source="embedded")
ROWS = [*MINI.train, *MINI.test]


def test_the_embedded_problems_verify_themselves_too():
    assert (
        len(MINI.train) == 44 and len(MINI.test) == 22 and MINI.train.column_names == ["question", "answer"]
    )
    for part in (MINI.train, MINI.test):
        all_is_well(part)


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value_of(node):
    """The exact value of a sum that was parsed but not run."""
    if isinstance(node, ast.Expression):
        return value_of(node.body)
    if isinstance(node, ast.UnaryOp):
        return -value_of(node.operand)
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    return OPERATORS[type(node.op)](value_of(node.left), value_of(node.right))


def test_every_step_of_the_embedded_answers_is_computed_right():
    steps, ends = 0, 0
    for row in ROWS:
        notes = re.findall(r"<<([^=<>]*)=([^<>]*)>>([^ ]*)", row["answer"])
        assert notes and row["answer"].count("<<") == len(notes), row["question"]
        for sum_, result, shown in notes:
            assert value_of(ast.parse(sum_, mode="eval")) == Fraction(result) == read(shown), (
                sum_,
                result,
                shown,
            )
        steps += len(notes)
        ends += Fraction(notes[-1][1]) == read(row["answer"])
    assert steps > 2.5 * len(ROWS) and ends >= len(ROWS) - 2  # two answers round in their last step


def test_no_two_embedded_problems_share_a_run_of_seven_words_and_the_card_counts_them():
    seen = {}
    for number, row in enumerate(ROWS):
        words = re.findall(r"[a-z0-9']+", row["question"].lower())
        for run in {tuple(words[i : i + 7]) for i in range(len(words) - 6)}:
            assert seen.setdefault(run, number) == number, run
    card = (data.EMBEDDED / "README.md").read_text(encoding="utf-8")
    assert "66 word problems" in card and "44 to train and 22 to test" in card


class Words:
    """A tokenizer with a chat template that can be read."""

    chat_template = "yes"

    def apply_chat_template(self, chat, tokenize, add_generation_prompt):
        return (
            "|".join(turn["role"][0] + ":" + turn["content"] for turn in chat) + "|a:" * add_generation_prompt
        )


def test_a_prompt_has_the_instruction_the_examples_and_the_question_in_the_models_own_form():
    shots = [("1 + 1?", "It is <<1+1=2>>2.\n#### 2")]
    assert (
        answers.prompt("2 + 2?", Words(), shots)
        == f"s:{answers.INSTRUCTION}|u:1 + 1?|a:It is 2.\n#### 2|u:2 + 2?|a:"
    )
    plain = type("Plain", (), {"chat_template": None})()
    assert answers.prompt("2 + 2?", plain) == f"system: {answers.INSTRUCTION}\nuser: 2 + 2?\nassistant: "
