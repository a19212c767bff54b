"""More sentences for the teacher to score: perturbed ones, and ones a language model writes.

After Tang et al. 2019, section 3.2 (arXiv:1903.12136), three perturbations, none of which needs a
label. Masking replaces a word by the mask token. POS-guided replacement swaps it for another word
with the same part-of-speech tag, drawn by its frequency in the corpus. N-gram sampling keeps a
random run of one to five words. Parts of speech come from TextBlob's lexicon-based tagger.

After Kumar et al. 2020 (arXiv:2003.02245), a causal language model continues labelled text. Theirs
was fine-tuned to; here the label and a few examples of it stand before the continuation.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from textblob.en.taggers import PatternTagger
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from helpers.data import MASK
from helpers.tutorial.profile import Augmentation, Generation

_TOKEN = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


class Augmenter:
    """Draws augmented copies of sentences; the corpus gives the replacement words."""

    def __init__(self, corpus: Sequence[str], settings: Augmentation):
        self.settings = settings
        self._tagger = PatternTagger()
        counts: dict[str, Counter] = defaultdict(Counter)
        for sentence in tqdm(corpus if settings.copies else [], desc="tagging", unit=" sentences"):
            for word, tag in self.tag(sentence):
                counts[tag][word] += 1
        self._words = {tag: (list(c), list(c.values())) for tag, c in counts.items()}

    def tag(self, sentence: str) -> list[tuple[str, str]]:
        """Split a sentence into words and punctuation marks, each with its Penn Treebank tag."""
        words = _TOKEN.findall(sentence)
        tags = [tag for _, tag in self._tagger.tag(" ".join(words), tokenize=False)]
        return list(zip(words, tags, strict=True)) if len(tags) == len(words) else []

    def perturb(self, sentence: str, rng: random.Random) -> str:
        """Return one perturbed copy; it can equal the sentence when no draw hits."""
        s = self.settings
        words = []
        for word, tag in self.tag(sentence):
            draw = rng.random()
            if draw < s.mask_probability:
                word = MASK
            elif draw < s.mask_probability + s.pos_probability and tag in self._words:
                word = rng.choices(*self._words[tag])[0]
            words.append(word)
        if words and rng.random() < s.ngram_probability:
            length = rng.randint(1, min(s.longest_ngram, len(words)))
            start = rng.randint(0, len(words) - length)
            words = words[start : start + length]
        return " ".join(words)

    def augment(self, sentences: Sequence[str], *, seed: int) -> list[str]:
        """Return up to `copies` new sentences for each given one, without repetition.

        The draws depend on the seed and the order of the sentences alone.
        """
        rng = random.Random(seed)
        seen = set(sentences)
        new = []
        for _ in range(self.settings.copies):
            for sentence in tqdm(sentences, desc="augmenting", unit=" sentences"):
                copy = self.perturb(sentence, rng)
                if copy and copy not in seen:
                    seen.add(copy)
                    new.append(copy)
        return new


class SentenceWriter:
    """A causal language model, in a folder of safetensors or GGUF, that writes to a label."""

    def __init__(self, folder: Path, settings: Generation):
        self.settings = settings
        gguf = next(folder.glob("*.gguf"), None)
        source = {"local_files_only": True, "trust_remote_code": False}
        source |= {"gguf_file": gguf.name} if gguf else {}
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **source)
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, weights_only=True, **source
        ).eval()
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")

    def prompt(self, examples: Sequence[str], label: str) -> str:
        """What the model is to continue: examples of a label, each on a line, and an open line."""
        return "".join(f"{label} review: {example}\n" for example in examples) + f"{label} review:"

    def write(
        self,
        sentences: Sequence[str],
        labels: Sequence[int],
        names: Sequence[str],
        *,
        seed: int,
        batch_size: int = 16,
    ) -> list[tuple[str, int]]:
        """Return (sentence, label) pairs, labels in turn; what comes back empty is left out.

        The examples of each prompt are drawn from the given sentences of that label.
        """
        rng = random.Random(seed)
        set_seed(seed)
        by_label = [
            [s for s, own in zip(sentences, labels, strict=True) if own == label]
            for label in range(len(names))
        ]
        wanted = [i % len(names) for i in range(self.settings.sentences)]
        written = []
        for start in tqdm(range(0, len(wanted), batch_size), desc="writing", unit=" batches"):
            batch = wanted[start : start + batch_size]
            count = self.settings.examples
            prompts = [
                self.prompt(rng.sample(by_label[label], min(count, len(by_label[label]))), name)
                for label, name in ((label, names[label]) for label in batch)
            ]
            for text, label in zip(self._continue(prompts), batch, strict=True):
                first = text.strip().splitlines()[0].strip() if text.strip() else ""
                if first:
                    written.append((first, label))
        return written

    def _continue(self, prompts: list[str]) -> list[str]:
        inputs = self._tokenizer(prompts, return_tensors="pt", padding=True).to(self._model.device)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                max_new_tokens=self.settings.longest,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        return self._tokenizer.batch_decode(new, skip_special_tokens=True)
