"""Several processes: the same number of steps on each, however unlike their acceptance is; nothing hangs, nothing is counted twice.

The protocol is tried out with threads (a broken barrier fails where processes would wait forever), then with real processes under
torchrun (gloo, on the CPU): this file is also what they run.
"""

import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from heads import HEADS, trained
from helpers import DATA, arguments, no_dropout, same_weights, tiny_bert, train
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerCallback

from rsf.acceptance import AcceptanceStarved
from rsf.rules import above, clipped, constant
from rsf.selection import RejectionLoader, RSFTrainer
from rsf.selection.checkpoints import file_of, last_whole


def together(ranks, make, passes=3):
    """Iterate one loader per rank, each in a thread, as a Trainer would; return what each got: a list of passes of batches."""
    barrier, table, got = threading.Barrier(ranks, timeout=60), [None] * ranks, [None] * ranks

    def work(rank):
        def gather(numbers):
            table[rank] = numbers
            barrier.wait()
            everyone = np.array(table)
            barrier.wait()
            return everyone

        loader = make(rank, gather)
        try:
            got[rank] = (loader, [list(loader) for _ in range(passes)])
        except AcceptanceStarved as reason:
            got[rank] = (loader, str(reason))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not barrier.broken and None not in got
    return got


def loader_of(rank, gather, accept, *, blocks=8, size=4, **more):
    """Blocks of 5 examples (rank, number); `accept` keeps by rank and number."""
    candidates = [[(rank, 5 * i + j) for j in range(5)] for i in range(blocks)]
    score = lambda block: np.array([float(accept(*example)) for example in block])
    return RejectionLoader(
        candidates, score, above(1), size, np.random.default_rng(rank), collate=list, all_ranks=gather, **more
    )


def batches_of(got):
    return [[len(batches) for batches in passes] for _, passes in got]


def test_shards_that_would_yield_5_and_6_batches_yield_as_many_on_both():
    alone = [
        together(1, lambda _, gather, rank=rank: loader_of(rank, gather, lambda r, i: r == 1 or i % 5))[0]
        for rank in (0, 1)
    ]
    assert [len(alone[rank][1][0]) for rank in (0, 1)] == [8, 10]
    both = together(2, lambda rank, gather: loader_of(rank, gather, lambda r, i: r == 1 or i % 5))
    (one, other), kept = batches_of(both), [32, 40]
    assert one == other and sum(one) >= 24  # three passes of the slower
    for rank, (loader, _) in enumerate(both):
        assert loader.report.kept == kept[rank] * loader._place.passes + sum(loader_kept(loader, rank))
        assert loader.total.kept == sum(other.report.kept for other, _ in both)


def loader_kept(loader, rank):
    """What the pass that was begun kept so far."""
    return [rank == 1 or number % 5 > 0 for number in range(5 * loader._place.block)]


def test_a_rank_that_rejects_everything_for_a_while_is_waited_for():
    passes = Counter()

    def late(rank, number):
        passes[rank, number] += 1
        return rank == 0 or passes[rank, number] > 3  # nothing in its first three passes

    got = together(2, lambda rank, gather: loader_of(rank, gather, late))
    one, other = batches_of(got)
    assert one == other and sum(one) > 0 and got[1][0]._place.passes >= 4 and got[0][0]._place.passes <= 3


@pytest.mark.parametrize("seed", range(40))
def test_any_acceptance_any_number_of_ranks_any_budget_in_step(seed):
    rng = np.random.default_rng(seed)
    ranks, size, budget = int(rng.integers(2, 5)), int(rng.integers(1, 7)), int(rng.integers(20, 400))
    rates, blocks = rng.uniform(0, 1, ranks) ** 2, rng.integers(1, 9, ranks)

    def make(rank, gather):
        coins = np.random.default_rng([seed, rank])
        loader = loader_of(
            rank, gather, lambda *_: coins.random() < rates[rank], blocks=int(blocks[rank]), size=size
        )
        loader.stop = lambda: loader.total.scored + ranks * loader.pending >= budget
        return loader

    got = together(ranks, make)
    assert (
        len(
            {json.dumps(numbers) for numbers in batches_of(got)}
            if isinstance(got[0][1], list)
            else {text for _, text in got}
        )
        == 1
    )
    assert len({str(loader.total) for loader, _ in got}) == 1
    total = got[0][0].total
    for name in ("candidates", "scored", "kept", "trained"):
        assert getattr(total, name) == sum(getattr(loader.report, name) for loader, _ in got)
    assert total.scored < budget + 5 * ranks


def test_a_rank_that_is_busier_than_the_others_does_not_end_the_run_before_the_budget_is_spent():
    def make(rank, gather):
        loader = loader_of(rank, gather, lambda rank, _: rank == 0)
        loader.stop = lambda: loader.total.scored + 2 * loader.pending >= 100
        return loader

    assert 100 <= together(2, make, passes=1)[0][0].total.scored < 110


def test_where_no_rank_keeps_anything_all_starve_with_the_same_words():
    got = together(3, lambda rank, gather: loader_of(rank, gather, lambda *_: False))
    assert {text for _, text in got} == {got[0][1]} and "kept none of 120 candidates" in got[0][1]


def test_a_checkpoint_is_whole_when_all_ranks_wrote_theirs(tmp_path):
    for step, ranks in ((5, (0, 1)), (10, (0,))):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        for rank in ranks:
            (folder / file_of(rank)).touch()
    assert last_whole(tmp_path, 2).endswith("checkpoint-5") and last_whole(tmp_path, 1).endswith(
        "checkpoint-10"
    )


# ---- real processes


def first_token(model, inputs, outputs):
    """A criterion that is nearly always 1 on the first process and seldom more than 0.1 on the others."""
    return (
        (inputs["input_ids"][:, 0] / 50 + 0.5).clamp(max=1)
        if os.environ["RANK"] == "0"
        else (inputs["input_ids"][:, 0] / 50) ** 8
    )


class Watch(TrainerCallback):
    """Counts by itself what this process computes, and what passes through DDP."""

    def __init__(self, model):
        self.cost, self.wrapped, self.rates, self.evaluated = 0, 0, [], 0
        model.register_forward_pre_hook(self.count, with_kwargs=True)
        DistributedDataParallel.forward = self.through(DistributedDataParallel.forward)

    def through(self, forward):
        def counted(*words, **more):
            self.wrapped += 1
            return forward(*words, **more)

        return counted

    def count(self, model, _, inputs):
        if model.training or not torch.is_grad_enabled():
            self.cost += len(inputs["input_ids"]) * (3 if torch.is_grad_enabled() else 1)

    def on_step_end(self, args, state, control, optimizer, **_):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_evaluate(self, *_, **__):
        self.evaluated += 1


def digest(model):
    return [p.double().sum().item() for p in model.state_dict().values()]


def unlike(folder):
    """Acceptance of about 0.97 and 0.1."""
    forward = DistributedDataParallel.forward
    watch, told = Watch(model := tiny_bert()), []
    options = {"compute_budget": 1200, "max_steps": -1, "logging_steps": 2}
    more = {"criterion": first_token, "on_decision": lambda block, r, kept: told.append(kept.tolist())}
    trainer = train(folder, model, options=options, rule=clipped(1), callback=watch, **more)
    DistributedDataParallel.forward = forward
    report, total = trainer.loader.report, trainer.loader.total
    return {
        "steps": trainer.state.global_step,
        "weights": digest(trainer.model),
        "rates": watch.rates,
        "own cost": watch.cost,
        "own count": report.scored + 3 * report.trained,
        "spent": trainer.spent,
        "wrapped": watch.wrapped,
        "acceptance": report.acceptance_rate,
        "kept": [report.kept, total.kept],
        "logged": [row for row in trainer.state.log_history if "loss" in row],
        "told": told,
    }


def same_coins(folder):
    """Whether the same seed tosses the same coins again, another one others."""
    told = []
    for seed in (9, 9, 8):
        told.append([])
        note = lambda block, r, kept, told=told[-1]: told.extend(kept.tolist())
        train(folder, options={"seed": seed, "max_steps": 4}, rule=constant(0.5), on_decision=note)
    return {"again": told[0] == told[1], "other": told[0][:20] != told[2][:20], "coins": told[0][:20]}


def plain(folder):
    """Whether keeping everything is the Trainer, and so is the twin that keeps everything, to rounding."""
    options = {"gradient_accumulation_steps": 2, "max_steps": 6, "max_grad_norm": 1.0}
    stock, ours = (
        train(folder, no_dropout(), Trainer, options=options),
        train(folder, no_dropout(), options=options),
    )
    twin = train(folder, no_dropout(), options=options | {"weighting": "acceptance"}, rule=above(-1))
    close = all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-5)
        for a, b in zip(stock.model.parameters(), twin.model.parameters(), strict=True)
    )
    return {
        "same": same_weights(stock.model, ours.model),
        "twin": close,
        "steps": ours.state.global_step,
        "with dropout": [with_dropout(folder, options) for options in WITH_DROPOUT],
    }


WITH_DROPOUT = [
    {},
    {
        "examples": 26,
        "max_steps": -1,
        "num_train_epochs": 5,
    },  # the last batches are filled from the beginning
    {"progress": "updates"},
    {"per_device_train_batch_size": 5, "max_steps": -1, "num_train_epochs": 3, "dataloader_drop_last": True},
    {"dataloader_num_workers": 1, "max_steps": 12},
    {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "max_steps": 12},
]


def with_dropout(folder, options):
    """Whether keeping everything is the Trainer over several passes, with masks drawn from torch's generator."""
    mine = {name: value for name, value in options.items() if name != "progress"}
    data = DATA[: mine.pop("examples", 32)]
    stock = train(folder, tiny_bert(), Trainer, data=data, options=mine)
    ours = train(
        folder, tiny_bert(), data=data, options={n: v for n, v in options.items() if n != "examples"}
    )
    return same_weights(stock.model, ours.model) and stock.state.epoch > 2


def by_updates(folder):
    """Rejection as unlike as above, as many updates as told, then resumed in the middle of a pass and between two."""
    options = {"progress": "updates", "max_steps": 12, "logging_steps": 1, "save_steps": 5}
    results = []
    for strategy in ("steps", "epoch"):
        here = Path(folder) / strategy
        more = {"rule": clipped(1), "criterion": first_token, "train_dataset": DATA}
        options["save_strategy"] = strategy
        straight = RSFTrainer(tiny_bert(), arguments(here, **options), **more)
        straight.train()
        steps = sorted(int(path.name.split("-")[1]) for path in here.glob("checkpoint-*"))
        resumed = RSFTrainer(tiny_bert(), arguments(here, **options), **more)
        resumed.train(resume_from_checkpoint=str(here / f"checkpoint-{steps[0]}"))
        rates = [row["learning_rate"] for row in straight.state.log_history if "loss" in row]
        results.append(
            {
                "steps": [straight.state.global_step, resumed.state.global_step, steps[0]],
                "weights": [digest(straight.model), digest(resumed.model)],
                "spent": [straight.spent, resumed.spent],
                "rates": rates,
            }
        )
    return results


def scored_only(folder):
    """What is spent where nothing is kept until the budget ends, in mid-pass."""
    return train(folder, rule=above(99), criterion=first_token, options={"compute_budget": 24}).spent


def passes(folder):
    """Evaluated, saved and logged once a pass, then resumed from the first checkpoint, with lengths grouped; ranks draw unlike amounts."""

    def drawing(model, inputs, outputs):
        torch.rand(1 + int(os.environ["RANK"]))
        return first_token(model, inputs, outputs)

    each = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "epoch")
    options = each | {"compute_budget": 700, "max_steps": -1, "train_sampling_strategy": "group_by_length"}
    folder, results, seen = Path(folder) / "passes", [], []
    for resume in (False, str(folder / "checkpoint-")):
        watch = Watch(model := tiny_bert())
        trainer = RSFTrainer(
            *(model, arguments(folder, **options)),
            train_dataset=DATA,
            eval_dataset=DATA[:6],
            rule=clipped(0.9),
            criterion=drawing,
            on_decision=lambda block, *_: seen.extend(str(row) for row in block),
            callbacks=[watch],
        )
        first = min((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)
        trainer.train(resume_from_checkpoint=resume and f"{resume}{first}")
        results.append(
            [trainer.state.global_step, digest(trainer.model), trainer.loader.report.kept, watch.evaluated]
        )
    a_pass = 4 * math.ceil(len(DATA) / 4 / int(os.environ["WORLD_SIZE"]))
    names = sorted(path.name for path in folder.glob("checkpoint-*"))
    return {
        "straight": results[0],
        "resumed": results[1],
        "checkpoints": names,
        "first": seen[:a_pass],
        "second": seen[a_pass : 2 * a_pass],
    }


def starving(folder):
    """All starve; then one does, for good, until the budget is spent."""
    nobody = train(folder, rule=above(99), criterion=first_token)
    only_first = lambda model, inputs, outputs: (
        first_token(model, inputs, outputs) * (os.environ["RANK"] == "0")
    )
    one = train(folder, rule=above(0.5), criterion=only_first)
    return {
        "nobody": nobody.stopped,
        "one": one.stopped,
        "spent": one.spent >= one.budget,
        "steps": one.state.global_step,
    }


def heads(folder):
    """Every head, trained straight, killed and resumed."""
    found = {}
    for name in HEADS:
        straight, killed, resumed = trained(name, Path(folder) / name)
        found[name] = {
            "steps": [killed.state.global_step, straight.state.global_step, resumed.state.global_step],
            "weights": [digest(straight.model), digest(resumed.model)],
            "spent": [straight.spent, resumed.spent],
            "counts": [str(straight.loader.total), str(resumed.loader.total)],
        }
    return found


PARTS = {
    2: (heads, unlike, same_coins, plain, passes, by_updates, scored_only, starving),
    3: (unlike, passes, scored_only),
}


def work(folder):
    """What each process does: every part, its results in one file."""
    rank, ranks = os.environ["RANK"], int(os.environ["WORLD_SIZE"])
    results = {part.__name__: part(folder) for part in PARTS[ranks]}
    Path(folder, f"results_{rank}.json").write_text(json.dumps(results))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may outlive the interpreter, which then aborts


WINDOWS = "torchrun and gloo want an interface of another name, and no process takes its children with it"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(ranks, marks=pytest.mark.skipif(sys.platform == "win32", reason=WINDOWS))
        for ranks in (2, 3)
    ],
)
def results(request, tmp_path_factory):
    """What each of 2 and of 3 processes found; a hang is a failure."""
    ranks, folder = request.param, tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = f"-m torch.distributed.run --nproc-per-node {ranks} --master-addr 127.0.0.1 --master-port {port}".split()
    here = Path(__file__).resolve()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "PYTHONPATH": os.pathsep.join(str(here.parents[i]) for i in (1, 2)),
    }
    process = subprocess.Popen(
        [sys.executable, *launch, str(here), str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun takes its processes with it
        raise
    assert process.returncode == 0, output[-6000:]
    return [json.loads((folder / f"results_{rank}.json").read_text()) for rank in range(ranks)]


def of(results, part):
    if part not in results[0]:
        pytest.skip("tried with two processes")
    return [one[part] for one in results]


def test_however_unlike_the_acceptance_all_take_the_same_steps_at_the_same_rate_to_the_same_weights(results):
    found = of(results, "unlike")
    assert found[0]["acceptance"] > 0.9 and all(one["acceptance"] < 0.3 for one in found[1:])
    for name in ("steps", "weights", "rates", "spent"):
        assert all(one[name] == found[0][name] for one in found), name
    assert found[0]["steps"] > 3 and found[0]["rates"] == sorted(found[0]["rates"], reverse=True)


def test_every_head_takes_the_same_steps_on_all_and_a_killed_run_goes_on(results):
    found = of(results, "heads")
    for name in HEADS:
        one, *others = (of_rank[name] for of_rank in found)
        assert all(other == one for other in others), name
        assert one["steps"][0] == 2 < one["steps"][1] == one["steps"][2], name
        assert all(
            straight == resumed for straight, resumed in (one["weights"], one["spent"], one["counts"])
        ), name


def test_what_is_spent_is_what_all_computed_and_scoring_does_not_pass_through_the_wrapper(results):
    found = of(results, "unlike")
    assert all(one["own cost"] == one["own count"] for one in found) and found[0]["spent"] == sum(
        one["own cost"] for one in found
    )
    assert (
        all(one["wrapped"] == one["steps"] for one in found)
        and found[0]["spent"] >= 1200 > found[0]["spent"] - 100
    )


def test_what_is_logged_are_totals_of_all(results):
    found = of(results, "unlike")
    assert all(one["kept"][1] == sum(other["kept"][0] for other in found) for one in found)
    assert all(one["logged"] == found[0]["logged"] for one in found)
    last = found[0]["logged"][-1]
    assert (
        last["kept"] / last["candidates"] == last["acceptance_rate"] and 0.1 < last["acceptance_rate"] < 0.6
    )


def test_each_has_coins_of_its_own_the_same_in_another_run(results):
    found = of(results, "same_coins")
    assert all(one["again"] and one["other"] for one in found) and found[0]["coins"] != found[1]["coins"]


def test_keeping_everything_is_the_trainer(results):
    for one in of(results, "plain"):
        assert one["same"] and one["twin"] and one["steps"] == 6
        assert one["with dropout"] == [True] * len(WITH_DROPOUT)


def test_by_updates_all_take_as_many_as_told_at_the_trainers_rates_and_so_do_they_resumed(results):
    found = of(results, "by_updates")
    for one in found:
        for way, other in zip(one, found[0], strict=True):
            assert way == other and way["steps"][:2] == [12, 12] and way["steps"][2] < 12
            assert way["weights"][0] == way["weights"][1] and way["spent"][0] == way["spent"][1] > 12 * 24
            np.testing.assert_allclose(way["rates"], 5e-3 * (1 - np.arange(12) / 12), rtol=1e-12)


def test_the_budget_ends_as_if_all_were_as_busy_as_each_thinks_itself(results):
    assert of(results, "scored_only") == [24] * len(results)


def test_passes_end_together_and_a_resumed_run_is_the_straight_one(results):
    found = of(results, "passes")
    assert (
        len({json.dumps(one["straight"][:2]) for one in found}) == 1
        and len({one["straight"][3] for one in found}) == 1
    )
    for one in found:
        assert one["resumed"][:3] == one["straight"][:3] and one["straight"][3] >= 2
        assert one["resumed"][3] == one["straight"][3] - 1 and len(one["checkpoints"]) == one["straight"][3]


def test_the_processes_share_out_each_pass_though_lengths_are_grouped_by_coins(results):
    found = of(results, "passes")
    for name in ("first", "second"):
        assert set().union(*(one[name] for one in found)) == {str(row) for row in DATA}
    assert all(one["first"] != one["second"] for one in found)  # not the same order in each pass


def test_a_rank_that_starves_holds_nobody_up(results):
    found = of(results, "starving")
    assert all(
        "kept none of 32 candidates" in one["nobody"] and one["one"] is None and one["spent"] for one in found
    )
    assert all(one["steps"] == 0 for one in found)


if __name__ == "__main__":
    work(sys.argv[1])
