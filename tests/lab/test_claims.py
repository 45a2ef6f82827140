"""The claims of the article: no verdict without a file or a check that ran, and none that anybody typed."""

import json
import re
import shutil

import pytest

from rsf import __main__ as door
from rsf.checks import verdict
from rsf.lab import records, verdicts
from rsf.lab.report import claims

WORDS = re.compile(r"\b(not )?(reproduced|refuted|undecided|shown|open)\b", re.IGNORECASE)
NOBODY = verdicts.unasked().word
UPDATES = "Rejecting more may perform better."
SMALL = ["imdb-last-updates", "imdb-last-updates-tuning"]


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    """A copy of what the claims rest on, to be tampered with: results/ and the notebooks beside it."""
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copytree(records.ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("text"))
    for name in ("protocol.toml", *(f"{name}.jsonl" for name in SMALL)):
        shutil.copy(records.RESULTS / name, folder)
    monkeypatch.setattr(records, "RESULTS", folder)
    return tmp_path


def word(words):
    """The word of the claim with these words."""
    (line,) = (line for line in claims.lines() if line.claim.words == words)
    return line.judgement.word


def tampered(evidence, change):
    """Change the records of the section of UPDATES, a list of dicts, in place."""
    file = evidence / "results" / f"{SMALL[0]}.jsonl"
    runs = [json.loads(text) for text in file.read_text().splitlines()]
    change(runs)
    file.write_text("\n".join(map(json.dumps, runs)))


def test_verdict_words_are_typed_neither_in_the_claims_nor_in_notebook_15():
    for name in ("rsf/lab/report/claims.py", "notebooks/text/15_read_the_evidence.md"):
        text = (records.ROOT / name).read_text(encoding="utf-8").replace("[![Open in Colab]", "")
        text = re.sub(r"open-instruct", "", text)  # the name of a tool
        assert [match[0] for match in WORDS.finditer(text)] == [], name


def test_every_verdict_rests_on_a_file_or_a_cell_and_is_the_protocol_s_rule():
    lines = claims.lines()
    assert len(lines) >= 30 and len({line.claim.words for line in lines}) >= 25
    for line in lines:
        if line.judgement.word == NOBODY:
            continue
        assert (line.cells and all(line.cells)) or any(one.difference for one in line.findings)
        for finding in line.findings:
            asked = {one.claim: one for one in verdicts.contrasts(finding.contrast.experiment)}
            again = verdicts.judged(asked[finding.contrast.claim])
            assert again.judgement == finding.judgement and again.contrast.level < 0.05
    rows = claims.claims_table().splitlines()[2:]
    assert len(rows) == len(lines) and all("](../" in row or f"**{NOBODY}**" in row for row in rows)


def test_what_nobody_asked_has_no_verdict_and_says_why():
    lines = {line.claim.words: line for line in claims.lines()}
    words = "Fine-tuning overfits where examples are few."
    assert lines[words].judgement.word == NOBODY and lines[words].kind == "not asked here"
    asked = claims._line(claims.Claim("8.3", "It improves a haiku.", "case", "13", asks=("haiku",)), [])
    assert asked.judgement.word == NOBODY and "protocol does not ask" in claims.evidence(asked)
    assert "BERT" not in str(lines["The listing's model, BERT, improves on IMDb."].judgement)
    assert lines["The listing's model, BERT, improves on IMDb."].kind == "measured"  # asked, not run


def test_the_files_of_a_claim_taken_away_leave_no_verdict(evidence):
    before = word(UPDATES)
    assert before not in (NOBODY, verdict(1, 0.5, 1.5, 0.5).word)
    measured = [line for line in claims.lines() if line.findings]
    assert [line.claim.words for line in measured if line.judgement.word != NOBODY] == [UPDATES]
    (evidence / "results" / f"{SMALL[0]}.jsonl").unlink()
    assert word(UPDATES) == NOBODY


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda runs: runs.pop(), None),  # a declared seed is missing
        (lambda runs: runs.append(dict(runs[-1])), "stands twice"),
        (lambda runs: runs[1].update(numbers=runs[0]["numbers"]), "is a copy of seed"),
        (lambda runs: runs[0].update(seed=99), "not in the protocol"),
        (lambda runs: runs[0]["settings"].update(smallest_gain=0.0), "smallest_gain differ"),
    ],
)
def test_a_run_missing_or_copied_to_another_seed_or_under_another_protocol(evidence, change, message):
    tampered(evidence, change)
    if message is None:
        assert word(UPDATES) == NOBODY
    else:
        with pytest.raises(ValueError, match=message):
            claims.lines()


@pytest.mark.parametrize(
    "old, new", [("smallest_gain = 0.005", "smallest_gain = -9"), ("margin = 0.01,", "margin = 9,")]
)
def test_another_smallest_gain_or_margin_disowns_the_files(evidence, old, new):
    shutil.copy(records.ROOT / "results" / "topics.jsonl", evidence / "results")
    protocol = evidence / "results" / "protocol.toml"
    assert claims.lines()
    protocol.write_text(protocol.read_text().replace(old, new))
    with pytest.raises(ValueError, match="another protocol"):
        claims.lines()


def test_a_changed_accuracy_is_refused_before_a_claim_is_told(evidence, monkeypatch):
    def better(runs):
        for run in runs:
            if run["arm"] == "at_rate-0.8":
                run["numbers"]["accuracy"] = 0.99

    asked = []
    monkeypatch.setattr(door, "experiment", lambda *a, **b: asked.append((a, b)))
    tampered(evidence, better)
    with pytest.raises(ValueError, match=r"accuracy is 0\.99, and made again"):
        door.verify([], False)
    assert not asked


@pytest.mark.parametrize(
    "old, new", [(": PASS", ": FAIL"), ("REFUSED, as they must be", "FAIL"), ("ten laws", "nine laws")]
)
def test_a_check_that_did_not_pass_or_whose_counter_check_did_leaves_no_verdict(evidence, old, new):
    words = "Keeping with min(1, p/(k q)) draws exactly from p (k large enough)."
    assert word(words) not in (NOBODY, None)
    (file,) = (evidence / "notebooks").glob("01_*.ipynb")
    file.write_text(file.read_text().replace(old, new))
    assert word(words) == NOBODY
    file.unlink()
    assert word(words) == NOBODY


@pytest.mark.parametrize(
    "claim", [one for one in claims.CLAIMS if one.checks], ids=lambda one: one.words[:30]
)
def test_each_check_has_its_line_and_a_counter_check_in_one_cell(claim):
    assert all(claims._cell(*check) for check in claim.checks)
    ((number, passed, refused), *_) = claim.checks
    assert claims._cell(number, passed, "something else") == claims._cell(number, "none", refused) == ""


def test_verify_tells_the_claims_and_runs_one_short_seed_again(evidence, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(door, "experiment", lambda *a, **b: asked.append((a, b)))
    assert not door.verify([], False)
    said = capsys.readouterr().out
    assert said.count(UPDATES) == 1 and "not run again" in said and "run again: one seed" in said
    assert asked == [(("mini-last",), {"seeds": [240], "again": True})]
    monkeypatch.chdir(evidence)
    door.verify([evidence / "results" / f"{SMALL[0]}.jsonl"], False)
    assert UPDATES not in capsys.readouterr().out and len(asked) == 1


@pytest.mark.parametrize(
    ("section", "margin", "word"),
    [
        ("language", 0.04, "shown"),  # 0.026 to 0.032 bits more
        ("language", 0.03, "not shown"),
        ("language", 0.01, "refuted"),
        ("topics", 0.001, "not shown"),  # -0.27 to +0.27 points
        ("topics", -0.005, "refuted"),
    ],
)
def test_no_harm_by_a_margin_is_decided_where_the_limits_lie_on_one_side_of_it(section, margin, word):
    (contrast,) = (one for one in verdicts.contrasts(section) if one.margin)
    assert verdicts.judged(contrast._replace(margin=margin)).judgement.word == word
