"""Servers as samplers: llama.cpp's draws from exact q, and a stub shows what may go wrong, and that nothing is lost."""

import warnings

import numpy as np
import pytest
import torch
from helpers import letters_tokenizer, tiny_gpt2
from scipy import stats
from servers import WORDS, Q, llama_server, stub, write_gguf
from sharing import block

from rsf.generation import Unfinished, sample_and_judge, server_sampler
from rsf.generation.engines import LAW
from rsf.rules import above

LETTERS = "abcdef"
MODEL = tiny_gpt2(7, seed=3, n_embd=32, initializer_range=0.4)
MODEL.generation_config.eos_token_id = 6
TOKENIZER = letters_tokenizer(LETTERS, eos_token="<end>")
PROMPTS = ["a", "bc", "def", "fade"]


def coins(number, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(number)]


def many_a(prompts, completions, **_):
    return [float(text.count("a")) for text in completions]


def judged(sample, prompts=PROMPTS, rule=None, reward=many_a, **options):
    options = {"samples_per_prompt": 6} | options
    return sample_and_judge(sample, prompts, reward, rule or above(1), np.random.default_rng(5), **options)


# ---- llama.cpp's own server


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_gguf(MODEL, LETTERS, file)
    with llama_server(file) as url:
        yield url


def log_q(prompt, ids):
    rows = torch.tensor([TOKENIZER(prompt)["input_ids"] + ids])
    with torch.no_grad():
        law = MODEL(rows).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
    return law.gather(1, torch.tensor(ids)[:, None])[:, 0].numpy()


def first_tokens(url, **options):
    """Return the p-value of 3,000 first tokens against the model's own law."""
    sample = server_sampler(url, "tiny", max_new_tokens=1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its defaults are other ones
        texts = sample(["ab"] * 3000, coins(3000))["completion"]
    with torch.no_grad():
        law = MODEL(torch.tensor([[0, 1]])).logits[0, -1].softmax(-1).numpy()
    seen = np.array([texts.count(word) for word in [*LETTERS, ""]])
    return stats.chisquare(seen, 3000 * law / law.sum()).pvalue


def test_first_tokens_follow_q_and_by_the_engines_defaults_they_do_not(llama):
    assert first_tokens(llama) > 1e-3
    assert first_tokens(llama, extra_body=dict.fromkeys(LAW)) < 1e-9


def test_greedy_text_is_that_of_transformers(llama):
    drafts = server_sampler(llama, "tiny", max_new_tokens=8, extra_body={"temperature": 0})
    with pytest.warns(UserWarning):
        drafts = drafts(PROMPTS, coins(4))
    for prompt, text in zip(PROMPTS, drafts["completion"], strict=True):
        rows = torch.tensor([TOKENIZER(prompt)["input_ids"]])
        new = MODEL.generate(rows, max_new_tokens=8, do_sample=False, pad_token_id=6)[0, rows.shape[1] :]
        assert text == TOKENIZER.decode(new, skip_special_tokens=True)
    assert drafts["log_probability"] == [None] * 4  # what the engine gives is the model's law


def test_log_probabilities_and_ends_are_those_of_the_model(llama):
    sample = server_sampler(llama, "tiny", max_new_tokens=6)
    prompts = PROMPTS * 25
    drafts = sample(prompts, coins(100))
    for i, prompt in enumerate(prompts):
        ids = TOKENIZER(drafts["completion"][i])["input_ids"] + [6] * drafts["ended"][i]
        assert len(ids) == drafts["tokens"][i]
        assert abs(drafts["log_probability"][i] - log_q(prompt, ids).sum()) < 2e-3 * len(ids)
    assert 0 < sum(drafts["ended"]) < 100
    assert sample.engine == f"tiny at {llama}/ wrote the same again: 8 of 8 alone, 8 of 8 side by side"


def test_400_requests_are_the_same_at_any_concurrency(llama):
    drafts = [
        server_sampler(llama, "tiny", max_new_tokens=6, concurrency=n)(PROMPTS * 100, coins(400))
        for n in (1, 7, 32)
    ]
    assert drafts[0]["completion"] == drafts[1]["completion"] == drafts[2]["completion"]
    assert len(set(drafts[0]["completion"])) > 50


def test_conversations_are_answered_as_the_text_that_the_template_makes_of_them(llama):
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    kept, told, _ = judged(
        server_sampler(llama, "tiny", max_new_tokens=6),
        chats,
        reward=lambda prompts, completions: [said[0]["content"].count("a") for said in completions],
    )
    _, texts, _ = judged(server_sampler(llama, "tiny", max_new_tokens=6))
    assert [said[0]["content"] for said in told["completion"]] == texts["completion"][:]
    assert told["ended"][:] == texts["ended"][:] and 0 < len(kept) < len(told)
    np.testing.assert_allclose(told["log_probability"][:], texts["log_probability"][:], atol=1e-3)


def test_what_a_stop_string_ended_the_model_did_not_end(llama):
    with pytest.warns(UserWarning, match="no log probabilities, or not of every token"):
        drafts = server_sampler(llama, "tiny", max_new_tokens=6, stop="d")(PROMPTS * 25, coins(100))
    free = server_sampler(llama, "tiny", max_new_tokens=6)(PROMPTS * 25, coins(100))
    cut = [text.split("d")[0] for text in free["completion"]]
    assert [text.removesuffix("d") for text in drafts["completion"]] == cut
    stopped = [i for i, text in enumerate(free["completion"]) if "d" in text]
    assert stopped and not any(drafts["ended"][i] for i in stopped)


# ---- a stub: what it is asked, and how its answers are read


def test_each_sample_is_one_request_with_a_seed_of_its_own_and_its_law_in_full():
    with stub() as server:
        sample = server_sampler(server.url, "m", max_new_tokens=3, extra_body={"top_k": None, "mine": 1})
        sample(["x", "y"] * 20, coins(40))
        asked = server.requests[-40:]
    assert {one["path"] for one in asked} == {"/v1/completions"}
    for name, value in (LAW | {"top_k": "gone", "n": 1, "mine": 1, "max_tokens": 3}).items():
        assert {one.get(name, "gone") for one in asked} == {value}
    assert sorted(one["seed"] for one in asked) == sorted(int(rng.integers(2**31)) for rng in coins(40))


@pytest.mark.parametrize("legacy", [True, False])
def test_log_probabilities_are_read_in_both_formats(legacy):
    with stub(legacy=legacy) as server:
        drafts = server_sampler(server.url, "m", max_new_tokens=5)(["x"] * 50, coins(50))
    log = dict(zip(WORDS, np.log(Q), strict=True))
    for text, own, log_q, tokens in zip(
        *(drafts[name] for name in ("completion", "ended", "log_probability", "tokens")), strict=True
    ):
        assert np.isclose(log_q, sum(log[one] for one in text) + own * log[""])
        assert tokens == len(text) + own
    assert 0 < sum(drafts["ended"]) < 50


@pytest.mark.parametrize(
    "says, text, ended",
    [
        ({"text": "a", "stop_reason": "b"}, "ab", False),  # vLLM
        ({"text": "ab", "stop_reason": "b"}, "ab", False),
        ({"text": "a", "stop_reason": None}, "a", True),
        ({"text": "a", "stop_reason": 7}, "a", True),  # a token that ends
        ({"text": "a", "matched_stop": "b"}, "ab", False),  # SGLang
        ({"text": "a", "matched_stop": 7}, "a", True),
        ({"text": "a"}, "a", False),  # who knows
    ],
)
def test_an_end_is_the_models_only_where_the_engine_says_so(says, text, ended):
    with stub(says=says | {"finish_reason": "stop"}) as server:
        sample = server_sampler(server.url, "m", stop="b")
        sample.same = {"alone": 8}
        drafts = sample(["x"], coins(1))
    assert (drafts["completion"], drafts["ended"]) == ([text], [ended])


# ---- the probe


def warned(prompts=4, concurrency=16, options=None, **faults):
    """Return the sampler and what was warned of, of a stub with faults."""
    with stub(**faults) as server, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        sample = server_sampler(server.url, "m", concurrency=concurrency, **options or {"max_new_tokens": 8})
        sample(["x"] * prompts, coins(prompts))
        sample(["x"] * prompts, coins(prompts))  # once is enough
    return sample, [str(one.message) for one in heard if one.category is UserWarning]


def test_a_good_engine_is_not_warned_of():
    sample, heard = warned()
    assert heard == [] and sample.same == {"alone": 8, "side by side": 8} and sample.ignored == []


def test_seeds_that_are_shared_among_requests_under_way_are_found():
    sample, heard = warned(shared_seed=True)
    assert sample.same["alone"] == 8 and sample.same["side by side"] < 8
    assert len(heard) == 1 and "of 8 side by side: concurrency=1 may help" in heard[0]
    assert warned(shared_seed=True, concurrency=1)[1] == []


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "temperature"])
def test_a_parameter_that_is_ignored_is_named(name):
    sample, heard = warned(ignores=[name])
    assert sample.ignored == [name]
    assert len(heard) == 1 and f"it ignored {name}: its own defaults decide" in heard[0]


def test_an_ignored_seed_is_an_error_or_without_log_probabilities_a_warning():
    with pytest.raises(ValueError, match="for each of 8 seeds: it ignores seed or temperature"):
        warned(ignores=["seed"])
    heard = warned(ignores=["seed"], no_log_probability=True)[1]
    assert len(heard) == 2 and "gives no log probabilities" in heard[0] and "it ignores seed" in heard[1]


@pytest.mark.parametrize(
    "faults, message",
    [
        ({"ignores": ["max_tokens"]}, r"m wrote \d+ tokens where max_tokens=1 was asked for"),
        ({"choices": 2}, "m gave 2 choices where one was asked for"),
        ({"choices": 0}, "m gave 0 choices"),
        ({"says": {"text": None}}, "m gave no text"),
    ],
)
def test_answers_to_something_else_are_errors(faults, message):
    with pytest.raises(Unfinished, match=f"2 of 2 samples wait, after 'x': ValueError: {message}"):
        warned(2, options={"max_new_tokens": 1}, **faults)


def test_the_report_says_what_the_engine_gave():
    with stub() as server:
        sample = server_sampler(server.url, "m")
        assert sample.engine == ""
        report = judged(sample)[2]
    assert str(report).endswith(f"; {sample.engine}") and sample.engine.endswith("8 of 8 side by side")


def test_the_lines_of_the_how_to_run(tmp_path):
    names = {"sample_and_judge": sample_and_judge, "above": above, "np": np}
    names |= {"prompts": PROMPTS, "reward": many_a, "folder": tmp_path}
    with stub() as server:
        lines = block("server_sampler(").replace("http://localhost:8000/v1", server.url)
        exec(lines.replace('"out"', "folder"), names)
    assert str(names["report"]).endswith("8 of 8 side by side")
    assert len(names["judged"]) == 16 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"concurrency": 0}, {"stop": ""}, {"stop": ["a", ""]}]
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="must be positive, stop strings not empty"):
        server_sampler("http://127.0.0.1:1/v1", "m", **options)


def test_one_generator_for_each_prompt_of_a_list():
    with pytest.raises(ValueError, match="need a list of prompts and a Generator for each"):
        server_sampler("http://127.0.0.1:1/v1", "m")("ab", coins(2))


# ---- nothing that was sampled is lost

FREE = 8 * 3 + 8 * 4  # requests of the probe


def complete(folder=None, **options):
    with stub(**options) as server:
        return judged(server_sampler(server.client(), "m", max_new_tokens=5, concurrency=2), folder=folder)


@pytest.mark.parametrize(
    "fault, why",
    [
        ({"fails": {FREE + 15: 429}}, "RateLimitError"),
        ({"fails": {FREE + 15: 500}}, "InternalServerError"),
        ({"fails": {FREE + 15: "dies"}}, "APIConnectionError"),
        ({"fails": {0: 500}}, "InternalServerError"),  # in the probe
    ],
)
def test_a_server_that_fails_loses_nothing_and_a_second_call_goes_on(fault, why, tmp_path):
    whole = complete()
    with pytest.raises(Unfinished, match=rf"\d+ of 24 samples wait, after '.*{why}: .*same folder") as failed:
        complete(tmp_path, **fault)
    assert "\n" not in str(failed.value)
    drawn = len(failed.value.drafts)
    assert drawn == 0 if 0 in fault["fails"] else 14 <= drawn < 24
    with stub() as server:
        sample = server_sampler(server.client(), "m", max_new_tokens=5, concurrency=2)
        again = judged(sample, folder=tmp_path)
        assert len(server.requests) == FREE + 24 - drawn
    assert [table[:] for table in again[:2]] == [table[:] for table in whole[:2]]
    assert not list(tmp_path.glob("*.part*"))


def test_a_failure_stops_what_has_not_begun():
    # what fails after the first does so late: however slow the machine, it is not begun meanwhile
    with stub(fails={FREE + 3: 500, **dict.fromkeys(range(FREE + 4, 10**4), "late")}) as server:
        sample = server_sampler(server.client(), "m", concurrency=2)
        with pytest.raises(Unfinished, match=r"997 of 1000 samples wait"):
            sample(["x"] * 1000, coins(1000))
        assert FREE + 4 <= len(server.requests) <= FREE + 6  # the other one's, and one more


def test_the_clients_retries_and_time_limits_hold(tmp_path):
    with stub(fails={FREE: 429, FREE + 3: 500}) as server:
        sample = server_sampler(server.client(max_retries=3), "m", max_new_tokens=5)
        assert judged(sample)[1][:] == complete()[1][:]
    with stub(slow=0.5) as server:
        sample = server_sampler(server.client(timeout=0.05), "m")
        with pytest.raises(Unfinished, match="APITimeoutError"):
            sample(["x"], coins(1))


def test_a_key_is_another_for_another_law_and_the_same_at_another_address():
    def key(url="http://127.0.0.1:1/v1", model="m", **options):
        return server_sampler(url, model, **options).key()

    different = [{"model": "n"}, {"max_new_tokens": 3}, {"stop": "a"}, {"extra_body": {"top_k": 3}}]
    assert len({key(), *(key(**one) for one in different)}) == 5
    assert key("http://127.0.0.1:2/v1", concurrency=3) == key()
