"""What a record must name, by its section: its numbers, model and data, which `rsf.lab.verify` asks for."""

IMDB = {"accuracy", "acceptance_rate", "forward_passes", "budget", "steps"}
SMALLER = ("compression", "dense", "distilled", "pruned")
MINILM = "bert: embedded, all-MiniLM-L6-v2"
NEEDED = {  # by the first word of a section; the compact form needs the second set as well
    **dict.fromkeys(("imdb", "mini", "topics", "images", "dense", "distilled", "pruned"), IMDB),
    "compression": {"accuracy", "right", "cost", "parameters"},
    "questions": IMDB | {"f1"},
    "groups": {"accuracy", "auc", "scores", "wrong", "groups", "forward_passes"},
    "groups-tuning": IMDB,
    "language": IMDB | {"bits"},
    "speech": IMDB | {"errors"},
    "translation": IMDB | {"bleu", "chrf"},
    "floor": {"accuracy", "right"},
    "arithmetic": {"accuracy", "setting", "curve", "acceptance", "examples", "nines", "forward_passes"},
    "sums": {"accuracy", "right", "setting", "kept", "samples", "steps", "forward_passes"},
    "gsm8k": {"accuracy", "acceptance_rate", "forward_passes", "right", "learning_rate", "validation"},
    "bench-sampling": {"exactness", "extra_mib"},
    "bench-selection": {"passes", "memory", "floor"},
    "bench-generation": {"differ", "peak_mib"},
    "bench-growth": {"growth"},
}
MODELS = {  # what the line about the model begins with, by the first word of a section and its `model`
    **{
        (kind, "embedded"): MINILM
        for kind in ("imdb", "groups", "mini", "topics", "questions", "bench", *SMALLER)
    },
    ("imdb", "new"): "bert: 1 layer of width 64, random weights",
    **{(kind, "hub"): "bert: hub, google-bert/bert-base-uncased" for kind in ("imdb", "topics", "questions")},
    ("images", "new"): "a vision transformer, random weights",
    **{(kind, "hub"): "chat: hub, Qwen/Qwen2.5-0.5B-Instruct" for kind in ("gsm8k", "language")},
    ("language", "local"): "chat: local copy of stories260K",
    ("speech", "new"): "a conformer with CTC, random weights",
    ("translation", "new"): "a Marian transformer, random weights",
}
MINI = "imdb: embedded, mini reviews (480 train, 240 test)"
REAL = {  # what the line about the data begins with, by the first word of a section
    **dict.fromkeys(("imdb", "groups", *SMALLER), ("imdb: hub", "imdb: local copy")),
    "gsm8k": ("gsm8k: hub", "gsm8k: local copy"),
    "topics": ("ag_news: hub", "ag_news: local copy"),
    "questions": ("squad: hub", "squad: local copy"),
    "images": ("images: hub", "images: scikit-learn's digits"),
    "language": ("imdb: hub", "imdb: local copy"),
    "speech": ("speech: hub", "speech: local copy of the Free Spoken Digit Dataset"),
    "translation": ("translation: hub", "translation: local copy of Multi30k"),
    "mini": (f"train: {MINI}; test: imdb: hub", f"train: {MINI}; test: imdb: local copy", MINI),
}
