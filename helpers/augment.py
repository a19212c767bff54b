"""Text augmentation after Tang et al. 2019, section 3.2 (arXiv:1903.12136).

Three perturbations, none of which needs a label: the teacher will score whatever comes out.
Masking replaces a word by the mask token. POS-guided replacement swaps it for another word with
the same part-of-speech tag, drawn by its frequency in the corpus. N-gram sampling keeps a random
run of one to five words. Parts of speech come from TextBlob's lexicon-based tagger.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from textblob.en.taggers import PatternTagger
from tqdm import tqdm

from helpers.profile import Augmentation

MASK = "[MASK]"
_TOKEN = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


class Augmenter:
    """Draws augmented copies of sentences; the corpus gives the replacement words."""

    def __init__(self, corpus: Sequence[str], settings: Augmentation):
        self.settings = settings
        self._tagger = PatternTagger()
        counts: dict[str, Counter] = defaultdict(Counter)
        for sentence in tqdm(corpus, desc="tagging", unit=" sentences"):
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
