"""The verifier: what it reads from tricky formats, that it reads all of GSM8K and nothing wrong as right, and that no text can hurt it."""

import ast
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

FORMATS = {
    # the last number after the last ####
    "#### 42": 42,
    "####42": 42,
    "####\n42": 42,
    "so 7 * 6 = 42\n#### 42\n\nIs there more? 7": 42,
    "#### 4\nNo, wait.\n#### 5": 5,
    "#### **42**": 42,
    "#### 42.": 42,
    "#### 42 apples": 42,
    "#### 5 + 6 = 11": 11,
    "#### $5 + $6 = $11": 11,
    "#### 2 * (3 + 4) = 14": 14,
    "#### x = 5": 5,
    "#### 42 (since x = 7)": 42,
    "#### 007": 7,
    # signs, thousands, currency, percent, decimals
    "#### -5": -5,
    "#### \u22125": -5,
    "#### \u20135": -5,
    "#### $-5": -5,
    "#### -$5": -5,
    "#### +5": 5,
    "#### 1,234": 1234,
    "#### 1,234,567.50": Fraction("1234567.5"),
    "#### 1\u202f234": 1234,
    "#### $1,234.50.": Fraction("1234.5"),
    "#### \u20ac7": 7,
    "#### 25%": 25,
    "#### 2.50": Fraction(5, 2),
    "#### .5": Fraction(1, 2),
    "#### -.5": Fraction(-1, 2),
    # fractions
    "#### 3/4": Fraction(3, 4),
    "#### 3\u20444": Fraction(3, 4),
    "#### 12 / 4": 3,
    "#### 1 1/2": Fraction(3, 2),
    "#### -1 1/2": Fraction(-3, 2),
    r"#### $\frac{3}{4}$": Fraction(3, 4),
    # LaTeX and words, where #### is missing or nothing follows it
    r"so \boxed{42}": 42,
    r"\boxed{\dfrac{3}{4}}": Fraction(3, 4),
    r"\boxed{42\text{ apples}}": 42,
    r"\boxed{\$1{,}234}": 1234,
    r"\boxed{x = -3}, not 5": -3,
    "The answer is 42, not 7.": 42,
    "The final answer is: $1,000.": 1000,
    "The answer is therefore 12.": 12,
    "The answer is 5 + 6 = 11.": 11,
    "The answer is 11. Check: 11 - 6 = 5.": 11,
    "ANSWER: -3 (see above, 4)": -3,
    "#### Step 2: add\nThe answer is 8.": 8,
    # else the last number of the text
    "10 - 5 = 5": 5,
    "10-5": 5,
    "from 3\u20135": 5,
    "temperatures of 5 and -3": -3,
    "(-3)": -3,
    "so 42 ####": 42,
    "costs Rs.500": 500,
    # nothing, or nothing that can be trusted
    "": None,
    "nothing": None,
    "####": None,
    "forty-two": None,
    "#### 1,5": None,
    "#### 10,00,000": None,
    "#### 1e5": None,
    "#### 5/0": None,
    "#### " + "9" * 51: None,
}


@pytest.mark.parametrize("text, number", FORMATS.items(), ids=[repr(text)[:30] for text in FORMATS])
def test_a_number_is_read_from_any_usual_format_and_from_no_doubtful_one(text, number):
    assert read(text) == number and isinstance(read(text), Fraction | None)


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


PIECES = ["9", "1,", "1 ", "1/", "1 1/", "-", "$-", "= ", "1=", "a =", "#### ", "answer is ", "answer:", "\\frac{1", "\\boxed{", "<<", ".", " ", "*", "\n", "(1", "x"]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("head", ["", "#### ", "answer is", "answer is 1", "\\boxed{"])
def test_no_text_of_a_hundred_thousand_characters_takes_long(piece, head):
    text = head + piece * (10**5 // len(piece))
    started = time.process_time()
    read(text), answers.rationale(text)
    assert time.process_time() - started < 0.9


EXACT = settings(deadline=None, derandomize=True)
NUMBERS = st.fractions(max_denominator=10**6).filter(lambda value: len(str(value)) < 40)
WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="0123456789#\\-/,.=$%\u2044\u2013"), max_size=40
)


@EXACT
@given(NUMBERS, WORDS, st.sampled_from(["{}\n#### {}", "{} the answer is {}", "{} \\boxed{{{}}}", "{} {}"]))
def test_any_number_written_out_is_read_back_exactly(number, words, form):
    assert read(form.format(words.replace("answer", ""), number)) == number


@EXACT
@given(st.decimals(-(10**12), 10**12, places=2))
def test_any_sum_of_money_with_commas_is_read_back_exactly(amount):
    assert read(f"#### ${amount:,}") == Fraction(amount) == read(f"that makes ${amount:,}.")


@EXACT
@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text):
    assert isinstance(read(text + " #### " + text), Fraction | None)


def test_a_reward_is_one_for_the_same_number_and_zero_else():
    right = ["... #### 1,200", "#### 3/4", "#### 3/4", "#### 7", "#### 7"]
    given_ = [
        "#### 1200.00",
        "#### 0.75",
        "#### 0.750001",
        "no number",
        [{"role": "assistant", "content": "it is 7"}],
    ]
    assert verify(["?"] * 5, given_, right, other=range(5)) == [1.0, 1.0, 0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"no number can be read in the data set's own answer 'seven'"):
        verify(["?"], ["7"], ["seven"])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        verify(["?"] * 2, ["7"] * 2, ["7"])


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


def test_the_whole_of_gsm8k_verifies_itself_and_no_other_number_does():
    folder = Path(os.environ.get("RSF_DATA", "nowhere")) / "gsm8k"
    if not folder.is_dir():
        pytest.skip("RSF_DATA names no folder with gsm8k/")
    problems = data.load("gsm8k", source="local")
    assert len(problems.train) == 7473 and len(problems.test) == 1319
    for part in (problems.train, problems.test):
        all_is_well(part)


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
        steps, ends = steps + len(notes), ends + (Fraction(notes[-1][1]) == read(row["answer"]))
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
