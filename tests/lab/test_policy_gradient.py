"""A policy gradient on the sums: its expected gradient against enumeration, what a step costs, runs that are cut off."""

import itertools
import json

import helpers
import numpy as np
import pytest
import torch

from rsf import __main__ as door
from rsf.lab import compact, records, verify
from rsf.lab.tasks import addition, policy, sums

SECTION = {
    **helpers.SUMS,
    "arms": ["policy-gradient", "policy-gradient-kl"],
    "batch": 16,
    "prompts": 4,
    "samples": 4,
    "grid_learning_rate": [0.001, 0.003],
    "grid_weight_decay": [1.0],
    "tuning": ["grid", "beyond"],
    "beyond": [[0.0003, 0.006], [1.0, 1.0]],
}
STAGES = {"main": {}, "grid": {"stage": "all"}, "beyond": {"stage": "beyond", "after": ["grid"]}}
KL = "kl = { policy-gradient = 0.0, policy-gradient-kl = 0.5 }\n"
STEP = 3 * 32 * 9  # of the other arms


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A protocol of a few seconds in a folder of its own."""
    text = ""
    for name, more in STAGES.items():
        text += f"[sums-{name}]\n" if name == "main" else f"[{name}]\n"
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in (SECTION | more).items()) + KL
    (tmp_path / "protocol.toml").write_text(text)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    addition.base.cache_clear()
    yield tmp_path
    addition.base.cache_clear()


@pytest.fixture(scope="module")
def world():
    """A model, another as its base, and all 1,728 completions of a sum with what casting out nines says of each."""
    model, base = (addition.tiny_gpt2(np.random.default_rng(seed), width=8) for seed in (0, 1))
    for one in (model, base):
        one.lm_head.weight.data *= 20  # completions that differ much in their probabilities
    prompt = "47+85="
    texts = ["".join(digits) for digits in itertools.product("0123456789+=", repeat=3)]
    rewards = np.array(addition.nines([prompt] * len(texts), texts))
    assert len(texts) == 1728 and rewards.sum() == 111
    return model, base, [prompt + text for text in texts], rewards


def gradient(value, model):
    model.zero_grad()
    value.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters()])


def expected(model, samples, weights, p):
    """The gradient of the loss on samples, averaged over what is drawn, given each completion's mean advantage."""
    given = torch.zeros(1, dtype=torch.float64)
    every = policy.log_probabilities(model, samples)
    # a loss is linear in its samples: 1,728 of them, each with its probability, are the mean over one
    return gradient(-given.mean() - (torch.from_numpy(p * weights) * every).sum(), model)


def test_log_probabilities_are_those_of_all_completions(world):
    model, _, samples, _ = world
    p = (3 * policy.log_probabilities(model, samples)).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    written = addition.own(model, addition.tokenizer())(["47+85="], [np.random.default_rng(5)])
    place = samples.index("47+85=" + written["completion"][0])
    # `generate` hands its logits on in float32
    assert p[place].log().item() == pytest.approx(written["log_probability"][0], abs=1e-6)


def mean_advantage(p, rewards, samples=4, advantages=policy.advantages):
    """The advantage of a sample without and with a reward, averaged over all verdicts on the others of its prompt."""
    chance = float(p @ rewards)
    found = np.zeros(2)
    for own in (0.0, 1.0):
        for others in itertools.product((0.0, 1.0), repeat=samples - 1):
            right = sum(others)
            weight = chance**right * (1 - chance) ** (samples - 1 - right)
            found[int(own)] += weight * advantages(np.array([[own, *others]]))[0, 0]
    return found[rewards.astype(int)]


def test_the_expected_gradient_is_that_of_the_expected_reward(world):
    model, _, samples, rewards = world
    p = (3 * policy.log_probabilities(model, samples)).exp()
    wanted = -gradient((p * torch.from_numpy(rewards)).sum(), model) / 3
    p = p.detach().numpy()
    found = expected(model, samples, mean_advantage(p, rewards), p)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    # counter-check: a baseline that holds the sample's own reward, too, is biased by a quarter

    def with_own(rewards):
        return rewards - rewards.mean(1, keepdims=True)

    biased = expected(model, samples, mean_advantage(p, rewards, advantages=with_own), p)
    torch.testing.assert_close(biased, 0.75 * wanted, rtol=0, atol=1e-13)


def test_with_kl_it_is_that_of_the_reward_less_kl_times_the_divergence(world):
    model, base, samples, rewards = world
    log_p, log_q = (3 * policy.log_probabilities(one, samples) for one in (model, base))
    ratio = log_p - log_q.detach()
    wanted = -gradient((log_p.exp() * (torch.from_numpy(rewards) - 0.5 * ratio)).sum(), model) / 3
    p = log_p.detach().exp().numpy()
    paid = rewards - 0.5 * ratio.detach().numpy()
    pairs = np.stack(np.broadcast_arrays(paid[:, None], paid), axis=-1).reshape(-1, 2)
    of_first = policy.advantages(pairs)[:, 0].reshape(len(p), len(p)) @ p  # the mean over the other of two
    torch.testing.assert_close(expected(model, samples, of_first, p), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_a_step_has_the_loss_of_its_sums_and_its_samples(world, kl, monkeypatch):
    model, base, _, _ = world
    written = []
    own = addition.own

    def listen(*given):
        sample = own(*given)

        def noted(prompts, rngs):
            written.append((prompts, sample(prompts, rngs)["completion"]))
            return {"completion": written[-1][1]}

        return noted

    monkeypatch.setattr(addition, "own", listen)
    monkeypatch.setattr(addition, "right", lambda prompts, texts: [float(one[0] < "5") for one in texts])
    loss, right = policy.step(model, base, ["12+34="], ["47+85=", "10+20="], 4, kl, np.random.default_rng(3))
    ((prompts, texts),) = written
    assert prompts == ["47+85="] * 4 + ["10+20="] * 4 and len(set(texts)) > 4
    rewards = np.array([float(one[0] < "5") for one in texts])
    assert 8 > right == rewards.sum() > 0
    fresh = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    log_p, log_q = (policy.log_probabilities(one, fresh).detach().numpy() for one in (model, base))
    rewards -= kl * 3 * (log_p - log_q)
    total = -policy.log_probabilities(model, ["12+34=640"]).item()
    for i in range(8):
        others = [j for j in range(8) if j != i and j // 4 == i // 4]
        total -= (rewards[i] - rewards[others].mean()) * log_p[i] / 8
    assert loss.item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("arm, a_step", [("policy-gradient", 1008), ("policy-gradient-kl", 1152)])
def test_passes_are_those_of_the_tokens_that_models_read(small, arm, a_step, monkeypatch):
    trained, scored = [], []
    log_probabilities = policy.log_probabilities

    def counted(model, rows):
        (trained if torch.is_grad_enabled() else scored).append(9 * len(rows))
        return log_probabilities(model, rows)

    monkeypatch.setattr(policy, "log_probabilities", counted)
    _, reports, spent = sums.train("sums-main", arm, 0, (0.003, 1.0))
    steps = 20 * STEP // a_step
    assert [report.steps for report in reports] == [steps] * 2
    assert [report.sampling.samples for report in reports] == [16 * steps] * 2
    written = 9 * sum(report.sampling.samples for report in reports)
    assert spent == 20 * STEP + written + sum(scored) + 3 * sum(trained) == reports[-1].spent
    assert spent == 20 * STEP + 2 * steps * a_step and 60 * STEP - 2 * a_step < spent <= 60 * STEP


def test_85_steps_of_1008_passes_a_segment_and_75_of_1152_with_kl():
    settings = records.protocol("sums-200-policy")
    a_round = (settings["steps"] - settings["base_steps"]) // settings["rounds"] * STEP
    assert (a_round // 1008, a_round // 1152, a_round % 1152) == (85, 75, 0)
    assert settings["kl"] == {"policy-gradient": 0.0, "policy-gradient-kl": 0.02}
    assert (settings["batch"], settings["prompts"], settings["samples"]) == (16, 4, 4)


def test_a_segment_begins_with_a_new_optimiser_and_ends_at_rate_0_without_clipping(small, monkeypatch):
    made = []
    trainer = policy.Trainer

    class Noted(trainer):
        def create_optimizer_and_scheduler(self, steps):
            super().create_optimizer_and_scheduler(steps)
            made.append((self, steps))

    addition.base("sums-main", 0)  # by the others' Trainer, which clips
    monkeypatch.setattr(policy, "Trainer", Noted)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", None)  # is not called
    sums.train("sums-main", "policy-gradient", 0, (0.003, 1.0))
    assert len({id(one.optimizer) for one, _ in made}) == 2
    for one, steps in made:
        assert one.lr_scheduler.get_last_lr() == [0.0] * 2 and one.lr_scheduler.last_epoch == steps
        assert one.optimizer.param_groups[0]["betas"] == (0.9, 0.98)
        assert [group["weight_decay"] for group in one.optimizer.param_groups] == [1.0, 0.0]


def test_the_coins_are_numpys_and_a_run_made_again_is_the_same(small):
    torch.manual_seed(1)
    first, reports, _ = sums.train("sums-main", "policy-gradient", 0, (0.003, 1.0))
    torch.manual_seed(2)
    second, again, _ = sums.train("sums-main", "policy-gradient", 0, (0.003, 1.0))
    assert reports == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_runs_that_are_cut_off_go_on_and_are_verified(small, monkeypatch, tmp_path):
    run = sums.run
    done = []

    def cut_off(*asked):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(asked)
        return run(*asked)

    monkeypatch.setattr(sums, "run", cut_off)
    with pytest.raises(KeyboardInterrupt):
        door.experiment("grid")
    before = {file.name: file.read_bytes() for file in (small / "grid").iterdir()}
    assert len(before) == 2
    monkeypatch.setattr(sums, "run", run)
    door.experiment("grid")
    assert not records.missing("grid")
    assert all((small / "grid" / name).read_bytes() == data for name, data in before.items())
    door.experiment("beyond")
    door.experiment("sums-main")
    assert not records.missing("beyond") and not records.missing("sums-main")
    monkeypatch.setitem(verify.NEEDED, "grid", {"grid", "validation"})
    for name in ("grid", "beyond", "sums-main"):
        assert verify.section(name) == []
    record = records.find("sums-main", "policy-gradient-kl", 1)
    numbers = record["numbers"]
    assert compact.unpack(numbers["right"], 40).mean() == numbers["accuracy"]
    assert numbers["setting"] in [[rate, 1.0] for rate in (0.0003, 0.001, 0.003, 0.006)]
    with pytest.raises(ValueError, match="forward_passes"):
        verify.recompute(record | {"numbers": numbers | {"forward_passes": numbers["forward_passes"] - 144}})


def test_a_rate_at_the_edge_has_one_beyond_it_and_one_inside_has_none(small):
    for seed in (0, 1):
        scores = {"grid": [(0.001, 1.0), (0.003, 1.0)], "validation": [0.2, 0.5], "kept": [[1], [1]]}
        records.write("grid", "policy-gradient", seed, records.Run("d", "m", "CPU", scores))
    assert sums.grid("beyond", "policy-gradient") == [(0.006, 1.0)]
