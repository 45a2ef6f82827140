"""Several draw, and the data set is one's: two processes, two servers, and what becomes of it when one of them fails."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import sharing
import torch
from safetensors.torch import load_file
from servers import stub
from sharing import RUNS, judged

from rsf.generation import Unfinished, model_sampler, server_sampler, shared

TESTS = Path(__file__).resolve().parents[1]


def torchrun(folder, mode, processes=2):
    """Run sharing.py in several processes, and return exit code and all that was written."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    ran = subprocess.run(
        [*command, str(TESTS / "sharing.py"), str(folder), mode],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    return ran.returncode, ran.stdout + ran.stderr


def same(tables, others):
    totals, others_totals = (replace(report, engine="") for report in (tables[2], others[2]))
    rows = zip(tables[:2], others[:2], strict=True)
    return totals == others_totals and all(one[:] == other[:] for one, other in rows)


@pytest.fixture(scope="module")
def alone():
    sample = sharing.sampler()
    return {name: judged(sample, name) for name in RUNS}


def test_two_processes_draw_what_one_draws(alone, tmp_path, monkeypatch):
    code, told = torchrun(tmp_path, "whole")
    assert code == 0 and "process 0 has left" in told and "process 1 has left" in told, told
    assert (tmp_path / "how-to" / "judged-0.arrow").is_file()
    refused = sharing.Faulty("raises")
    refused.calls = 3
    monkeypatch.setenv("RANK", "1")  # it would raise, were it asked
    for name in RUNS:
        assert same(judged(refused, name, tmp_path / name), alone[name]), name


@pytest.mark.parametrize("mode, words", [("raises", "ValueError: no more paper"), ("killed", "Signal 9")])
def test_a_process_that_fails_ends_the_run_with_its_name_and_a_second_call_goes_on(
    mode, words, alone, tmp_path
):
    code, told = torchrun(tmp_path, mode)
    assert code != 0 and words in told
    if mode == "raises":
        assert "samples wait, after" in told and "process 1 of 2 (pid" in told
    else:
        assert "rank      : 1" in told.replace("\t", " ")
    stored = list((tmp_path / "until accepted").glob("*.json"))
    assert len(stored) >= 2
    for name in RUNS:
        assert same(judged(sharing.sampler(), name, tmp_path / name), alone[name]), name


def test_rounds_in_two_processes_are_those_of_one(tmp_path):
    code, told = torchrun(tmp_path, "rounds")
    assert code == 0, told
    model, reports = sharing.rounds(tmp_path / "alone")
    assert [len(one) for one in (reports, told.split("RoundReport(")[1:])] == [2, 8]  # two processes, twice
    for r in (1, 2):
        one, two = (json.loads((tmp_path / where / f"round-{r:02}/report.json").read_text()) for where in ("alone", "own"))  # fmt: skip
        assert one.pop("loss") > 0 and two.pop("loss") > 0  # the Trainer's, of the first process's examples
        assert two == one and one["steps"] == 2
    for rank in (0, 1):
        own = load_file(tmp_path / f"weights-{rank}.safetensors")
        torch.testing.assert_close(own, {name: model.state_dict()[name] for name in own}, rtol=0, atol=1e-7)
    assert (tmp_path / "own/round-02/tokenizer.json").is_file()


def test_one_process_alone_is_told_so(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="needs several processes, found one: start them with torchrun"):
        shared(sharing.sampler())


# ---- a list of samplers


def test_two_samplers_in_a_list_draw_what_one_draws(alone, tmp_path):
    for name in RUNS:
        sample = shared([sharing.sampler(), sharing.sampler()])
        assert same(judged(sample, name, tmp_path), alone[name]), name


def test_two_servers_draw_what_one_draws():
    with stub() as one, stub() as other:
        servers = [server_sampler(each.url, "m", max_new_tokens=4) for each in (one, other)]
        for name in RUNS:
            assert same(judged(shared(servers), name), judged(servers[0], name))
        asked = [len(each.requests) for each in (one, other)]
        assert min(asked) > 100
        report = judged(shared(servers), "thinned")[2]
        assert str(report).count("8 of 8 side by side") == 2


def test_a_server_that_fails_is_named_and_what_the_other_drew_is_kept(tmp_path):
    with stub() as one, stub(fails=dict.fromkeys(range(60, 999), 500)) as other:
        servers = [server_sampler(each.client(), "m", max_new_tokens=4) for each in (one, other)]
        whole = judged(servers[0], "thinned")
        with pytest.raises(
            Unfinished, match=f"samples wait, after .*InternalServerError.*:{other.server_port}/"
        ):
            judged(shared(servers), "thinned", tmp_path)
        kept = json.loads(next(tmp_path.glob("*.part.json")).read_text())
        assert len(kept) >= 32
        assert same(judged(servers[0], "thinned", tmp_path), whole)


class Ray:
    """Of Ray what the how-to uses: an actor is a thread of its own, and what goes there is copied."""

    @staticmethod
    def remote(kind):
        def start():
            pool = ThreadPoolExecutor(1)
            actor = pool.submit(kind).result()
            copied = lambda *given: pickle.loads(pickle.dumps(given))
            draw = SimpleNamespace(remote=lambda *given: pool.submit(actor.draw, *copied(*given)))
            return SimpleNamespace(draw=draw)

        return SimpleNamespace(remote=start)

    @staticmethod
    def get(future):
        return future.result()


def test_the_lines_for_ray_draw_what_one_draws(alone, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", Ray)
    names = {"load": lambda: (sharing.sampler().model, sharing.END)}
    names |= {"shared": shared, "model_sampler": model_sampler}
    exec(sharing.block("ray.remote").replace("=64", "=4"), names)
    for name in RUNS:
        assert same(judged(names["sample"], name, tmp_path), alone[name]), name


def test_samplers_that_draw_otherwise_do_not_share():
    with pytest.raises(ValueError, match="those that share must draw the same, their keys are"):
        shared([server_sampler("http://127.0.0.1:1/v1", name) for name in "ab"])


def test_a_sampler_of_texts_shares_too_and_prompts_are_checked():
    def letters(prompts, rngs):
        return ["abc"[rng.integers(3)] for rng in rngs]

    def check(prompts, to_train):
        raise ValueError("no such prompts")

    assert same(judged(shared([letters] * 3), "thinned"), judged(letters, "thinned"))
    letters.check = check
    with pytest.raises(ValueError, match="no such prompts"):
        judged(shared([letters] * 3), "thinned")
