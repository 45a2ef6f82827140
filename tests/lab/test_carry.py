"""The heads of other tasks: one loop over every head, killed and resumed; the official metric; bad input is named."""

import io

import datasets
import numpy as np
import pytest
import torch
import transformers as tf
from datasets import Dataset
from helpers import FEW_STEPS
from scipy.io import wavfile

from rsf.lab import arms, compact, data, models, records, verify
from rsf.lab.data import passages, tones
from rsf.lab.models.last_layer import LastLayer
from rsf.lab.tasks import carry, images, language, questions, speech, topics, translation

HEADS = (topics, questions, images, language, speech, translation)
TASKS = {head.TASK.name: head.TASK for head in HEADS}
SETTINGS = FEW_STEPS | {"scoring_dropout": True, "passes": 3, "k": 3.0}
SHAPE = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}


def tiny(name):
    """Return a model of the task's kind and rows for it."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if name == "images":
        model = images.model(
            {"source": "embedded", "dtype": "float32", "width": 16, "layers": 2, "dropout": 0.1}, rng
        )
        return model, images.examples(rng.random((24, 1, 8, 8)), rng.integers(0, 3, 24), "float32").rows
    if name == "language":
        checkpoint = models.load("chat", None, rng, source="embedded")
        texts = ["".join(rng.choice(list("abc "), int(n))) for n in rng.integers(2, 9, 24)]
        return checkpoint.model, language.table(texts, checkpoint.tokenizer, 8)
    if name == "speech":
        size = {"source": "embedded", "dtype": "float32", "width": 16, "layers": 1, "dropout": 0.1}
        rows = [{"bands": torch.randn(int(n), 40), "digits": "12"} for n in rng.integers(9, 20, 24)]
        return speech.model(size, rng), rows
    if name == "translation":
        size = {"source": "embedded", "dtype": "float32", "width": 16, "layers": 1, "dropout": 0.1}
        size |= {"tokens": 24, "pool": 24, "test": 2, "base": {"pieces": 60}}
        return translation.model(size, rng), translation.world(size).pool.rows
    config = tf.BertConfig(**SHAPE, vocab_size=20, num_labels=2 if name == "questions" else 3)
    whole = tf.BertForSequenceClassification(config)
    hidden = [torch.randn(int(n), 16).half() for n in rng.integers(3, 9, 24)]
    if name == "topics":
        labels = rng.integers(0, 3, 24).tolist()
        model = LastLayer(whole)
    else:
        labels = [[0, len(one) - 1] for one in hidden]
        model = questions.LastLayerForQuestionAnswering(config)
        model.bert = models.split_layers(whole, 1)[1].bert
    rows = [
        {"hidden": h, "label": label, "index": i}
        for i, (h, label) in enumerate(zip(hidden, labels, strict=True))
    ]
    return model, rows


@pytest.mark.parametrize("name", TASKS)
def test_every_task_takes_steps_and_a_killed_run_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    def trained(folder, until=np.inf):
        monkeypatch.setenv("RSF_UNTIL", str(until))
        journal = arms.Journal(folder)
        model, rows = tiny(name)
        before = [one.detach().clone() for one in model.parameters()]
        trainer = arms.fine_tune(model, rows, "article", 5, SETTINGS, TASKS[name].collate, journal, journal)
        moved = any(not torch.equal(*pair) for pair in zip(before, trainer.model.parameters(), strict=True))
        return trainer, journal, moved

    straight, whole, moved = trained(tmp_path / "straight")
    assert moved and straight.state.global_step > 3
    killed, _, _ = trained(tmp_path / "killed", until=0)  # saves after its first step, and stops
    assert killed.state.global_step == 1
    resumed, journal, _ = trained(tmp_path / "killed")
    assert resumed.state.global_step == straight.state.global_step and resumed.spent == straight.spent
    assert journal.counts["kept"] == whole.counts["kept"]
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


# ---- questions


def test_answers_of_made_passages_stand_where_they_are_said_to_and_all_facts_differ():
    rows = passages.made()
    assert len(rows) == 720 and sum(row["split"] == "test" for row in rows) == 240
    for row in rows:
        (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"][start : start + len(answer)] == answer
        subject = row["question"].split(" of ", 1)
        assert len(subject) == 2


def part(*pairs):
    """A part of questions whose passages are `a b c ...`, a token a letter."""
    shown = []
    for question, passage, answers in pairs:
        text = f"{question}{questions.JOIN}{passage}"
        first = len(text) - len(passage)
        offsets = [
            (0, 0),
            (0, 1),
            (0, 0),
            *((first + i, first + i + 1) for i in range(0, len(passage), 2)),
            (0, 0),
        ]
        shown.append(
            {
                "text": text,
                "first": first,
                "offsets": offsets,
                "answers": {"text": answers, "answer_start": [0] * len(answers)},
            }
        )
    return carry.Part(
        [
            {"hidden": torch.zeros(len(row["offsets"]), 4), "label": [0, 0], "index": i}
            for i, row in enumerate(shown)
        ],
        shown,
    )


def test_the_answer_is_the_best_span_of_the_passage_in_order_and_not_too_long():
    class Oracle(torch.nn.Module):
        def forward(self, inputs_embeds, attention_mask, start_positions, end_positions):
            start = torch.zeros(inputs_embeds.shape[:2])
            end = torch.zeros(inputs_embeds.shape[:2])
            start[:, 1], start[:, 5], start[:, 4] = 9, 3, 2  # 1 lies in the question
            end[:, 4], end[:, 6] = 5, 4  # before the best start
            return tf.modeling_outputs.QuestionAnsweringModelOutput(start_logits=start, end_logits=end)

    asked = part(("q", "a b c d e", ["c d"]), ("q", "a b c d e", ["b"]))
    # spans from the passage at tokens 3 to 7: b alone 2 + 5, c to d 3 + 4; the first of two that tie
    assert questions.answers(Oracle(), asked) == ["b", "b"]
    found = questions.judged(["c d", "The b!"], asked, False)
    assert found["accuracy"] == 1.0 and found["f1"] == 1.0  # articles and punctuation do not count
    found = questions.judged(["c", "e"], asked, False)
    assert found["accuracy"] == 0.0 and found["f1"] == pytest.approx((2 / 3) / 2)


def test_an_answer_that_is_not_in_its_passage_is_named():
    tokenizer = models.letter_tokenizer("abc[SEP]q ", unknown="a")
    rows = {"question": ["q"], "context": ["a b c"], "answers": [{"text": ["c"], "answer_start": [2]}]}
    with pytest.raises(
        ValueError, match="question 0: its answer 'c' is not in its passage at 2, where 'b' stands"
    ):
        questions.table(Dataset.from_dict(rows), tokenizer, 128)


def test_a_question_without_an_answer_is_named():
    rows = {"question": ["q"], "context": ["a b c"], "answers": [{"text": [], "answer_start": []}]}
    with pytest.raises(ValueError, match="question 0: its answer '' is not in its passage"):
        questions.table(Dataset.from_dict(rows), models.letter_tokenizer("abc", unknown="a"), 128)


def test_f1_is_made_again_from_that_of_each_question():
    section = records.protocol("questions-one-pass")
    f1 = np.random.default_rng(0).integers(0, 2, section["test"]) / 2
    budget = 3 * section["train"]
    numbers = {
        "accuracy": 0.0,
        "right": compact.pack(f1 == 1),
        "f1": float(f1.mean()),
        "f1_each": compact.pack_values(f1),
        **compact.decisions([1] * 50, [1] * 50),
        "forward_passes": budget,
        "budget": budget,
        "scored": 0,
        "trained": section["train"],
        "steps": 50,
    }
    record = {"experiment": "questions-one-pass", "arm": "plain", "seed": 300, "numbers": numbers}
    record |= {"data": "squad: local copy of SQuAD 1.1", "model": "bert: embedded, all-MiniLM-L6-v2"}
    assert verify.recompute(record) == []
    with pytest.raises(ValueError, match="f1 is 0"):
        verify.recompute(record | {"numbers": numbers | {"f1": numbers["f1"] + 0.01}})
    with pytest.raises(ValueError, match="the number of f1_each"):
        verify.recompute(record | {"numbers": numbers | {"f1_each": compact.pack_values(f1[1:])}})
    with pytest.raises(ValueError, match="its data are 'squad: embedded"):
        verify.recompute(record | {"data": "squad: embedded, made passages"})


@pytest.mark.parametrize("name", ["images", "language", "speech", "translation"])
def test_a_record_of_the_hub_holds_only_where_its_section_reads_the_hub(name):
    section = records.protocol(name)
    record = records.runs(name)[0]
    record |= {"data": record["data"].partition(":")[0] + ": hub, it"}
    with pytest.raises(ValueError, match=f"its data are '{record['data']}', and the protocol asks for"):
        verify.recompute(record)
    assert verify._source(record, name, section | {"source": "hub,local"}) is None


# ---- bad input


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"text": ["a"], "topic": [1]}, "no column 'label', only text, topic"),
        ({"text": ["a", "b"], "label": [1, None]}, "1 of 2 rows have no label, row 1 first"),
        ({"text": ["a", "b"], "label": ["", "x"]}, "1 of 2 rows have no label, row 0 first"),
        ({"text": ["a", "b"], "label": [0, -1]}, "1 of 2 rows have no label, row 1 first"),
        ({"text": ["a", "b"], "label": [0.0, float("nan")]}, "1 of 2 rows have no label, row 1 first"),
    ],
)
def test_a_label_that_is_missing_is_named(columns, message):
    with pytest.raises(ValueError, match=message):
        topics.table(Dataset.from_dict(columns))


ONE = {"audio": [b""], "digit": [1], "index": [7]}


@pytest.mark.parametrize(
    "head, name, rows, message",
    [
        (speech, "fsdd/recordings", ONE | {"digit": [None]}, "1 of 1 rows have no digit, row 0 first"),
        (speech, "fsdd/recordings", {"audio": [b""], "index": [7]}, "no column 'digit', only audio, index"),
        (speech, "fsdd/recordings", ONE | {"audio": [None]}, "1 of 1 rows have no audio, row 0 first"),
        (translation, "multi30k/train", {"de": ["eins"]}, "no column 'en', only de"),
        (translation, "multi30k/train", {"de": ["eins"], "en": [None]}, "1 of 1 rows have no en, row 0"),
        (translation, "multi30k/train", {"de": ["eins"], "en": [" "]}, "pair 0 lacks its text or its"),
    ],
)
def test_a_local_copy_that_lacks_something_is_named(head, name, rows, message, tmp_path, monkeypatch):
    monkeypatch.setenv("RSF_DATA", str(tmp_path))
    file = tmp_path / f"{name}.parquet"
    file.parent.mkdir()
    there = ON_HUB | {"source": "local"}
    with pytest.raises(data.SourceUnavailable, match="lacks"):
        head.TASK.world(there)
    for one in {file, file.with_name("test.parquet")}:
        Dataset.from_dict(rows).to_parquet(one)
    with pytest.raises(ValueError, match=message):
        head.TASK.world(there)


def test_a_text_that_is_missing_is_named():
    with pytest.raises(ValueError, match="1 of 2 rows have no text, row 1 first"):
        data.labelled(Dataset.from_dict({"text": ["a", None]}), "text")


def test_an_image_of_another_size_is_named():
    rows = [*images.examples(np.zeros((2, 1, 8, 8)), [0, 1], "float32").rows]
    rows.append({"pixels": torch.zeros(1, 9, 8), "label": 0, "index": 7})
    with pytest.raises(ValueError, match=r"image 7 is \(1, 9, 8\), others are \(1, 8, 8\)"):
        images.collate(rows)


def test_an_image_of_another_size_is_named_when_images_are_read(monkeypatch):
    pixels = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)]  # the second is grey
    part = {"img": pixels, "label": [0, 1]}
    both = {name: Table(part) for name in ("train", "test")}
    monkeypatch.setattr(data, "pinned", lambda *_: (both, "hub"))
    with pytest.raises(ValueError, match=r"image 1 is \(1, 8, 8\), others are \(3, 8, 8\)"):
        images.read("hub", "float16")


class Table(dict):
    """A table of images as the Hub has them: they may be of any size."""

    column_names = ("img", "label")

    def __len__(self):
        return len(self["label"])


def test_more_examples_than_are_left_are_refused():
    settings = {
        "source": "embedded",
        "dtype": "float32",
        "base": {"train": 1000},
        "validation": 100,
        "train": 101,
    }
    with pytest.raises(ValueError, match="images: 100 examples are left for the arms, and they take 101"):
        carry.split(images.TASK, settings, 0)


# ---- texts, sounds and sentences


def test_bits_are_of_characters_and_the_first_token_costs_nothing_where_it_is_not_predicted():
    tokenizer = models.letter_tokenizer("ab ", unknown="a")
    rows = language.table(["ab ab", "ba"], tokenizer, 4)
    assert [row["text"] for row in rows] == ["ab a", "ba"] and [row["first"] for row in rows] == [1, 1]
    part = carry.Part(rows, rows)
    found = language.judged([np.log([0.5, 0.25, 0.5]), np.log([0.25])], part, False)
    assert found["bits"] == pytest.approx((1 + 2 + 1 + 2) / 4) and found["accuracy"] == 0.5  # 4/3, and 2
    assert compact.unpack_values(found["bits_each"]).mean() == pytest.approx(found["bits"])

    class Even(torch.nn.Module):
        def forward(self, input_ids, attention_mask, labels):
            return tf.modeling_outputs.CausalLMOutput(logits=torch.zeros(*input_ids.shape, 4))

    assert language.judge(Even(), part, True)["bits"] == pytest.approx(2.0)  # one of four, whatever is padded


def test_counted_letters_give_a_law_and_know_what_they_have_read():
    rows = [{"text": "abababab", "first": 0}, {"text": "abababac", "first": 0}]
    part = carry.Part(rows[:1], rows[:1])
    often, once = (language.floor([rows[0]] * n + rows[1:], part)["bits"] for n in (9, 1))
    assert 0 < often < once < np.log2(3)
    counts = {"": {"a": 4, "b": 4}, "a": {"b": 4}}
    counts = {key: language.Counter(value) for key, value in counts.items()}
    law = [language.share(counts, f"a{letter}", 1) for letter in "ab"] + [language.share(counts, "ac", 1)]
    assert sum(law) == pytest.approx(1.0) and law[1] > 0.85  # c stands for all that was never seen


def test_a_path_of_frames_is_read_once_where_it_repeats_and_blanks_part_two_alike():
    class Path(torch.nn.Module):
        def forward(self, input_features, attention_mask, labels):
            frames = torch.tensor([[10, 1, 1, 10, 1, 2, 2, 10, 9], [3, 3, 10, 10, 7, 7, 7, 7, 7]])
            return tf.modeling_outputs.CausalLMOutput(logits=torch.eye(11)[frames])

    rows = [
        {"bands": torch.zeros(9, 40), "digits": "112"},
        {"bands": torch.zeros(4, 40), "digits": "314"},  # what follows its frames is padding
    ]
    found = speech.judge(Path(), carry.Part(rows, rows), False)
    # 1129 for 112: one put in; 3 for 314: two left out
    assert found["errors"] == pytest.approx((1 / 3 + 2 / 3) / 2) and found["accuracy"] == 0.0


def test_the_loss_of_a_sound_is_the_library_s_in_the_type_of_the_logits():
    model, rows = tiny("speech")
    batch = speech.collate(rows[:5])
    library = tf.Wav2Vec2BertForCTC.forward(model.eval(), **batch)
    assert model(**batch).loss == library.loss and library.loss.dtype == torch.float32
    batch["input_features"] = batch["input_features"].double()
    exact = model.double()(**batch).loss
    assert exact.dtype == torch.float64 and float(exact.detach()) == pytest.approx(
        float(library.loss.detach()), rel=1e-5
    )


def test_dialled_numbers_have_the_tones_of_their_keys():
    rate, sound, digits = tones.dialled(np.random.default_rng(3))
    power = np.abs(np.fft.rfft(sound)) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / rate)
    loud = {
        tone
        for tone in (697, 770, 852, 941, 1209, 1336, 1477)
        if power[abs(hertz - tone) < 10].max() > 20 * np.median(power)
    }
    assert {tone for digit in digits for tone in tones.TONES[digit]} == loud
    assert (
        tones.TONES["0"] == (941, 1336)
        and tones.TONES["1"] == (697, 1209)
        and tones.TONES["9"] == (852, 1477)
    )


@pytest.mark.parametrize(
    "sound, message",
    [
        ((16000, np.arange(999), "1"), "sound 7 has 16000 samples a second, not 8000"),
        ((8000, np.zeros((999, 2)), "1"), r"sound 7 has the shape \(999, 2\), not \(samples,\)"),
        ((8000, np.zeros(999), "1"), "sound 7 has at most 256 samples, all alike or no digits"),
        ((8000, np.arange(256), "1"), "sound 7 has at most 256 samples, all alike or no digits"),
        ((8000, np.arange(999), ""), "sound 7 has at most 256 samples, all alike or no digits"),
        ((8000, np.arange(999), "x"), "sound 7 has at most 256 samples, all alike or no digits"),
    ],
)
def test_a_sound_that_cannot_be_read_is_named(sound, message):
    with pytest.raises(ValueError, match=message):
        speech.heard(*sound, 7)


def test_what_is_cut_in_pieces_comes_back_and_is_judged_by_sacrebleu():
    pairs = [("eins zwei", "one two"), ("zwei drei", "two three")]
    rows = translation.table(pairs, translation.pieces(pairs, 50), 30)
    assert [row["words"].decode(row["labels"]) for row in rows] == ["one two", "two three"]
    assert all(row["labels"][-1] == translation.END for row in translation.table(pairs, rows[0]["words"], 3))
    part = carry.Part(rows, rows)
    found = translation.judged(["one two", "two four"], part, False)
    assert found["accuracy"] == 0.5 and 0 < found["chrf"] < 1
    # a word is not taken for one that stands beside it as often and beside others too; what was never seen is copied
    assert translation.floor(rows, part)["accuracy"] == 1.0
    assert (
        translation.floor(
            rows[1:], carry.Part(rows, [row | {"translation": "eins two"} for row in rows[:1]])
        )["chrf"]
        > 0.5
    )


@pytest.mark.parametrize("pair", [("", "one"), ("eins", " "), ("eins", None)])
def test_an_empty_translation_is_named(pair):
    pairs = [("eins", "one"), pair]
    with pytest.raises(ValueError, match="pair 1 lacks its text or its translation"):
        translation.table(pairs, translation.pieces(pairs[:1], 20), 9)


def test_a_text_with_nothing_to_predict_is_named():
    with pytest.raises(ValueError, match="text 1 has no second token"):
        language.table(["ab", "a"], models.letter_tokenizer("ab"), 9)


ON_HUB = {
    "source": "hub",
    "model": "embedded",
    "dtype": "float32",
    "tokens": 9,
    "pool": 2,
    "test": 1,
    "base": {"pieces": 20},
}


def wav(value):
    """A sound of one digit as the bytes of a file."""
    file = io.BytesIO()
    wavfile.write(file, tones.HERTZ, (np.arange(999) % value).astype(np.int16))
    return {"bytes": file.getvalue(), "path": None}


HUB_ROWS = {  # two rows to train on and one to test on
    images: (
        images.CIFAR,
        {"img": list(np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)), "label": [3, 0, 7]},
    ),
    speech: (speech.FSDD, {"audio": [wav(2), wav(3), wav(4)], "label": [3, 0, 7]}),
    translation: (translation.MULTI30K, {"de": ["eins", "zwei", "drei"], "en": ["one", "two", "three"]}),
}


@pytest.mark.parametrize("head", HUB_ROWS, ids=lambda head: head.TASK.name)
def test_the_hub_is_read_at_a_pinned_revision(head, monkeypatch):
    pin, columns = HUB_ROWS[head]
    rows = Dataset.from_dict(columns)
    for name, form in {"audio": datasets.Audio(), "img": datasets.Image()}.items():
        rows = rows.cast_column(name, form) if name in columns else rows
    asked = []
    both = {"train": rows.select([0, 1]), "test": rows.select([2])}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, revision: asked.append((name, revision)) or both
    )
    world = head.TASK.world(ON_HUB)
    assert asked == [pin] and f"hub, {pin[0]} at {pin[1][:8]} (2 train, 1 test)" in world.sources[0]
    assert head.TASK.data[0] == pin[0] and len(pin[1]) == 40
    told = {images: "label", speech: "digits", translation: "translation"}[head]
    found = [{row[told] for row in part.shown} for part in (world.pool, world.test)]
    named = columns["en"] if head is translation else columns["label"]
    named = list(map(str, named)) if head is speech else named
    assert found == [set(named[:2]), {named[2]}]


@pytest.mark.parametrize("head", HUB_ROWS, ids=lambda head: head.TASK.name)
def test_a_hub_that_does_not_answer_is_an_error(head, monkeypatch):
    def unreachable(*place, revision):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(data.SourceUnavailable, match=f"the Hub gave no {head.TASK.data[0]}"):
        head.TASK.world(ON_HUB | {"dtype": "float64", "tokens": 8})
