"""Break the code on purpose, in one way at a time, and see that a test notices.

    python tests/mutations.py

A test that cannot fail shows nothing. Each mutation replaces one text of one file in a temporary copy of the project; the test
named beside it passes before and must fail after. Exit code 1 if one survives; some minutes, two at a time.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """What is broken: old text -> new text in a file of rsf/; caught by the tests of a file of tests/ whose names have these words."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    words: str


MUTATIONS = [
    Mutation(
        *("a server's own min_p", "generation/engines.py"),
        '"min_p": 0.0}',
        '"min_p": 0.2}',
        "generation/test_engines.py",
        "first_tokens_follow_q",
    ),
    Mutation(
        *("a seed of few bits", "generation/engines.py"),
        "int(rng.integers(2**31))",
        "int(rng.integers(2**4))",
        "generation/test_engines.py",
        "each_sample_is_one_request",
    ),
    Mutation(
        *("what a failed block drew is forgotten", "generation/drafts.py"),
        "error.drafts = found | {",
        "error.drafts = found and {",
        "generation/test_engines.py",
        "loses_nothing_and_a_second_call_goes_on",
    ),
    Mutation(
        *("shares in another order", "generation/engines.py"),
        "{i + n * place: row",
        "{n * i + place: row",
        "generation/test_sharing.py",
        "two_samplers_in_a_list",
    ),
    Mutation(
        *("outcomes without a law pass", "checks/conformance.py"),
        "beyond = [outcome for outcome in seen if outcome not in law]",
        "beyond = []",
        "house/test_conformance.py",
        "one_outcome_that_the_law_does_not_have",
    ),
    Mutation(
        *("components judged one by one", "checks/conformance.py"),
        "p_value = 2 * value.size * stats",
        "p_value = 2 * stats",
        "house/test_conformance.py",
        "of_an_array_the_component",
    ),
    Mutation(
        "bound unchecked",
        "acceptance.py",
        "    if (log_a > ROUNDING).any():",
        "    if False:",
        "sampling/test_rejection.py",
        "above_1_and_nan",
    ),
    Mutation(
        "p and q swapped",
        "acceptance.py",
        "log_p - log_q - log_k)",
        "log_q - log_p - log_k)",
        "sampling/test_rejection.py",
        "law_of_a_finite_world",
    ),
    Mutation(
        *(
            "one coin for all candidates",
            "acceptance.py",
            "u = rng.random(log_a.shape)",
            "u = np.full(log_a.shape, rng.random())",
        ),
        *("sampling/test_rejection.py", "one_coin_per_candidate"),
    ),
    Mutation(
        "k too small passes",
        "sampling/rejection.py",
        "if too_large.any() and not clip:",
        "if too_large.any() and clip:",
        "sampling/test_rejection.py",
        "envelope_error",
    ),
    Mutation(
        *(
            "waiting-time bias",
            "sampling/rejection.py",
            "(self.accepted - 1) / (self.proposed - 1)",
            "self.accepted / self.proposed",
        ),
        *("sampling/test_rejection.py", "unbiased_and_covering"),
    ),
    Mutation(
        *(
            "a squeeze that no coin can take",
            "sampling/strips.py",
            "np.floor(self._bottom / self._hat * 2.0**44) / 2.0**44",
            "self._bottom / self._hat",
        ),
        *("sampling/test_strips.py", "squeeze_is_a_value"),
    ),
    Mutation(
        "a place beyond its strip",
        "sampling/strips.py",
        "np.nextafter(b - a, 0)",
        "b - a",
        "sampling/test_strips.py",
        "stay_in_their_strip",
    ),
    Mutation(
        "a tail without room",
        "sampling/landscape.py",
        "else 1.05 * s",
        "else s",
        "sampling/test_strips.py",
        "has_room_for_what",
    ),
    Mutation(
        "far peaks are not looked for",
        "sampling/bound.py",
        "FAR = np.concatenate([",
        "FAR = 0 * np.concatenate([",
        "sampling/test_strips.py",
        "several_far_peaks",
    ),
    Mutation(
        *(
            "rounding decides on k",
            "sampling/bound.py",
            "| (coarse & (log_p < top - 700.0))",
            "",
        ),
        *("sampling/test_strips.py", "difference_of_two_huge"),
    ),
    Mutation(
        *(
            "NaN with mass at an end",
            "sampling/bound.py",
            "and log_mass[beside].max() > log_mass.max() - 35",
            "and False",
        ),
        *("sampling/test_strips.py", "nan_anywhere_else"),
    ),
    Mutation(
        *(
            "a density that moves the candidates",
            "sampling/bound.py",
            "function(x.copy())",
            "function(x)",
        ),
        *("sampling/test_laws.py", "writes_into_its_points"),
    ),
    Mutation(
        *(
            "k not in log space",
            "rules/fixed.py",
            "log_acceptance(np.log(_non_negative(r)), 0.0, np.log(k))",
            "np.log(_non_negative(r) / k)",
        ),
        *("rules/test_fixed.py", "k_is_handled_in_log_space"),
    ),
    Mutation(
        *(
            "surrogate of another rule",
            "rules/fixed.py",
            "r, k + k * np.log(np.maximum(r, k) / k))",
            "r**2 / (2 * k), r - k / 2)",
        ),
        *("rules/test_fixed.py", "increments_of_the_surrogate"),
    ),
    Mutation(
        *(
            "a threshold excludes itself",
            "rules/fixed.py",
            "np.where(r >= threshold",
            "np.where(r > threshold",
        ),
        *("rules/test_fixed.py", "smallest_and_the_largest_probability"),
    ),
    Mutation(
        *(
            "weights divided by the kept",
            "rules/fixed.py",
            "np.where(kept, np.exp(-log_a), 0.0)",
            "np.exp(-log_a) * kept / max(kept.mean(), 1e-9)",
        ),
        *("rules/test_fixed.py", "inverse_weights_undo"),
    ),
    Mutation(
        "ties won by the first",
        "rules/fixed.py",
        "rng.random(best.shape)",
        "1.0",
        "rules/test_fixed.py",
        "tied_equally_often",
    ),
    Mutation(
        *(
            "control not blind",
            "rules/adaptive.py",
            "np.full(checked(criterion).shape, min(rate, 1.0))",
            "rate * self.rule(criterion)",
        ),
        *("rules/test_fixed.py", "control_is_blind"),
    ),
    Mutation(
        *("the window's lag not made up", "rules/adaptive.py", "self.level + gain * error", "self.level"),
        *("rules/test_adaptive.py", "differs_by_the_change_of_level"),
    ),
    Mutation(
        "ties not shared",
        "rules/adaptive.py",
        '("left", "right")',
        '("right", "right")',
        "rules/test_adaptive.py",
        "ties_sharing_theirs",
    ),
    Mutation(
        *(
            "state without its level",
            "rules/adaptive.py",
            '{"level": self.level}',
            '{"level": 1 - self.rate}',
        ),
        *("rules/test_adaptive.py", "restored_rule_goes_on"),
    ),
    Mutation(
        *(
            "coin reused",
            "selection/loader.py",
            "accept(log_a, self.rng,",
            "accept(log_a, np.random.default_rng(3),",
        ),
        *("selection/test_training.py", "follow_the_coins"),
    ),
    Mutation(
        *(
            "decision from the present block",
            "selection/loader.py",
            "log_a = np.asarray(self.rule",
            "self.rule.observe(criterion); log_a = np.asarray(self.rule",
        ),
        *("selection/test_training.py", "decided_from_the_blocks_before"),
    ),
    Mutation(
        "cost overcounted",
        "selection/loader.py",
        "report.scored += scored",
        "report.scored += 2 * scored",
        "selection/test_training.py",
        "report_has_the_totals",
    ),
    Mutation(
        *(
            "rejected work is trained on",
            "selection/loader.py",
            "for i in np.flatnonzero(kept).tolist()",
            "for i in range(n)",
        ),
        *("selection/test_training.py", "follow_the_coins"),
    ),
    Mutation(
        *(
            "a rank goes ahead of the others",
            "selection/loader.py",
            "(states == READY).all()",
            "(states == READY).any()",
        ),
        *("selection/test_distributed.py", "shards_that_would_yield"),
    ),
    Mutation(
        *(
            "the busiest rank ends the run",
            "selection/loader.py",
            "return NOT_YET if self.pending else END",
            "return END",
        ),
        *("selection/test_distributed.py", "a_rank_that_is_busier"),
    ),
    Mutation(
        *(
            "what waits is lost on resuming",
            "selection/loader.py",
            '"ready": [list(waiting) for waiting in self._waiting]',
            '"ready": []',
        ),
        *("selection/test_resume.py", "goes_on_from_any_place"),
    ),
    Mutation(
        "a collator is looked at twice",
        "selection/scoring.py",
        "DRAWS = 20",
        "DRAWS = 2",
        "selection/test_scoring.py",
        "flips_is_random_whatever",
    ),
    Mutation(
        "what has no label counts",
        "selection/losses.py",
        "weight = (labels != IGNORED)",
        "weight = (labels != IGNORED - 1)",
        "selection/test_losses.py",
        "cut_off_counts_as_little",
    ),
    Mutation(
        "the first look is the last",
        "selection/losses.py",
        "    return differs(float(weighted / total * count))",
        "    return True",
        "selection/test_losses.py",
        "fresh_head_decides_nothing",
    ),
    Mutation(
        *(
            "coins tossed again on resuming",
            "selection/loader.py",
            "self.rng.bit_generator.state = state",
            "_ = state",
        ),
        *("selection/test_resume.py", "goes_on_from_any_place"),
    ),
    Mutation(
        *(
            "a step left half accumulated",
            "selection/budget.py",
            "while self.loader.report",
            "while False and self.loader.report",
        ),
        *("selection/test_training.py", "a_step_that_was_begun"),
    ),
    Mutation(
        *(
            "the others' scoring is free",
            "selection/budget.py",
            "FORWARD * loader.pending * self.args.world_size",
            "FORWARD * loader.pending",
        ),
        *("selection/test_distributed.py", "budget_ends_as_if"),
    ),
    Mutation(
        *(
            "every pass in the same order",
            "selection/checkpoints.py",
            "torch.manual_seed(self.seed + self.epoch)",
            "torch.manual_seed(self.seed)",
        ),
        *("selection/test_distributed.py", "share_out_each_pass"),
    ),
    Mutation(
        *(
            "a pass that is over begins again",
            "selection/checkpoints.py",
            'if state["loader"]["place"]["block"]:',
            "if True:",
        ),
        *("selection/test_resume.py", "between_two_passes and grouped"),
    ),
    Mutation(
        *(
            "the caller's metrics are written into",
            "selection/trainer.py",
            "row = logs | ours | logs",
            "row = logs; row |= ours",
        ),
        *("selection/test_like_the_trainer.py", "metrics_hold_what"),
    ),
    Mutation(
        *(
            "a rule that is gone leaves its id, and its memory, to the next",
            "selection/trainer.py",
            "(self.rule, copy",
            "(None, copy",
        ),
        *("selection/test_like_the_trainer.py", "rules_that_come_and_go"),
    ),
    Mutation(
        *(
            "a pass is as long as the data, whatever is drawn",
            "selection/trainer.py",
            "drawn = (self._get_train_sampler(data) if own else None) or data",
            "drawn = data",
        ),
        *("selection/test_like_the_trainer.py", "with_a_sampler_of_ones_own"),
    ),
    Mutation(
        *(
            "a NaN of answers that are cut off spoils the weights",
            "selection/trainer.py",
            "torch.where(own.isnan(), 1.0, own / plain)",
            "(own / plain)",
        ),
        *("selection/test_features.py", "each_answers_end_is_cut_off"),
    ),
    Mutation(
        *(
            "an example that cannot be stored ends the training",
            "selection/checkpoints.py",
            "except (AttributeError, TypeError, ValueError, pickle.PicklingError) as error:",
            "except ValueError as error:",
        ),
        *("selection/test_resume.py", "that_no_checkpoint_can_hold"),
    ),
    Mutation(
        "the oracle takes sets for batches",
        "finite.py",
        "orders * np.prod",
        "np.prod",
        "house/test_finite.py",
        "all_batches_are_all",
    ),
    Mutation(
        "CVaR of the best share",
        "finite.py",
        "losses > loss]",
        "losses < loss]",
        "house/test_finite.py",
        "cvar_is_the_minimum",
    ),
    Mutation(
        *(
            "one stream for all samples",
            "generation/drafts.py",
            "(*seeds.spawn_key, *row)",
            "(*seeds.spawn_key, 0)",
        ),
        *("generation/test_judging.py", "completions_follow_the_model"),
    ),
    Mutation(
        *(
            "one coin for a block",
            "generation/drafts.py",
            "[one.random() for one in rngs]",
            "[rngs[0].random() for one in rngs]",
        ),
        *("generation/test_judging.py", "sample_j_of_a_prompt"),
    ),
    Mutation(
        *(
            "until accepted is forgotten",
            "generation/judging.py",
            "if accepted[i] < wanted and drawn[i] < most]",
            "if False]",
        ),
        *("generation/test_judging.py", "until_accepted_collects"),
    ),
    Mutation(
        *(
            "drafts that know no coins",
            "generation/drafts.py",
            "[key, str(seeds.entropy), seeds.spawn_key, rows",
            "[key, rows",
        ),
        *("generation/test_judging.py", "other_coins_prompts"),
    ),
    Mutation(
        *(
            "half a file of drafts",
            "accounts.py",
            "return part.replace(file)",
            "file.write_text(part.read_text()[:9])",
        ),
        *("generation/test_judging.py", "killed_and_resumed"),
    ),
    Mutation(
        *(
            "padding is attended to",
            "generation/sampler.py",
            "[[0] * (width - len(row)) + [1]",
            "[[1] * (width - len(row)) + [1]",
        ),
        *("generation/test_judging.py", "equal_at_every_batch_size"),
    ),
    Mutation(
        *(
            "the next token for the coin's",
            "generation/sampler.py",
            "* whole, right=True)",
            "* whole, right=True) + 1",
        ),
        *("generation/test_judging.py", "first_whose_cumulated"),
    ),
    Mutation(
        *(
            "coins on a device without float64",
            "generation/sampler.py",
            'coins.to(device) if device.type == "cuda" else coins',
            "coins.to(device)",
        ),
        *("generation/test_sampler.py", "device_without_float64"),
    ),
    Mutation(
        *("another row's cache", "generation/sampler.py", "reorder_cache(on)", "reorder_cache(on.flip(0))"),
        *("generation/test_judging.py", "rows_that_ended_leave"),
    ),
    Mutation(
        *(
            "rounds that never go back",
            "generation/rounds.py",
            "        if self.restart:",
            "        if False:",
        ),
        *("generation/test_rounds.py", "from_where_it_should"),
    ),
    Mutation(
        *(
            "rejected tokens cost nothing",
            "generation/encoding.py",
            "encoder=True)) + written",
            "encoder=True))",
        ),
        *("generation/test_rounds.py", "forward_passes_are_counted"),
    ),
    Mutation(
        *(
            "an end of a turn that nobody wrote",
            "generation/encoding.py",
            'cut = row.get("ended") is False',
            "cut = False",
        ),
        *("generation/test_conversations.py", "any_answer_is_learned"),
    ),
    Mutation(
        *("a pair of two as good", "generation/judging.py", 'and row["reward"] < least', "and True"),
        *("generation/test_conversations.py", "though_it_is_as_good"),
    ),
    Mutation(
        *("an end that nobody wrote", "generation/encoding.py", 'row.get("ended") is not False', "True"),
        *("generation/test_rounds.py", "end_is_learned_where"),
    ),
    Mutation(
        *(
            "weights of a round that is not done",
            "generation/rounds.py",
            "write_whole(self.trained(report.round), ",
            "write_whole(self.trained(report.round - 1), ",
        ),
        *("generation/test_rounds.py", "killed_between_the_weights"),
    ),
    Mutation(
        "null is no decision",
        "audit/columns.py",
        "-np.inf if log_a is None",
        "log_a if log_a is None",
        "audit/test_audit.py",
        "what_datasets_writes",
    ),
    Mutation(
        "chance has no KL",
        "audit/measure.py",
        "total += prompts * each",
        "total += 0 * each",
        "audit/test_audit.py",
        "its_kl_is_foretold",
    ),
    Mutation(
        *(
            "a ceiling that cuts nothing off",
            "audit/measure.py",
            "np.exp(np.minimum(log_p, 0))",
            "np.exp(log_p)",
        ),
        *("audit/test_audit.py", "what_a_ceiling_cuts_off"),
    ),
]


def pytest(copy, files, words):
    """Return pytest's exit code for the tests of some files whose names have one of some words: 0 all passed, 1 one failed."""
    named = [f"tests/{file}" for file in sorted(files)]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *named,
        "-k",
        " or ".join(words),
    ]
    # no bytecode: a mutated file of the same size and second would be taken for the old one
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True).returncode


def copied(folder):
    """Return a copy of all that the tests need."""
    for part in ("rsf", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / part, folder)
    return folder


def caught(mutation):
    """Break a copy in one way and run its tests; True if one of them fails."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        file = copy / "rsf" / mutation.file
        whole = file.read_text(encoding="utf-8")
        file.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
        return whole.count(mutation.old) == 1 and pytest(copy, [mutation.tests], [mutation.words]) == 1


def main():
    with tempfile.TemporaryDirectory() as folder:  # the unbroken tests, once in all
        files = {mutation.tests for mutation in MUTATIONS}
        if pytest(copied(Path(folder)), files, [mutation.words for mutation in MUTATIONS]) != 0:
            sys.exit("tests fail before anything is broken")
    survivors = 0
    with ThreadPoolExecutor(2) as pool:
        for mutation, noticed in zip(MUTATIONS, pool.map(caught, MUTATIONS), strict=True):
            survivors += not noticed
            verdict = "caught  " if noticed else "SURVIVED"
            where = f"{mutation.file:24s} {mutation.tests}  -k {mutation.words}"
            sys.stdout.write(f"{verdict}  {mutation.name:34s} {where}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(MUTATIONS) - survivors} of {len(MUTATIONS)} caught\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
