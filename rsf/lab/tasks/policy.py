"""A policy gradient on the sums, beside rejection: the reward of a sample weighs it, and none is rejected.

    loss = - mean log p(answer) - mean a log p(sample),    a = reward - mean reward of its prompt's others

Both log-probabilities are means over the three digits. A sample's own reward is not in what is taken off, so
the expected gradient is that of - E[reward] / 3. With KL, the reward is less kl log(p / p of the base), and
the expectation is E[reward] - kl KL(model to base).
"""

import copy
import tempfile

import numpy as np
import torch
from transformers import PreTrainedModel, Trainer

from rsf.accounts import FORWARD, TRAIN
from rsf.generation import RoundReport, SamplingReport
from rsf.lab import records
from rsf.lab.tasks import addition

DIGITS = 3  # of an answer


def log_probabilities(model: PreTrainedModel, sums: list[str]) -> torch.Tensor:
    """Return the mean log-probability of the three digits after "=" of each sum with its answer (n,)."""
    ids = torch.tensor(addition.tokenizer()(sums)["input_ids"])  # (n, 9)
    each = model(ids).logits[:, -DIGITS - 1 : -1].log_softmax(-1)  # (n, 3, 12)
    return each.gather(2, ids[:, -DIGITS:, None]).mean((1, 2))


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Return each reward (prompts, samples) less the mean of the prompt's other samples.

    >>> advantages(np.array([[1.0, 0.0, 0.0, 1.0]])).round(4).tolist()
    [[0.6667, -0.6667, -0.6667, 0.6667]]
    """
    samples = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdims=True)) * samples / (samples - 1)


def loss(given: torch.Tensor, sampled: torch.Tensor, rewards: np.ndarray) -> torch.Tensor:
    """Return the loss of a step from the mean log-probabilities of answers (m,) and of samples (n,).

    The rewards are (prompts, samples), n in all; no gradient goes through them.
    """
    return -given.mean() - (torch.from_numpy(advantages(rewards).ravel()) * sampled).mean()


def step(
    model: PreTrainedModel,
    base: PreTrainedModel,
    own: list[str],
    prompts: list[str],
    samples: int,
    kl: float,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, int]:
    """Return the loss on sums with answers and on fresh samples of others, and how many of them are right."""
    asked = [prompt for prompt in prompts for _ in range(samples)]
    written = addition.own(model, addition.tokenizer())(asked, rng.spawn(len(asked)))["completion"]
    rewards = np.array(addition.right(asked, written))
    fresh = [prompt + text for prompt, text in zip(asked, written, strict=True)]
    answered = [prompt + addition.answer(prompt) for prompt in own]
    given, sampled = log_probabilities(model, answered + fresh).split([len(answered), len(fresh)])
    right = int(rewards.sum())
    if kl:
        with torch.no_grad():
            rewards -= kl * DIGITS * (sampled - log_probabilities(base, fresh)).numpy()
    return loss(given, sampled, rewards.reshape(-1, samples)), right


def train(experiment: str, arm: str, seed: int, setting: tuple) -> tuple:
    """Return (model, reports, spent) of an arm with a learning rate and a weight decay.

    It goes on from the base in segments of as many passes as the other arms' rounds.
    """
    settings = records.protocol(experiment)
    sums = addition.world(settings, seed)
    base = addition.base(experiment, seed)[0]
    model = copy.deepcopy(base)
    kl = settings["kl"][arm]
    drawn = settings["prompts"] * settings["samples"]
    a_step = addition.TOKENS * (
        FORWARD * (2 if kl else 1) * drawn  # with KL the base reads the samples, too
        + TRAIN * (settings["batch"] + drawn)
    )
    steps = (settings["steps"] - settings["base_steps"]) // settings["rounds"] * addition.STEP // a_step
    spent = settings["base_steps"] * addition.STEP
    reports = []
    for number in range(settings["rounds"]):
        rng = np.random.default_rng([seed, 4, number])
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(model, addition.arguments(folder, rng, steps, *setting))
        trainer.create_optimizer_and_scheduler(steps)
        right = 0
        for _ in range(steps):
            own = rng.choice(sums["supervised"], settings["batch"], replace=False).tolist()
            prompts = rng.choice(sums["pool"], settings["prompts"], replace=False).tolist()
            objective, rewarded = step(model, base, own, prompts, settings["samples"], kl, rng)
            trainer.optimizer.zero_grad()
            objective.backward()
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            right += rewarded
        spent += steps * a_step
        totals = SamplingReport(steps * settings["prompts"], steps * drawn, accepted=right)
        reports.append(RoundReport(number + 1, totals, right / totals.samples, spent, steps=steps))
    return model, reports, spent
