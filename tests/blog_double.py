"""The blog's repositories on the hub's double: their true names and layouts, tiny models and data.

Layouts as seen on the hub: the published classifiers offer `pytorch_model.bin` alone, Google's
BERT-Mini neither a tokenizer file nor safetensors, the transfer set is Parquet on the hub's own
branch of converted data.
"""

import io
import json
import random
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from helpers.profile import MAIN_JOB, ROOT, Architecture, load_profile
from helpers.training import bert_config, load_tokenizer
from tests.hub_double import HubDouble

BASE = Architecture(layers=3, hidden=64, heads=4, intermediate=128, vocabulary=30522)
MINI = Architecture(layers=2, hidden=32, heads=2, intermediate=64, vocabulary=30522)
TOKENIZER = ROOT / "checkpoints/bert-mini"

GOOD = ["gripping", "funny", "moving", "clever", "warm", "superb", "lovely", "fresh"]
BAD = ["dull", "clumsy", "tedious", "shallow", "cold", "awful", "stale", "noisy"]
PLAIN = ["film", "plot", "acting", "story", "ending", "cast", "score", "script", "the", "a", "of"]

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: validation
    path: data/validation-*
  - split: test
    path: data/test-*
---
# SST-2
"""


def reviews(count: int, seed: int) -> list[tuple[str, int]]:
    """Sentences whose label a word or two gives away."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        telling = rng.sample(GOOD if i % 2 else BAD, 2)
        words = rng.choices(PLAIN, k=rng.randint(4, 12)) + telling
        rng.shuffle(words)
        rows.append((" ".join(words), i % 2))
    return rows


def publish_blog(hub: HubDouble, scratch: Path, *, transfer: int = 400) -> None:
    """Publish every repository that the blog profiles name."""
    pinned = _pins()
    rows = {"train": reviews(400, 1), "dev": reviews(100, 2), "test": reviews(120, 3)}
    hub.add(
        "datasets/SetFit/sst2",
        {f"{name}.jsonl": _lines(split) for name, split in rows.items()} | {"README.md": b"SST-2"},
        commit=pinned["datasets/SetFit/sst2"],
    )
    phrases = [(s, label) for s, label in reviews(500, 4)] + rows["test"][:5]
    unlabelled = [(sentence, -1) for sentence, _ in rows["test"]]
    hub.add(
        "datasets/stanfordnlp/sst2",
        {
            "data/train-00000-of-00001.parquet": _parquet(phrases),
            "data/validation-00000-of-00001.parquet": _parquet(rows["dev"]),
            "data/test-00000-of-00001.parquet": _parquet(unlabelled),
            "README.md": CARD.encode(),
        },
        commit=pinned["datasets/stanfordnlp/sst2"],
    )
    scored = reviews(transfer, 5)
    scores = [[-2.0, 2.0] if label else [2.0, -2.0] for _, label in scored]
    hub.add(
        "datasets/jmamou/augmented-glue-sst2",
        {"default/train/0000.parquet": _parquet(scored, prediction=scores)},
    )
    vocabulary = {"vocab.txt": (TOKENIZER / "vocab.txt").read_bytes()}
    texts = vocabulary | {"tokenizer_config.json": b'{"do_lower_case": true}'}
    for name, shape, seed in (
        ("yoshitomo-matsubara/bert-base-uncased-sst2", BASE, 1),
        ("M-FAC/bert-mini-finetuned-sst2", MINI, 2),
        ("moshew/bert-mini-sst2-distilled", MINI, 3),
    ):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(bert_config(shape, num_labels=2))
        _fit(model, rows["train"])
        hub.add(name, _pickled(model) | texts, commit=pinned.get(name))
    for name, shape, files in (
        ("google-bert/bert-base-uncased", BASE, texts),
        ("google/bert_uncased_L-4_H-256_A-4", MINI, vocabulary),
    ):
        torch.manual_seed(7)
        pretrained = BertForMaskedLM(bert_config(shape))
        hub.add(name, _pickled(pretrained) | files, commit=pinned[name])
    hub.add(
        "openai-community/gpt2", publish_writer(scratch), commit=pinned["openai-community/gpt2"]
    )


def _pins() -> dict[str, str]:
    """The revisions that the profiles pin, by repository."""
    places = [
        place
        for name in ("blog", "blog-train")
        for place in load_profile(name).references(*MAIN_JOB).values()
    ]
    pairs = [place.removeprefix("hf://").split("@") for place in places if "@" in place]
    return {name: revision for name, revision in pairs if len(revision) == 40}


def _lines(rows) -> bytes:
    entries = [{"text": s, "label": n, "label_text": ["negative", "positive"][n]} for s, n in rows]
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def _parquet(rows, **columns) -> bytes:
    table = {"sentence": [s for s, _ in rows], "label": [n for _, n in rows]} | columns
    kinds = {"sentence": Value("string"), "label": Value("int64")}
    if columns:  # as the transfer set's own script declares them
        scores = List(Value("float32"), length=2)
        kinds |= {"label": ClassLabel(names=["0", "1"]), "prediction": scores}
    buffer = io.BytesIO()
    Dataset.from_dict(table, features=Features(kinds)).to_parquet(buffer)
    return buffer.getvalue()


def _pickled(model) -> dict[str, bytes]:
    """A model as `torch.save` of its state dict, as the hub's older repositories have it."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return {
        "config.json": model.config.to_json_string().encode(),
        "pytorch_model.bin": buffer.getvalue(),
        "training_args.bin": b"never to be fetched",
    }


def _fit(model, rows, steps: int = 25) -> None:
    """A few steps of training, so that the published models know something."""
    tokenizer = load_tokenizer(TOKENIZER)
    batch = tokenizer([s for s, _ in rows[:200]], padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in rows[:200]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(steps):
        loss = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def publish_writer(scratch: Path) -> dict[str, bytes]:
    """A tiny GPT-2 with a vocabulary of its own, trained to write such reviews."""
    lines = [f"{['negative', 'positive'][n]} review: {s}\n" for s, n in reviews(400, 6)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(fast), n_positions=256, n_embd=64, n_layer=2, n_head=4)
    )
    ids = torch.tensor(fast("".join(lines)).input_ids)
    rows = ids[: len(ids) // 64 * 64].view(-1, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        batch = rows[torch.randint(len(rows), (16,), generator=torch.Generator().manual_seed(step))]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = scratch / "gpt2"
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}
