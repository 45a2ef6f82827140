"""What a script that was written for the Trainer meets: its numbers of steps, its searches, its dicts, its data loader."""

import gc
import sys
import types
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import DATA, LABELLED, PADDING, TOKENIZER, arguments, heard, same_weights, tiny_bert, train
from transformers import (
    BertForSequenceClassification,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers import trainer as transformers_trainer
from transformers.trainer_utils import HPSearchBackend

from rsf.rules import above, at_rate, clipped, constant, percentile, random_like
from rsf.selection import RSFConfig, RSFTrainer


def make(folder, kind=RSFTrainer, *, model=None, data=DATA, options=None, **more):
    """Return a quiet trainer, not yet trained."""
    settings = arguments(folder, RSFConfig if kind is RSFTrainer else TrainingArguments, **(options or {}))
    if "model_init" not in more:
        more["model"] = model or tiny_bert()
    trainer = kind(args=settings, train_dataset=data, **more)
    trainer.remove_callback(PrinterCallback)
    return trainer


def right(predicted):
    return {"right": float((predicted.predictions.argmax(1) == predicted.label_ids).mean())}


# ---- the caller's dict

ADDED = {"acceptance_rate", "candidates", "kept", "effective_sample_size", "forward_passes", "k"}


class Metrics(TrainerCallback):
    def __init__(self):
        self.seen = []
        self.logged = []

    def on_evaluate(self, args, state, control, metrics, **_):
        self.seen.append(dict(metrics))

    def on_log(self, args, state, control, logs, **_):
        self.logged.append(dict(logs))


def test_metrics_hold_what_the_trainers_do_and_the_log_more(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 5, "logging_steps": 5}
    told = []
    for kind in (Trainer, RSFTrainer):
        told.append(Metrics())
        trainer = make(
            tmp_path,
            kind,
            options=options,
            eval_dataset=DATA[:8],
            compute_metrics=right,
            callbacks=[told[-1]],
        )
        result = trainer.train()
        assert not ADDED & set(result.metrics) and "epoch" in result.metrics
    stock, ours = told
    assert len(ours.seen) == len(stock.seen) == 4
    for one, other in zip(stock.seen, ours.seen, strict=True):
        assert one.keys() == other.keys() and one["eval_loss"] == other["eval_loss"]
    rows = [row for row in trainer.state.log_history if "eval_right" in row or "loss" in row]
    assert all(ADDED - {"k"} <= set(row) for row in rows)
    assert [set(row) for row in ours.logged] == [set(row) - {"step"} for row in trainer.state.log_history]


def test_what_is_logged_by_hand_stays_as_it_is(tmp_path):
    class ByHand(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            mine.append({"kept": -1.0, "mine": 2.0})
            trainer.log(mine[-1])

    mine = []
    trainer = make(tmp_path, options={"max_steps": 2}, rule=clipped(0.9), callbacks=[ByHand()])
    trainer.train()
    assert all(row.keys() == {"kept", "mine", "epoch"} and row["kept"] == -1 for row in mine)
    rows = [row for row in trainer.state.log_history if "mine" in row]
    assert all(row["kept"] == -1 and row["candidates"] > 0 for row in rows) and rows


# ---- a search, and memory that runs out


class Trial(SimpleNamespace):
    """As optuna's: takes its values, is told the objective."""

    def __init__(self, number, values):
        super().__init__(number=number, params=values, told=[])

    def report(self, objective, step):
        self.told.append(objective)

    def should_prune(self):
        return False


class Search:
    """A search that tries what it is given, in place of optuna, which need not be installed."""

    values = ()

    def ensure_available(self):
        pass

    def run(self, trainer, n_trials, direction, **_):
        found = []
        for number in range(n_trials):
            trainer.objective = None
            trainer.train(trial=Trial(number, self.values[number]))
            if trainer.objective is None:
                trainer.objective = trainer.compute_objective(trainer.evaluate())
            found.append(
                (trainer.objective, trainer.state.global_step, trainer.state.max_steps, rates_of(trainer))
            )
        return found


def rates_of(trainer):
    return [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]


@pytest.fixture
def search(monkeypatch):
    optuna = types.ModuleType("optuna")
    optuna.__spec__ = ModuleSpec("optuna", None)
    optuna.trial = SimpleNamespace(BaseTrial=Trial)
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    monkeypatch.setattr(
        transformers_trainer, "ALL_HYPERPARAMETER_SEARCH_BACKENDS", {HPSearchBackend.OPTUNA: Search}
    )

    def searched(folder, kind, values, **options):
        Search.values = values
        trainer = make(
            folder,
            kind,
            model_init=tiny_bert,
            options={"logging_steps": 1, "eval_strategy": "epoch"} | options,
            eval_dataset=DATA[:8],
            compute_metrics=right,
        )
        return trainer.hyperparameter_search(
            hp_space=lambda trial: trial.params, n_trials=len(values), direction="maximize", backend="optuna"
        )

    return searched


SEARCHES = {
    "epochs": ([{"num_train_epochs": n} for n in (1, 3, 2)], {"max_steps": -1}, [8, 24, 16]),
    "batch size": (
        [{"per_device_train_batch_size": n} for n in (8, 2, 16)],
        {"max_steps": -1, "num_train_epochs": 1},
        [4, 16, 2],
    ),
    "max_steps": ([{"max_steps": n} for n in (6, 3, 12)], {}, [6, 3, 12]),
    "learning rate": ([{"learning_rate": n} for n in (1e-3, 1e-4)], {"max_steps": 8}, [8, 8]),
    "accumulation": (
        [{"gradient_accumulation_steps": n} for n in (2, 4)],
        {"max_steps": -1, "num_train_epochs": 2},
        [8, 4],
    ),
}


@pytest.mark.parametrize("progress", ["compute", "updates"])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_the_trainers_finds(tmp_path, search, name, progress):
    values, options, steps = SEARCHES[name]
    stock = search(tmp_path, Trainer, values, **options)
    ours = search(tmp_path, RSFTrainer, values, progress=progress, **options)
    assert [step for _, step, *_ in ours] == steps
    for (one, *few), (other, *fewer) in zip(stock, ours, strict=True):
        assert 0 <= other <= 1 and one == other and few[:2] == fewer[:2]
        np.testing.assert_allclose(few[2], fewer[2], rtol=1e-12)


class Small(BertForSequenceClassification):
    """Has no memory for more than so many rows in training."""

    room = 4

    def forward(self, input_ids=None, attention_mask=None, labels=None, **more):
        if torch.is_grad_enabled() and len(input_ids) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().forward(input_ids, attention_mask, labels=labels, **more)


MEMORY = {
    "max_steps": {"max_steps": 8},
    "epochs": {"max_steps": -1, "num_train_epochs": 2},
    "accumulation": {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 2},
    "updates": {"max_steps": 8, "progress": "updates"},
}


@pytest.mark.parametrize("name", MEMORY)
def test_where_memory_runs_out_it_is_worked_out_anew_as_the_trainer_does(tmp_path, name):
    options = MEMORY[name] | {
        "per_device_train_batch_size": 16,
        "auto_find_batch_size": True,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    found = []
    for kind in (Trainer, RSFTrainer):
        model = tiny_bert()
        model.__class__ = Small
        mine = {n: v for n, v in options.items() if n != "progress" or kind is RSFTrainer}
        trainer = make(tmp_path, kind, model=model, options=mine)
        trainer.train()
        found.append(trainer)
    stock, ours = found
    assert stock._train_batch_size == ours._train_batch_size <= 4
    assert stock.state.global_step == ours.state.global_step == ours.state.max_steps
    np.testing.assert_allclose(rates_of(stock), rates_of(ours), rtol=1e-12)
    assert same_weights(stock.model, ours.model)
    assert ours.loader.report.trained == stock.state.global_step * ours.plan.per_step // 3


def test_a_rule_forgets_the_try_that_had_no_memory(tmp_path):
    model = tiny_bert()
    model.__class__ = Small
    rule = at_rate(clipped, 0.4, window=400)
    options = {"per_device_train_batch_size": 16, "auto_find_batch_size": True, "max_steps": 8}
    trainer = make(tmp_path, model=model, options=options, rule=rule)
    trainer.train()
    assert len(rule.state_dict()["past"]) == trainer.loader.report.candidates / trainer._train_batch_size
    assert trainer.spent >= trainer.budget == 8 * 3 * trainer._train_batch_size


# ---- a training begins anew


@pytest.mark.parametrize(
    "rule",
    [
        lambda: at_rate(clipped, 0.4, window=24),
        lambda: random_like(above(0.7), 24),
        lambda: percentile(1.0, 24),
        lambda: random_like(at_rate(clipped, 0.4, window=24), 24),
    ],
)
@pytest.mark.parametrize("weighting", ["none", "acceptance"])
def test_trained_twice_a_rule_begins_anew(tmp_path, rule, weighting):
    told = []
    trainer = make(
        tmp_path,
        model_init=tiny_bert,
        options={"max_steps": 10, "weighting": weighting},
        rule=rule(),
        on_decision=lambda block, criterion, kept: told.append((criterion.tolist(), kept.tolist())),
    )
    first = trainer.train().training_loss
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    decided = len(told)
    assert trainer.train().training_loss == first and told[:decided] == told[decided:]
    assert all(torch.equal(weights[name], value) for name, value in trainer.model.state_dict().items())


def test_a_rule_begins_as_it_was_given(tmp_path):
    rule = at_rate(clipped, 0.4, window=24)
    rule.observe(np.linspace(0.1, 0.9, 24))
    given = rule.state_dict()
    ks = []
    trainer = make(
        tmp_path,
        model_init=tiny_bert,
        options={"max_steps": 4},
        rule=rule,
        on_decision=lambda *_: ks.append(rule.k),
    )
    trainer.train()
    half = len(ks)
    trainer.train()
    assert ks[:half] == ks[half:] and rule.state_dict() != given


def test_another_rule_may_take_its_place(tmp_path):
    trainer = make(tmp_path, options={"max_steps": 3}, rule=at_rate(clipped, 0.4, window=24))
    trainer.train()
    trainer.rule = clipped(0.1)
    trainer.train()
    assert trainer.loader.rule is trainer.rule and trainer.loader.report.scored > 0


# ---- the loader as the Trainer's, its last steps, nothing to do

LOADERS = [
    {},
    {"per_device_train_batch_size": 5},
    {"dataloader_drop_last": True, "per_device_train_batch_size": 5},
]


@pytest.mark.parametrize("options", LOADERS, ids=str)
def test_the_data_loader_has_the_length_the_data_and_the_batch_size_of_the_trainers(tmp_path, options):
    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader, **_):
            seen.append((len(train_dataloader), train_dataloader.dataset))
            sizes.append(train_dataloader.batch_size)

    found = []
    sizes = []
    for kind in (Trainer, RSFTrainer):
        seen = []
        trainer = make(tmp_path, kind, data=DATA[:31], options=options | {"max_steps": 2}, callbacks=[Look()])
        before = trainer.get_train_dataloader()
        trainer.train()
        seen.append((len(before), before.dataset, trainer.num_examples(before), before.total_batch_size))
        found.append(seen)
    assert found[0] == found[1]
    assert sizes == [None, options.get("per_device_train_batch_size", 4)]  # the Trainer's knows none


def test_what_is_worked_out_before_training_is_the_trainers(tmp_path):
    found = []
    for kind in (Trainer, RSFTrainer):
        trainer = make(tmp_path, kind, data=DATA[:31], options={"max_steps": -1, "num_train_epochs": 2})
        found.append(
            trainer.set_initial_training_values(trainer.args, dataloader=trainer.get_train_dataloader())
        )
        trainer.train_dataset = None  # a schedule needs no data
        trainer.create_optimizer_and_scheduler(10)
        for _ in range(5):
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        found[-1] = (*found[-1], trainer.lr_scheduler.get_last_lr())
    assert found[0] == found[1]


def test_a_data_loader_of_ones_own_is_refused(tmp_path):
    class Mine(RSFTrainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(DATA, 4)

    with pytest.raises(
        TypeError, match="returned a DataLoader, but RSFTrainer makes its batches of train_dataset"
    ):
        Mine(tiny_bert(), arguments(tmp_path), train_dataset=DATA).train()


def test_a_look_at_the_batches_leaves_the_training_alone(tmp_path):
    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            generator = torch.get_rng_state()
            looked.append(next(iter(trainer.get_train_dataloader())))
            torch.set_rng_state(generator)

    looked = []
    plain = make(tmp_path, options={"max_steps": 6}, rule=clipped(0.9))
    plain.train()
    trainer = make(tmp_path, options={"max_steps": 6}, rule=clipped(0.9), callbacks=[Look()])
    assert next(iter(trainer.get_train_dataloader()))["labels"].shape == (4,)
    trainer.train()
    assert trainer.spent == plain.spent and len(looked) == trainer.state.global_step


@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 2}, {"progress": "updates"}], ids=str
)
def test_incomplete_batches_are_dropped_as_the_trainer_drops_them(tmp_path, options):
    options = options | {"dataloader_drop_last": True, "max_steps": -1, "num_train_epochs": 4}
    if "gradient_accumulation_steps" in options:
        options["per_device_train_batch_size"] = 5  # six batches a pass
    mine = {name: value for name, value in options.items() if name != "progress"}
    stock = train(tmp_path, kind=Trainer, data=DATA[:31], options=mine)
    ours = train(tmp_path, data=DATA[:31], options=options)
    assert stock.state.global_step == ours.state.global_step == ours.state.max_steps
    assert same_weights(stock.model, ours.model)
    picky = train(tmp_path, data=DATA[:31], options=options | {"unit": "batch"}, rule=clipped(0.9))
    assert picky.loader.report.kept < picky.loader.report.candidates


@pytest.mark.parametrize("progress", ["compute", "updates"])
def test_no_epochs_are_no_steps(tmp_path, progress):
    options = {"num_train_epochs": 0, "max_steps": -1}
    stock = make(tmp_path, Trainer, options=options)
    trainer = make(tmp_path, options=options | {"progress": progress}, rule=clipped(0.9))
    one, other = stock.train(), trainer.train()
    assert one.global_step == other.global_step == 0 and one.training_loss == other.training_loss == 0
    assert trainer.spent == 0 and same_weights(trainer.model, tiny_bert())


ENDS = [
    {"eval_steps": 6, "eval_delay": 0},
    {"eval_steps": 5, "eval_delay": 0},
    {"eval_steps": 5, "eval_delay": 12},
    {"eval_steps": 7, "eval_delay": 20},
    {"eval_steps": 7, "eval_delay": 21},
    {"eval_steps": 0.25, "eval_delay": 3},
    {"eval_strategy": "epoch", "eval_delay": 2},
    {"eval_on_start": True, "eval_steps": 6},
]


@pytest.mark.parametrize("options", ENDS, ids=str)
def test_it_evaluates_and_saves_at_the_steps_at_which_the_trainer_does(tmp_path, options):
    options = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 7, "max_steps": 20} | options
    found = []
    for kind in (Trainer, RSFTrainer):
        folder = tmp_path / kind.__name__
        trainer = make(folder, kind, options=options, eval_dataset=DATA[:8])
        trainer.train()
        evaluated = [row["step"] for row in trainer.state.log_history if "eval_loss" in row]
        found.append((evaluated, {path.name for path in folder.glob("checkpoint-*")}))
    assert found[0] == found[1]


def test_no_step_is_evaluated_twice_where_scoring_spends_the_rest(tmp_path, caplog):
    options = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": -1}
    with heard(caplog, "transformers.trainer"):
        for budget in range(60, 100):
            trainer = make(
                tmp_path,
                options=options | {"compute_budget": budget},
                rule=clipped(2.5),
                eval_dataset=DATA[:2],
            )
            trainer.train()
            steps = [row["step"] for row in trainer.state.log_history if "eval_loss" in row]
            assert len(set(steps)) == len(steps) and trainer.spent >= budget
    assert "single sample" not in caplog.text


def test_a_budget_far_beyond_the_data_costs_no_time_at_the_end_of_a_pass(tmp_path, monkeypatch):
    class Enough(TrainerCallback):
        def on_epoch_end(self, args, state, control, **_):
            control.should_training_stop = state.epoch >= 3

    asked = []
    get = Trainer.get_batch_samples
    monkeypatch.setattr(Trainer, "get_batch_samples", lambda *words: asked.append(1) or get(*words))
    trainer = make(
        tmp_path, options={"compute_budget": 10**9, "max_steps": -1}, rule=clipped(0.9), callbacks=[Enough()]
    )
    trainer.train()
    assert trainer.state.max_steps > 10**7 and trainer.state.global_step + 3 == len(asked)


def test_without_arguments_it_has_the_trainers_defaults():
    trainer = RSFTrainer(tiny_bert())
    assert isinstance(trainer.args, RSFConfig) and trainer.args.output_dir == "tmp_trainer"


def test_arguments_may_be_given_by_place(tmp_path):
    trainer = RSFTrainer(tiny_bert(), arguments(tmp_path, max_steps=2), PADDING, LABELLED, rule=clipped(0.9))
    trainer.train()
    assert trainer.state.global_step > 0 and trainer.data_collator is PADDING and TOKENIZER


# ---- the same calls, the same data, the same weights


def drawing(sampler):
    """Return a mixin whose candidates a sampler of one's own draws."""

    class Drawing:
        def _get_train_sampler(self, train_dataset=None):
            return sampler(train_dataset)

    return Drawing


def more_of_one_label(data):
    return torch.utils.data.WeightedRandomSampler([1.0 + row["labels"] for row in data], len(data))


SAMPLERS = {
    "more of one label": more_of_one_label,
    "half of the data": lambda data: torch.utils.data.SubsetRandomSampler(range(0, len(data), 2)),
    "more than the data": lambda data: torch.utils.data.WeightedRandomSampler([1.0] * len(data), 48),
    "none": lambda data: None,
}


@pytest.mark.parametrize("options", [{}, {"progress": "updates"}, {"max_steps": 5}], ids=str)
@pytest.mark.parametrize("name", SAMPLERS)
def test_with_a_sampler_of_ones_own_a_pass_is_as_long_as_what_it_draws(tmp_path, name, options):
    options = {"max_steps": -1, "num_train_epochs": 3} | options
    mixin = drawing(SAMPLERS[name])
    found = []
    for kind in (Trainer, RSFTrainer):
        mine = {n: v for n, v in options.items() if n != "progress" or kind is RSFTrainer}
        settings = arguments(tmp_path, RSFConfig if kind is RSFTrainer else TrainingArguments, **mine)
        trainer = type("Own", (mixin, kind), {})(tiny_bert(), settings, train_dataset=DATA)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found.append(trainer)
    stock, ours = found
    assert stock.state.global_step == ours.state.global_step and stock.state.epoch == ours.state.epoch
    assert same_weights(stock.model, ours.model)


def twice(trainer):
    trainer.train()
    trainer.train()


def with_looks_between(trainer):
    trainer.train()
    trainer.evaluate()
    trainer.predict(DATA[:4])
    trainer.train()


class StopAtFive(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == 5


class Counting:
    """Metrics made batch by batch."""

    def __init__(self):
        self.right = []

    def __call__(self, predicted, compute_result=False):
        self.right += (predicted.predictions.argmax(1) == predicted.label_ids).tolist()
        if compute_result:
            share = float(np.mean(self.right))
            self.right = []
            return {"right": share}


BEST = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
BEST |= {"load_best_model_at_end": True, "save_total_limit": 1}
ALIKE = {
    "half an epoch": ({"num_train_epochs": 0.5}, {}),
    "trained twice": ({}, {"go": twice}),
    "looked at between": ({}, {"go": with_looks_between}),
    "stopped by a callback": ({}, {"callbacks": [StopAtFive()]}),
    "stopped by a callback, twice": ({}, {"callbacks": [StopAtFive()], "go": twice}),
    "stopped early": (BEST, {"callbacks": [EarlyStoppingCallback(2)]}),
    "metrics by batches": (
        {"batch_eval_metrics": True, "eval_strategy": "epoch", "per_device_eval_batch_size": 3},
        {"compute_metrics": Counting()},
    ),
    "a sampler without a seed": ({"accelerator_config": {"use_seedable_sampler": False}}, {}),
    "batches split": ({"accelerator_config": {"split_batches": True}}, {}),
    "a seed for the data": ({"data_seed": 5}, {}),
    "balanced over processes": ({"train_sampling_strategy": "batch_rebalance"}, {}),
    "noise": ({"neftune_noise_alpha": 5}, {}),
    "tokens counted": ({"include_num_input_tokens_seen": "all"}, {}),
    "warm-up as a share": ({"warmup_steps": 0.3, "lr_scheduler_type": "polynomial"}, {}),
}


@pytest.mark.parametrize("name", ALIKE)
def test_keeping_everything_it_is_the_trainer_in_weights_and_logs(tmp_path, name):
    options, more = ALIKE[name]
    options = {"max_steps": -1, "num_train_epochs": 2, "logging_steps": 3} | options
    more = {"eval_dataset": DATA[:10]} | more
    go = more.pop("go", lambda trainer: trainer.train())
    found = []
    for kind in (Trainer, RSFTrainer):
        trainer = make(tmp_path / kind.__name__, kind, options=options, **more)
        go(trainer)
        found.append(trainer)
    stock, ours = found
    assert same_weights(stock.model, ours.model) and stock.state.epoch == ours.state.epoch
    rows = [
        [
            {n: v for n, v in row.items() if n not in ADDED and "_per_" not in n and "runtime" not in n}
            for row in log
        ]
        for log in (stock.state.log_history, ours.state.log_history)
    ]
    assert rows[0] == rows[1] and rows[0]


def test_batches_that_one_process_shares_out_are_refused_in_training_alone(tmp_path):
    options = {"accelerator_config": {"dispatch_batches": True}}
    trainer = make(tmp_path, options=options, eval_dataset=DATA[:8])
    assert (
        trainer.evaluate()["eval_loss"]
        == make(tmp_path, Trainer, eval_dataset=DATA[:8]).evaluate()["eval_loss"]
    )
    with pytest.raises(ValueError, match="dispatch_batches and split_batches share out batches"):
        trainer.train()


@pytest.mark.parametrize(
    "rule", [0.5, "clipped", clipped, lambda r: r], ids=["number", "name", "function", "lambda"]
)
def test_what_is_no_rule_is_refused(tmp_path, rule):
    with pytest.raises(TypeError, match=r"rule must be one of rsf.rules, such as clipped\(0.5\).*, got "):
        make(tmp_path, rule=rule)


def test_rules_that_come_and_go_each_begin_as_they_were_given(tmp_path):
    trainer = make(tmp_path, options={"max_steps": 1})
    for n in range(8):
        trainer.rule = at_rate(clipped, 0.4, window=24)
        trainer.rule.observe(np.full(4, n + 1.0))
        trainer.train()
        assert [n + 1.0] * 4 in [values for _, values in trainer.rule.state_dict()["past"]]
        trainer.rule = constant(1)
        trainer.train()
        gc.collect()  # one that is gone may leave its id to the next


# ---- updates for compute


def first_token(model, inputs, outputs):
    return inputs["input_ids"][:, 0] / 50  # a criterion that is the same on every machine


@pytest.mark.parametrize("weighting", ["none", "acceptance", "inverse"])
def test_by_updates_it_takes_as_many_as_it_was_told_at_the_trainers_learning_rates(tmp_path, weighting):
    options = {"max_steps": 30, "logging_steps": 1, "warmup_steps": 5, "lr_scheduler_type": "cosine"}
    stock = train(tmp_path, kind=Trainer, options=options)
    told = {"rule": clipped(2.0), "criterion": first_token}
    ours = train(tmp_path, options=options | {"progress": "updates", "weighting": weighting}, **told)
    assert ours.state.global_step == ours.state.max_steps == 30 and ours.stopped is None
    assert rates_of(stock) == rates_of(ours)
    report = ours.loader.report
    assert ours.spent == report.scored + 3 * report.trained and report.trained == 120
    assert ours.budget == np.inf and (weighting == "acceptance" or ours.spent > 1.2 * 360)
    by_compute = train(tmp_path, options=options | {"weighting": weighting}, **told)
    assert by_compute.state.global_step < 30 or weighting == "acceptance"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_by_updates_keeping_everything_is_the_trainer_bit_for_bit(tmp_path, accumulation):
    options = {"gradient_accumulation_steps": accumulation, "max_steps": -1, "num_train_epochs": 3}
    plain = train(tmp_path, kind=Trainer, options=options)
    ours = train(tmp_path, options=options | {"progress": "updates"})
    assert plain.state.global_step == ours.state.global_step and same_weights(plain.model, ours.model)


def test_by_updates_any_schedule_goes_and_so_does_a_scheduler_of_ones_own(tmp_path, caplog):
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 2}
    options = {"progress": "updates", "max_steps": 6}
    assert train(tmp_path, options=plateau | options, eval_dataset=DATA[:4]).state.global_step == 6
    for progress, said in (("updates", 0), ("compute", 1)):
        caplog.clear()
        model = tiny_bert()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        own = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        trainer = train(
            tmp_path,
            model,
            options={"progress": progress, "max_steps": 6},
            optimizers=(optimizer, own),
            rule=clipped(0.9),
        )
        assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5 ** (trainer.state.global_step // 2)
        assert caplog.text.count("your own StepLR follows updates") == said


def test_by_updates_passes_are_counted_and_no_budget_ends_them(tmp_path):
    with pytest.raises(ValueError, match=r"progress=\"updates\".*compute_budget must be 0, got 100"):
        arguments(tmp_path, progress="updates", compute_budget=100)
    with pytest.raises(ValueError, match=r"progress must be one of.*'steps'"):
        arguments(tmp_path, progress="steps")
    trainer = train(tmp_path, options={"progress": "updates", "max_steps": 4}, rule=above(99))
    assert "kept none of 32 candidates" in trainer.stopped and trainer.state.global_step == 0
    assert constant(1) and trainer.spent == 32
