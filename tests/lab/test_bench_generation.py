"""The benchmark of generation: every way writes what it should, on small sizes."""

import os
from collections import Counter

import numpy as np
import pytest

from rsf.lab import bench as timings
from rsf.lab import records
from rsf.lab.bench import generation as bench
from rsf.lab.bench import growth, in_own_process
from rsf.lab.report import benchmarks as evidence_generation

SETTINGS = {"prompts": 32, "lengths": [2, 6], "new_tokens": 5, "batch_size": 8, "repeats": 2, "loop_every": 4}


@pytest.mark.parametrize("ends", [False, True])
def test_all_ways_write_as_many_samples_as_they_say_and_the_floor_as_many_tokens_as_ours(ends):
    model, tokenizer = bench.tiny(np.random.default_rng(0))
    texts, new = bench.ids_and_texts(tokenizer, 32, [2, 6], np.random.default_rng(1))[1], []
    stop = (
        Counter("".join(bench.ours(model, tokenizer, texts, SETTINGS)["completion"])).most_common(1)[0][0]
        if ends
        else None
    )

    def counting(**options):
        out = library(**options)
        new.append((*getattr(out, "sequences", out).shape, options["input_ids"].shape[1]))
        return out

    library, model.generate = model.generate, counting
    ways = bench.ways(model, tokenizer, SETTINGS, np.random.default_rng(1), stop)
    tokens = bench.ours(model, tokenizer, texts, SETTINGS, stop=stop or ())["tokens"]
    assert (np.mean(tokens) < 5) == ends
    for way, calls, rows in (
        ("floor", 4, 8),
        ("floor, greedy", 4, 8),
        ("loop", 8, 1),
        ("loop, 4 samples a call", 2, 4),
    ):
        new.clear()
        assert ways[way]() == calls * rows and len(new) == calls and all(shape[0] == rows for shape in new)
        if way.startswith("floor"):
            assert all(width - read == round(np.mean(tokens)) for _, width, read in new)
    assert ways["sample_and_judge"]() == 32
    rows = bench.speeds(model, tokenizer, SETTINGS, np.random.default_rng(1), stop)
    assert [row["way"] for row in rows] == list(ways) and all(
        row["least"] <= row["ratio"] <= row["most"] for row in rows
    )


def test_completions_of_unlike_lengths_are_compared_between_batch_sizes():
    found = bench.equality(SETTINGS | {"equal_prompts": 20, "equal_sizes": [1, 20]}, np.random.default_rng(0))
    assert found["float64"] == {"1": 0, "20": 0} and found.keys() == {"float64", "float32"}


def test_the_stored_run_reaches_what_its_protocol_calls_primary():
    cases, numbers = evidence_generation.written()
    assert records.protocol("bench-generation")["primary"].count("at least") == 2
    for case in ("tiny GPT-2", "stories260K"):
        assert cases[case]["loop"]["ratio"] >= 8 and cases[case]["floor"]["ratio"] >= 0.8
    assert set(numbers["differ"]["float64"].values()) == {0}
    assert numbers["peak_mib"]["10000"] < 1.2 * numbers["peak_mib"]["1000"]


def test_memory_is_that_of_a_process_of_its_own():
    assert in_own_process(os.getpid) not in (os.getpid(), in_own_process(os.getpid))
    with pytest.raises(ZeroDivisionError):
        in_own_process(divmod, 1, 0)


def test_where_memory_cannot_be_told_it_says_so_before_it_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(timings, "STATUS", tmp_path / "status")
    with pytest.raises(NotImplementedError, match=r"reads its peak of memory in .*status: run it on Linux"):
        bench.run()


def test_what_grows_is_linear_and_memory_hardly_does():
    rows = records.read("bench-growth")["cpu"][0]["numbers"]["growth"]
    assert {row["prompts"] for row in rows} == {10**3, 10**4, 10**5}
    fewest, most = (min(rows, key=lambda row: row["samples"]), max(rows, key=lambda row: row["samples"]))
    assert most["seconds"] / most["samples"] < 1.2 * fewest["seconds"] / fewest["samples"]
    for row in rows:
        assert row["files"] <= 2 + row["samples"] / 1000
    assert most["more_mib"] * 2**20 <= 1000 * most["prompts"]
    assert growth.grown(10, 2).keys() == rows[0].keys()
