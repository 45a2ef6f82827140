"""The audit against worlds whose answers are known exactly, and against what chance does."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from rsf import checks, finite
from rsf.__main__ import main
from rsf.audit import audit, read
from rsf.lab.records import ROOT
from rsf.rules import above, best_of, clipped, constant, random_like, tilted

RHO = np.array([0.5, 0.25, 0.25])  # the prompts
Q = np.array([[0.5, 0.25, 0.25], [0.75, 0.125, 0.125], [1.0, 0.0, 0.0]])  # q(y | x)
A = np.array([[0.5, 1.0, 0.25], [0.5, 0.25, 1.0], [0.0, 1.0, 1.0]])  # prompt 2 vanishes
R = np.log(np.maximum(A, 1e-3)) + 2.0


def exact_table(q=Q, a=A, r=R, size=1024, rho=RHO):
    """A table whose frequencies are the laws themselves."""
    rows = []
    for x, y in np.ndindex(q.shape):
        number, kept = size * rho[x] * q[x, y], size * rho[x] * q[x, y] * a[x, y]
        assert number == int(number) and kept == int(kept)
        one = {
            "prompt": f"x{x}",
            "completion": f"y{y}",
            "reward": r[x, y],
            "log_acceptance": np.log(a[x, y]) if a[x, y] else -np.inf,
        }
        rows += [one | {"kept": bool(i < kept)} for i in range(int(number))]
    return rows


def without(table, *names):
    return [{name: value for name, value in row.items() if name not in names} for row in table]


def test_rates_prompts_and_laws_are_those_of_the_world():
    report, joint = audit(exact_table()), finite.joint_law(RHO, Q, A)
    law, rate = finite.accepted_law((RHO[:, None] * Q).ravel(), A.ravel())
    assert report.acceptance_rate == rate and report.way == "a fixed number each"
    np.testing.assert_allclose(report.taken / report.asked, (Q * A).sum(axis=1))
    assert report.vanished == ["x2"]
    assert report.prompt_kl == pytest.approx(finite.kl(joint.sum(axis=1), RHO), rel=1e-12)
    assert report.kl == pytest.approx(finite.kl(law, (RHO[:, None] * Q).ravel()), rel=1e-12)
    assert report.kl < report.kl_bound == pytest.approx(-np.log(rate)) and report.moved
    assert (
        report.never == 0.25
        and report.overruled == 0
        and report.duplicates == pytest.approx((1 - 6 / 424, 1 - 7 / 1024))
    )


def test_a_verifier_reaches_the_bound_and_needs_no_log_acceptance():
    verifier = (A == 1).astype(float)
    report = audit(without(exact_table(a=verifier, r=verifier), "log_acceptance"), above(1))
    assert report.kl == pytest.approx(report.kl_bound, rel=1e-12)
    assert audit(without(exact_table(a=verifier, r=verifier), "log_acceptance")).kl is None


def test_effective_sizes_are_those_of_the_weights():
    half = np.array([[0.5, 1.0, 0.25], [0.5, 0.25, 1.0], [0.5, 1.0, 1.0]])
    report = audit(exact_table(a=half))
    kept = 1024 * (RHO[:, None] * Q * half)
    prompts, w = (
        np.repeat(RHO / kept.sum(axis=1), kept.sum(axis=1).astype(int)),
        np.repeat(1 / half.ravel(), kept.ravel().astype(int)),
    )
    assert report.effective == pytest.approx(prompts.sum() ** 2 / (prompts**2).sum(), rel=1e-12)
    assert report.undone == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-12) and report.never == 0


@pytest.mark.parametrize("ceiling", [1.0, 0.5])
def test_what_a_ceiling_cuts_off_is_the_difference_of_two_exact_laws(ceiling):
    q, beta = (RHO[:, None] * Q).ravel(), 0.7
    r = np.linspace(-1, 2, 9)
    rule = tilted(beta, ceiling, clip=True)
    table = without(exact_table(a=np.zeros_like(Q), r=r.reshape(Q.shape)), "log_acceptance", "kept")
    found = audit([row | {"kept": False} for row in table], rule).clipping
    target, (law, rate) = finite.tilted_law(q, r, beta), finite.accepted_law(q, rule(r))
    assert (
        found.ceiling == pytest.approx(ceiling)
        and found.above == q[r > ceiling].sum() > 0
        and not found.estimated
    )
    assert found.mass == pytest.approx(1 - rate / (q @ np.exp((r - ceiling) / beta)), rel=1e-9)
    assert found.bias == pytest.approx((law - target) @ r, rel=1e-9) and found.bias < 0
    assert found.distance == pytest.approx(np.abs(law - target).sum() / 2, rel=1e-9)


def test_the_published_rule_is_a_ceiling_too_and_one_estimated_from_the_table_is_named():
    loss = np.array([0.1, 0.2, 0.4, 0.8])
    rows = [{"prompt": "x", "reward": value, "kept": False} for value in loss]
    found, p, a = audit(rows, clipped(0.5)).clipping, loss / loss.sum(), np.minimum(loss / 0.5, 1)
    assert (
        found.ceiling == pytest.approx(0.5) and found.above == 0.25 and found.mass == pytest.approx(0.3 / 1.5)
    )
    assert found.distance == pytest.approx(np.abs(p - a / a.sum()).sum() / 2)
    found = audit(rows, tilted(1, 0.8)).clipping
    assert (
        found.estimated
        and found.mass == found.above == 0
        and "the next is larger with probability 0.2" in str(audit(rows, tilted(1, 0.8)))
    )
    assert (
        audit(rows, above(0.3)).clipping
        is audit(rows, constant(0.5)).clipping
        is audit(rows).clipping
        is None
    )


def random_table(rng, prompts=400, samples=8, rates=0.3):
    kept = rng.random((prompts, samples)) < np.broadcast_to(rates, prompts)[:, None]
    return {
        "prompt": np.repeat([f"p{i}" for i in range(prompts)], samples).tolist(),
        "reward": kept.ravel() * 1.0,
        "kept": kept.ravel(),
    }


@pytest.mark.parametrize("prompts, samples", [(400, 1), (400, 2), (400, 8), (400, 100), (3, 40)])
def test_chance_alone_is_called_chance_and_its_kl_is_foretold(prompts, samples):
    reports = [
        audit(random_table(np.random.default_rng([3, samples, i]), prompts, samples)) for i in range(40)
    ]
    kls = np.array([report.prompt_kl for report in reports])
    assert sum(report.moved for report in reports) == 0
    assert (
        abs(kls.mean() - np.mean([report.kl_by_chance for report in reports]))
        < 4 * kls.std() / np.sqrt(40) + 1e-3 * kls.mean()
    )
    gone = [len(report.vanished) for report in reports]
    foretold = np.mean([report.vanished_by_chance for report in reports])
    assert (
        abs(np.mean(gone) - foretold) < 4 * np.std(gone) / np.sqrt(40) + 1e-3
    )  # fewer than one in all tables may go unseen


@pytest.mark.parametrize("samples", [2, 8, 100])
def test_rates_that_differ_are_seen_beyond_chance(samples):
    rng = np.random.default_rng(4)
    report = audit(random_table(rng, samples=samples, rates=rng.beta(1, 2, 400)))
    assert (
        report.moved
        and report.prompt_kl > report.kl_by_chance > 0
        and "of each prompt as many" in str(report)
    )


def test_intervals_cover_the_rate_as_often_as_they_say():
    rng, hits = np.random.default_rng(5), np.zeros(2)
    for _ in range(400):
        rates = rng.beta(1, 2, 50)
        report = audit(random_table(rng, 50, 20, rates))
        hits += [low <= 1 / 3 <= high for low, high in (report.interval, report.interval_prompts)]
    assert checks.rate_interval(
        int(hits[1]), 400, expected=0.94
    )  # a t of 49 degrees of freedom would be wider by a little
    assert checks.must_fail(checks.rate_interval(int(hits[0]), 400, expected=0.94))  # for these prompts only


def test_sampling_until_accepted_is_seen_and_leaves_the_prompts_where_they_were():
    rng, rows = np.random.default_rng(6), []
    for i in range(200):
        while not (kept := rng.random() < 0.1 + 0.8 * (i % 2)):
            rows.append({"prompt": f"p{i}", "reward": 0, "kept": kept})
        rows.append({"prompt": f"p{i}", "reward": 1, "kept": kept})
    report = audit(rows)
    assert (
        report.way == "until accepted"
        and report.prompt_kl == pytest.approx(0, abs=1e-12)
        and not report.moved
    )
    assert (
        report.effective == pytest.approx(200) and "of each prompt's samples one at random" in report.control
    )
    assert (
        audit(rows, above(1)).kl is None
    )  # the bound is log of the mean of 1 / Z; the KL itself would need each Z
    assert audit(rows, until_accepted=False).way == "a fixed number each"


def test_tables_that_only_look_like_another_way_are_not_taken_for_it():
    one_each = {
        "prompt": np.repeat(np.arange(50), 4),
        "reward": np.tile([0.0, 1, 2, 3], 50),
        "kept": np.tile([0, 0, 1, 0], 50),
    }
    assert audit(one_each).way == "a fixed number each"  # not the best
    kept_first = [{"prompt": i, "reward": 1, "kept": j == 0} for i in range(50) for j in range(1 + i % 3)]
    assert audit(kept_first).way == "a fixed number each"  # and went on after it


def test_the_interval_of_the_rate_ends_where_a_test_of_the_rate_would_just_pass():
    low, high = audit(random_table(np.random.default_rng(9), 5, 4)).interval
    rate = audit(random_table(np.random.default_rng(9), 5, 4)).acceptance_rate
    for end in (low, high):
        assert abs(rate - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 20), rel=1e-6)


def test_best_of_n_is_seen_and_has_its_own_bound():
    reward = np.random.default_rng(7).random((50, 4))
    table = {
        "prompt": np.repeat(np.arange(50), 4),
        "reward": reward.ravel(),
        "kept": (reward == reward.max(axis=1, keepdims=True)).ravel(),
    }
    report = audit(table, best_of(4))
    assert (
        report.way == "best of 4"
        and report.kl_bound == pytest.approx(np.log(4) - 3 / 4)
        and report.kl is None
    )


def test_rows_without_a_reward_are_left_out():
    table = exact_table()
    more = [
        {"prompt": p, "completion": "?", "reward": None, "log_acceptance": None, "kept": False}
        for p in ("x0", "new")
    ]
    more[0]["reward"] = 5.0  # a reward, but no decision: a group for best_of that lacks another's
    report = audit(table + more)
    assert report.skipped == 2 and str(report).split(";")[1:] != [] and report.names == ["x0", "x1", "x2"]
    assert str(report).replace("2 without", "0 without") == str(audit(table))


def test_rounds_and_log_probabilities_stand_on_the_page():
    rows = [
        {"prompt": "a", "reward": i % 4, "kept": i % 4 == 3, "round": i // 8, "log_probability": -(i % 4)}
        for i in range(16)
    ]
    report = audit(rows)
    assert report.rounds == {0: (8, 0.25, 1.5), 1: (8, 0.25, 1.5)} and report.log_probability == (-3.0, -1.5)
    assert "round 1             0.2500 of 8 kept, mean reward 1.5000" in str(report)
    assert audit([row | {"log_probability": None} for row in rows]).log_probability is None


def test_what_was_kept_against_the_rule_is_an_error_and_what_was_dropped_against_it_is_counted():
    rows = [
        {"prompt": "a", "reward": r, "kept": k}
        for r, k in ((0.0, False), (1.0, True), (1.0, False), (1.0, True), (1.0, True))
    ]
    assert audit(rows, above(1)).overruled == 0.25
    with pytest.raises(ValueError, match="reward 1 was kept although its A is 0"):
        audit(rows, above(2))
    with pytest.raises(ValueError, match="exceeds the ceiling"):
        audit(rows, tilted(1, 0.5))


def test_nothing_kept_and_everything_kept_still_make_a_page():
    rows = [{"prompt": f"p{i % 3}", "reward": 1.0, "kept": False} for i in range(9)]
    nothing, everything = audit(rows), audit([row | {"kept": True} for row in rows])
    assert (
        len(nothing.vanished) == 3
        and nothing.kl_bound == np.inf
        and "0 kept of 9" in str(nothing)
        and nothing.effective == 0
    )
    assert (
        everything.kl_bound == 0 == everything.prompt_kl
        and not everything.moved
        and everything.effective == pytest.approx(9)
    )
    assert nothing.figure() and everything.figure()


BAD_TABLES = {
    "no kept": ({"prompt": ["a"], "reward": [1]}, r"lacks the columns \['kept'\].*'prompt', 'reward'"),
    "empty": ([], "lacks the columns"),
    "no rewards": ({"prompt": ["a"], "reward": [None], "kept": [False]}, "of 1 rows 0 have one"),
    "infinite": ({"prompt": ["a"], "reward": [np.inf], "kept": [False]}, "1 have an infinite reward"),
    "text": ({"prompt": ["a"], "reward": ["good"], "kept": [False]}, "column reward must hold numbers.*good"),
    "unclear": ({"prompt": ["a"], "reward": [1], "kept": ["maybe"]}, "true or false, got 'maybe'"),
    "lengths": ({"prompt": ["a", "b"], "reward": [1], "kept": [True]}, "one length.*'prompt': 2"),
}


@pytest.mark.parametrize("table, message", BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_cannot_be_read_is_refused_and_says_why(table, message):
    with pytest.raises(ValueError, match=message):
        audit(table)


def written(folder, kind):
    """The exact table in a file, with a foreign tool's names."""
    rows = [
        {"question": r["prompt"], "completion": r["completion"], "score": r["reward"], "chosen": r["kept"]}
        for r in exact_table()
    ]
    file = folder / f"table.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif kind == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    else:
        with open(file, "w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return file


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_of_every_kind_give_the_same_page(tmp_path, kind):
    names = {"prompt": "question", "reward": "score", "kept": "chosen"}
    assert str(audit(read(written(tmp_path, kind), names))) == str(
        audit(without(exact_table(), "log_acceptance"))
    )
    with pytest.raises(ValueError, match=r"lacks the columns \['prompt', 'reward', 'kept'\]"):
        audit(read(written(tmp_path, kind)))


def test_a_list_in_json_blank_lines_and_a_byte_order_mark_are_read(tmp_path):
    rows = [{"prompt": "é", "reward": i, "kept": i > 1} for i in range(4)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    (tmp_path / "c.csv").write_text(
        "kept,x,prompt,reward\n\n" + "\n".join(f"{i > 1},,é,{i}" for i in range(4)) + "\n\n",
        encoding="utf-8-sig",
    )
    assert {str(audit(read(tmp_path / name))) for name in ("a.json", "b.jsonl", "c.csv")} == {
        str(audit(rows))
    }


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_what_datasets_writes_is_read_back_with_its_acceptance_probabilities_of_zero(tmp_path, kind):
    table = exact_table()
    getattr(Dataset.from_list(table), f"to_{kind}")(tmp_path / f"a.{kind}")
    assert str(audit(read(tmp_path / f"a.{kind}"))) == str(audit(table))


def test_what_is_wrong_in_a_file_or_in_its_names_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "x", "reward": 1, "kept": true}\n{"prompt": "x", reward\n', encoding="utf-8"
    )
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"no columns \['promt'\], only prompt, reward"):
        read(tmp_path / "a.jsonl", {"promt": "prompt"})
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the columns"):
        audit(read(tmp_path / "empty.csv"))


def test_the_figure_shows_the_rates_exactly_however_many_prompts():
    kept = np.repeat([0, 1, 0, 1, 1, 1], 20_000).reshape(-1, 2, 20_000)  # of two samples each: one, one, two
    table = {
        "prompt": np.tile(np.arange(60_000).reshape(3, 1, -1), (1, 2, 1)).ravel(),
        "reward": np.ones(120_000),
        "kept": kept.ravel(),
    }
    (steps,) = audit(table).figure().axes[0].patches
    assert steps.get_data().values.tolist() == [0.5, 1.0] and steps.get_data().edges == pytest.approx(
        [0, 2 / 3, 1]
    )


def test_the_command_prints_the_page_and_leaves_the_figure(tmp_path, capsys):
    file, picture = written(tmp_path, "jsonl"), tmp_path / "picture.png"
    rule = ["--rule", "tilted", "1", "2"]
    main(
        [
            "audit",
            str(file),
            "--columns",
            "prompt=question",
            "reward=score",
            "kept=chosen",
            "--figure",
            str(picture),
            *rule,
        ]
    )
    page = capsys.readouterr().out
    assert (
        "acceptance rate     0.4141" in page
        and "prompts vanished    1 of 3" in page
        and "ceiling 2" in page
        and picture.stat().st_size > 5000
    )
    assert main(["audit", "notes.txt"]) == 2 and "cannot read notes.txt" in capsys.readouterr().err
    assert (
        main(["audit", str(file), "--rule", "percentile", "4"]) == 2
        and "'percentile'" in capsys.readouterr().err
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_million_rows_take_seconds_and_less_than_a_gibibyte(tmp_path):
    with open(tmp_path / "big.jsonl", "w", encoding="utf-8") as file:
        for i in range(10**6):
            r = int(i * 7919 % 1000 < i // 50 % 900)
            file.write(
                f'{{"prompt": "What is {i // 50} and {i // 50} more?", "completion": "{i * 31 % 97}", "reward": {r}, "kept": {str(r == 1).lower()}}}\n'
            )
    command = f"import sys, time\nfrom rsf.audit import audit, read\nstart = time.process_time()\nprint(audit(read({str(tmp_path / 'big.jsonl')!r})))\nprint(time.process_time() - start, next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 2**20)\nassert not {{'torch', 'datasets', 'pyarrow', 'scipy'}} & set(sys.modules)"  # fmt: skip
    out = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    seconds, gibibytes = map(float, out.splitlines()[-1].split())
    assert "of 20,000 prompts" in out and seconds < 10 and gibibytes < 1


def test_the_table_of_a_blind_rule_shows_nothing_chosen():
    rule = random_like(above(1))
    rule.observe(np.repeat([0.0, 1.0], [7, 3]))
    rng = np.random.default_rng(8)
    reward = rng.integers(0, 2, 4000) * 1.0
    report = audit(
        {"prompt": np.arange(4000) % 100, "reward": reward, "kept": rng.random(4000) < rule(reward)}, rule
    )
    assert (
        not report.moved
        and report.kl == pytest.approx(0, abs=1e-12)
        and report.undone == pytest.approx(report.taken.sum())
    )
