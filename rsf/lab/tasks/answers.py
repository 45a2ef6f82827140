r"""Read the number that an answer ends with, and verify it: the value that the text says, or none.

    reward = 1 if the completion's number equals that of the data set's own answer, as fractions, else 0

After a mark, which is `####` (GSM8K: Cobbe et al. 2021, arXiv 2110.14168), `\boxed{}`, "answer is" or
"answer:", the text must have this form, else nothing is read:

    mark  [expression =]  number  [unit words or a bracket]  end of the line or of the sentence

Without a mark the last number counts, unless it is part of a range, product, time, power or list. The text
becomes a string with one letter a token, its *shape* ("#### 42 apples" is "H N w"), and the grammar is a
table of regular expressions on shapes. Nothing that a model wrote is evaluated as code.
"""

import re
from collections import namedtuple
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

INSTRUCTION = "Solve the problem step by step. End with a line of #### and the answer."

# 1. What is taken out, and one spelling for each sign. Of LaTeX only what may stand around a plain number is
# known, and a brace stays behind so that no two numbers grow together; all else remains, and is not read.
SPELLINGS = {
    r"(?is)<(think(?:ing)?|reasoning|thought)>.*?(?:</\1>|\Z)": "",
    r"(?is)\A.*</(?:think(?:ing)?|reasoning|thought)>": "",
    r"(?s)(?:</s>|<eos>|<end_of_turn>|<\|(?:im_end|endoftext|eot_id)\|>).*": "",
    r"<<[^<>\n]*+>>": "",
    r"(?i)(?<!add )(?<!adds )(?<!added )\bup to\b": "at most",
    r"<answer>": "\nanswer: ",
    r"\r|</answer>": "\n",
    r"[\u2212\u2010\u2011\u2013\ufe63\uff0d]": "-",
    r"\u2044": "/",
    r"\\,|[\u2009\u202f]": "\u00a0",  # for every narrow space that may divide thousands
    r"\\!": "",
    r"\{,\}": ",",
    r"\\([$%])": r"\1",
    r"\\times\b": "×",
    r"\\(?:text|textbf|mathrm|mathbf)\{([^{}\\\n]*)\}": r" \1}",
    r"(?<=[0-9])(?=\\[dt]?frac\{)": " ",
    r"\\[dt]?frac\{([0-9]{1,50})\}\{([0-9]{1,50})\}": r"\1/\2}",
    r"\\[)\]]": "}",
    r"\\[(\[;: ]": " ",
    r"[ \t]+": " ",
    r"(?<= )\u00a0|\u00a0(?= )": "",
    r"[ \n]\}": "}",
    r"\\boxed ?\{[ \n]?([^{}\n]*+)\}": r"\\boxed \1}",
}

# 2. The tokens, each with its letter; any other character stands for itself. Names in braces stand for rules.
TOKENS = {
    "Q": r"(?im:^[ #*>]*(?:(?:next|new|another) )?(?:question|problem|exercise|example|instruction|user|human"
    r"|q) *[0-9]*[*_]* *[:.)])|\[INST\]|<\|(?:user|im_start)",  # another question begins
    "H": r"####",
    "B": r"\\boxed(?![A-Za-z])",
    "F": r"(?i:(?:if|whether|wrong|incorrect|doubt|(?:not|[a-z]+n['’]t) [a-z]+)(?: that)?(?: the| my| your)?"
    r"(?: final)? answer is\b)",  # a mark that is not believed
    "A": r"(?i:answer[*_]* +is\b(?! *[:\n])(?:,? +(?:therefore|thus|then|simply|just|indeed|exactly)\b,?)?)",
    "L": r"(?i:answer[*_]*(?: *:| +is *[:\n]))",
    "N": r"(?:[1-9][0-9]{0,2}(?P<mark>[,'’\u00a0])[0-9]{3}(?:(?P=mark)[0-9]{3}){0,15}|[0-9]{1,50})"
    r"(?:\.[0-9]{1,50})?|\.[0-9]{1,50}",
    "U": r"[{numeral}]",  # it is not read
    "D": r"[Nn]o[,.!:]",  # second thoughts
    "money": r"(?:US|A|C)?\$|[€£¥₹]|(?:USD|EUR|GBP)\b|Rs\b\.?",
    "u": r"(?:k[mg]|[cm]m|m[gl]|lbs?|oz|ft|hrs?|mins?|secs?|mph)\b",  # units that may touch a number
    "V": r"(?!{short}\b)[A-ZÀ-ÖØ-Þ]{letter}?(?!{letter}|['’-]{letter})",  # one or two letters, with a capital
    "v": r"(?!{short}\b){letter}{1,2}+(?!{letter}|['’-]{letter})",
    "W": r"[A-ZÀ-ÖØ-Þ](?![A-ZÀ-ÖØ-Þ]){letter}*+(?:['’-]{letter}+)*",  # a word, with a capital
    "w": r"{letter}++(?:['’-]{letter}+)*",
}
LETTERS = {
    word: letter
    for letter, words in {
        # numbers in words, and what multiplies or changes one
        "C": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
        "eighty ninety ones twos threes fours fives sixes sevens eights nines tens twenties "
        "fifties hundred hundreds thousand thousands million millions billion billions trillion "
        "trillions dozen dozens score gross grand lakh lakhs crore crores mil mio mille millionen "
        "bn half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths "
        "seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths "
        "thousandth thousandths twice thrice double triple root sqrt squared cubed power powers "
        "factorial pi sin cos tan log ln exp mod",
        # what makes a number beside it part of something else, or leaves it open
        "M": "or if unless except etc plus minus neg negative by over under above below than about "
        "around approx approximately roughly nearly almost maybe perhaps least most until till am "
        "pm noon midnight o'clock o’clock st nd rd th binary octal hex hexadecimal base step no number page "
        "question problem equation option january jan february feb march mar april apr may june "
        "jun july jul august aug september sept sep october oct november nov december dec",
        # second thoughts; a look back; a reason; a sign for times
        "D": "wait actually sorry oops mistake mistakes mistaken wrong incorrect correction should",
        "K": "right correct check sure verify let",
        "R": "not because since",
        "x": "x",
        # money, and quotes of one kind
        "$": "$ us$ a$ c$ € £ ¥ ₹ usd eur gbp rs rs.",
        "'": "’",
        '"': "“ ” ‘ « » ` _",
    }.items()
    for word in words.split()
}

# 3. The grammar, on shapes. Repetitions are possessive, so that no shape is gone over twice.
GRAMMAR = {
    "numeral": r"\d²³¹¼-¾⁰-₎⅐-↋①-⒛⓪-⓿❶-➓〇〡-〩零一二三四五六七八九十百千万億亿兆",
    "letter": r"[^\W_{numeral}]",
    "short": r"(?i:an|as|at|be|do|go|he|in|is|it|me|my|of|on|so|to|up|us|we)",  # words, not algebra
    "open": r"[\n \"'*$:]*+",
    "close": r"[\"'*$}]*+",
    "shut": r"(?:[\"'$}]|\*\*)*+",  # right after a number: 5* may be half of a product
    "name": r"[wWvVux](?:[ ']*+[wWvVux])*+ ?= ?",
    "term": r"[-($ ]*+N[)}% ]*+(?:[wWu][)} ]*+)*+",
    "sum": r"{term}(?:(?:[-+/×÷·^x]|\*\*?) ?{term})++= ?",
    "money": r"(?:(?<!\()\$ ?)?",  # ($5) is a loss
    "number": r"(?P<sign>{money}[-+]?{money})(?:(?P<whole>N) (?=N/))?(?P<top>N)(?: ?/ ?(?P<bottom>N))?",
    "line": r"[.,]?{shut} ?(?:(?=\n(?![-+$]*[NU])|Q)|\Z)",
    "sentence": r"{close} (?=[\"*(]*[WVKDRABLH])",
    "reason": r"(?: ?,)? ?R",
    "bracket": r" ?\([wWvVuRK][^CD()\n]*+\)",
    "unit": r"(?:u|(?: ?,)? [wu])(?:/[uvw])?{close}",
    "words": r"{unit}(?:(?: ?,)? [wWuK]{close}){0,7}+(?:{bracket})?+|{bracket}",
    # "The answer is 11. Check: 11 - 6 = 5.", but not "#### 1. Add", nor "Answer: 3 dogs came. So there are"
    "tail": r"(?: ?(?:[%$¢]|°[vV]?))?(?:/w)?{shut}(?:{line}|{reason}|(?(item)(?!)|\.{sentence})"
    r"|(?:{words}){close}(?:!?{line}|{reason}|(?(label)(?!)|[.!]{sentence})))",
    "mark": r"[HBALF](?!{open}\Z)",
    "marked": r"(?:(?P<item>(?P<label>L)|H)|[BA]){open}(?:{name})?(?:{sum})*+[ \"'*$]*+{number}{tail}",
    # a number at the end of a text without a mark
    "last": r"{number}\Z",
    "unmarked": r"(?P<item>(?P<label>(?<=\n)))?+(?P<star>(?<=\*))?+(?P<left>(?<=\())?+{number}(?(star)\*\*?)"
    r"(?(left)\)?){tail}",
    "markup": r"(?:[\"*]*+ )?[\"*]*+\Z",
    "before": r"(?:\n(?:= ?)?|(?<![\w$)])\(|(?<![NU])(?<![NU] ):"
    r"|(?:[wWK][\"'*]*+|(?<![MD])[,;.!?])[\"'*]*+(?= )){markup}",
    "equation": r"(?:[\n.,:;(] ?|[wWK]:? )(?:(?P<name>{name})(?:{sum})*+|(?:{sum})++){markup}",
    "joined": r"[NUC][%$)°¢\"']*+(?:(?: ?[,-])? ?[wWvVuxKMR]){0,3}(?: ?[,;.])? ?[\"'*(]*+\Z",
}


def _expanded(form: str) -> str:
    """Return a form with the rules put in that it names."""
    return re.sub(r"\{([a-z]+)\}", lambda part: _expanded(GRAMMAR[part[1]]), form)


TOKEN = re.compile(_expanded("|".join(f"(?P<{kind}>{form})" for kind, form in TOKENS.items()) + "|(?s:.)"))
FORMS = {rule: re.compile(_expanded(GRAMMAR[rule])) for rule in GRAMMAR if rule != "tail"}


# A mark in a text: its kind (0 is the highest), the number after it or None, and where that ends
Mark = namedtuple("Mark", "kind value end")


def read(text: str) -> Fraction | None:
    r"""Return the number that a text ends with, or None.

    "5 + 6 = 11" after a mark reads 11. Thousands may have commas, narrow spaces or apostrophes; currency,
    percent and units are left out ("25%" reads 25). "3/4", "1 1/2" and \frac{3}{4} are fractions. Not read
    are number words, "1,5", powers, "1e5", "1.5 million", "5 m", ranges, times, lists, algebra, and more than
    50 digits. What stands in <think> is not the answer, nor is what follows the first one where a text goes
    on with another question. Of marks that disagree the last counts if it is of a higher kind than the others
    (`####`, then `\boxed{}`, then "answer"), else none.

    >>> read("5 + 6 = 11, so she has $11.\n#### 11 dollars")
    Fraction(11, 1)
    >>> read("#### 5 or 6") is None
    True
    """
    tokens, shape = _tokens(text)
    marks = _marks(tokens, shape)
    complete = [mark for mark in marks if mark.value is not None]
    if not complete:
        return None if marks else _last_number(tokens, shape)
    best = min(mark.kind for mark in complete)
    asks_on = re.fullmatch(r"[^DK?]*+\?[^DK]*+", shape[complete[0].end :])  # without a second thought
    if asks_on and complete[0].kind == best:
        return complete[0].value
    if not asks_on and marks[-1].kind == best:
        complete = [mark for mark in complete if mark.kind == best]
    doubtful = marks[-1].value is None or "D" in shape[marks[-1].end :]
    return None if doubtful or len({mark.value for mark in complete}) > 1 else complete[0].value


def _tokens(text: str) -> tuple[list[str], str]:
    """Return a text's tokens, and its shape up to where another question begins after the first number."""
    for form, spelling in SPELLINGS.items():
        text = re.sub(form, spelling, text)
    found = list(TOKEN.finditer(f"\n{text}"))
    shape = "".join(LETTERS.get(token[0].lower()) or token.lastgroup or token[0] for token in found)
    shape = re.match(r"(?s)[^NU]*+.?[^Q]*+Q?", shape.replace("\u00a0", " "))[0]
    return [token[0] for token in found], shape


def _marks(tokens: list[str], shape: str) -> list[Mark]:
    """Return the marks that anything follows."""
    marks: list[Mark] = []
    for mark in FORMS["mark"].finditer(shape):
        found = FORMS["marked"].match(shape, mark.start())
        kind = {"H": 0, "B": 1}.get(mark[0], 2)
        value = _value(tokens, found) if found else None
        unread = marks[-1] if marks and marks[-1].value is None else None
        if unread and unread.kind == kind and re.fullmatch(r"[^\nN]*+N.*", shape[unread.end : mark.start()]):
            value = None  # \boxed{5} or \boxed{6}
        marks.append(Mark(kind, value, found.end() if found else mark.end()))
    return marks


def _last_number(tokens: list[str], shape: str) -> Fraction | None:
    """Return the last number of a text without a mark, or None if it may be part of something else."""
    end = max(shape.rfind("N"), shape.rfind("U")) + 1
    last = FORMS["last"].search(shape, max(0, end - 10), end)
    found = FORMS["unmarked"].match(shape, last.start()) if last else None
    after = zip(shape[end:], tokens[end:], strict=False)  # "It is 5. So she has seven."
    goes_on = any(letter == "Q" or (letter == "C" and not word.istitle()) for letter, word in after)
    if not found or goes_on or "+" in found["sign"]:
        return None
    before = shape[max(0, found.start() - 60) : found.start()]
    if equation := FORMS["equation"].search(before):
        before = before[: max(0, equation.start("name"))]
    elif not FORMS["before"].search(before):
        return None
    return None if FORMS["joined"].search(before) else _value(tokens, found)


def _value(tokens: list[str], found: re.Match) -> Fraction | None:
    """Return the Fraction that a match of the rule "number" says, None if it says none."""
    whole, top, bottom = (
        Fraction(re.sub("[,'’\u00a0]", "", tokens[found.start(part)])) if found[part] else Fraction()
        for part in ("whole", "top", "bottom")
    )
    if (found["bottom"] and not bottom) or (found["whole"] and top >= bottom):
        return None
    value = whole + top / (bottom or 1)
    return -value if "-" in found["sign"] else value


def verify(prompts: Sequence, completions: Sequence, answer: Sequence, **columns: Any) -> list[float]:
    """Return 1.0 for each completion whose number is that of its answer, else 0.0: a reward as TRL calls it.

    Parameters
    ----------
    prompts : list
        Not looked at.
    completions : list of str, or of chats
        Of a chat (a list of messages) the last message counts, of its content the texts.
    answer : list of str, or of numbers
        The data set's own answers, as GSM8K has them.

    Raises
    ------
    ValueError
        An answer of the data set has no number.

    >>> verify(["2 + 2?"] * 2, ["It is 4.", "#### 5"], ["#### 4", 4])
    [1.0, 0.0]
    """
    rewards = []
    for completion, own in zip(completions, answer, strict=True):
        right = read(_content(own) if isinstance(own, str | list) else str(own))
        if right is None:
            raise ValueError(f"no number can be read in the data set's own answer {own!r:.200}")
        rewards.append(float(read(_content(completion)) == right))
    return rewards


def _content(completion: Any) -> str:
    """Return the text of a completion: a string, None, or messages whose content is one of these or parts."""
    content = completion[-1].get("content") if completion and isinstance(completion, list) else completion
    parts = content if isinstance(content, list) else [content]
    parts = [{"text": part} if isinstance(part, str | None) else part for part in parts]
    return "".join(part.get("text") or "" for part in parts if part.get("type", "text").endswith("text"))


def prompt(question: str, tokenizer: Any, shots: Sequence[tuple[str, str]] = ()) -> str:
    """Return the text that asks a model for an answer, in its chat template if it has one.

    shots : (question, answer) pairs that stand before it
    """
    chat = [{"role": "system", "content": INSTRUCTION}]
    for asked, told in shots:
        chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": rationale(told)}]
    chat.append({"role": "user", "content": question})
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return "".join(f"{turn['role']}: {turn['content']}\n" for turn in chat) + "assistant: "


def rationale(answer: str) -> str:
    """Return an answer of GSM8K as one would write it, without its calculator's notes.

    >>> rationale("3 * 4 = <<3*4=12>>12")
    '3 * 4 = 12'
    """
    return re.sub(r"<<[^<>\n]*+>>", "", answer)
