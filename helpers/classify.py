"""Classify sentences with a model that a run has made.

    python -m helpers.classify --model artifacts/default/student_int8.onnx < sentences.txt

reads UTF-8, one sentence a line, and prints one line for each, in order: the label, a tab and the
probability of the positive class, or where there are more than two, of that label. An empty line
is a sentence without words and gets a line too; a sentence is cut at the number of word pieces the
model was trained with.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.special import softmax

from helpers.environment import physical_cores
from helpers.runtimes import load_model, load_text_encoder, pad_rows

READ_AHEAD, BATCH = 256, 32  # sentences: sorted by length together, run together
_DESCRIPTION = ("config.json", "tokenizer_config.json", "tokenizer.json")


class PredictError(ValueError):
    """The model or the input cannot be used; the message says why."""


def length_buckets(max_length: int) -> tuple[int, ...]:
    """The lengths in word pieces that static shapes are compiled for; the last is the longest."""
    return (*(length for length in (8, 16, 24, 32, 48) if length < max_length), max_length)


class Classifier:
    """A classifier from a PyTorch folder, an ONNX file or an OpenVINO `.xml` of a run.

    Its labels, tokenizer and length are those of the folder it is, lies in or under, or else of
    `student/` beside it. Sentences run with others of about their length, so that a long one does
    not slow the short ones. An OpenVINO model is compiled once for each of a few lengths, and every
    sentence runs at the shortest that holds it: alone, or with `streams` as many at once as there
    are streams.

    Raises:
        PredictError: the path is missing, is no model, or no folder says what its labels are.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None, streams: int = 1):
        path = Path(path)
        if not path.exists():
            raise PredictError(f"{path} does not exist")
        folder = _folder_of(path)
        try:
            names = json.loads((folder / "config.json").read_text("utf-8"))["id2label"]
            self.labels = tuple(names[str(number)] for number in range(len(names)))
            settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
            self.max_length = int(settings["model_max_length"])
        except (ValueError, KeyError) as error:
            raise PredictError(f"{folder} is not a classifier's folder: {error}") from None
        self.encode = load_text_encoder(folder, self.max_length)
        self._buckets = length_buckets(self.max_length)
        runtime = "pytorch" if path.is_dir() else "onnxruntime"
        options = {}
        if path.suffix == ".xml":
            runtime, options = "openvino", {"buckets": self._buckets, "streams": streams}
        try:
            self._model = load_model(runtime, path, threads=threads or physical_cores(), **options)
        except Exception as error:  # the runtimes' own exceptions share no base class
            cause = str(error).strip().splitlines() or [type(error).__name__]
            raise PredictError(f"{path} cannot be loaded by {runtime}: {cause[0]}") from None
        self.threads = self._model.threads

    def probabilities(self, sentences: list[str]) -> np.ndarray:
        """Class probabilities, float64 of shape (sentences, classes).

        Raises:
            PredictError: the runtime's answer is no number, so that no label follows from it.
        """
        rows = [self.encode(sentence)[0][0] for sentence in sentences]
        buckets = np.searchsorted(self._buckets, [len(row) for row in rows])
        logits = np.empty((len(rows), len(self.labels)))
        for bucket in np.unique(buckets):
            members = np.flatnonzero(buckets == bucket)
            for batch in np.split(members, range(BATCH, len(members), BATCH)):
                logits[batch] = self._model.run(*pad_rows([rows[place] for place in batch]))
        if not np.isfinite(logits).all():
            raise PredictError("the runtime answered with something that is no number")
        return softmax(logits, axis=1)

    def classify(self, sentences: Iterable[str]) -> Iterator[tuple[str, float]]:
        """Yield (label, probability) for each sentence, in order.

        Of two classes it is the probability of the last one, positive; of more, that of the label.
        """
        two, sentences = len(self.labels) == 2, iter(sentences)
        while batch := list(islice(sentences, READ_AHEAD)):
            for row in self.probabilities(batch):
                best = int(row.argmax())
                yield self.labels[best], float(row[1 if two else best])


def _folder_of(path: Path) -> Path:
    """The folder with the labels and the tokenizer of a model."""
    if path.is_dir():
        candidates = [path]
    else:
        candidates = [path.parent, path.absolute().parent.parent, path.parent / "student"]
    for folder in candidates:
        if all((folder / name).is_file() for name in _DESCRIPTION):
            return folder
    raise PredictError(f"{candidates[-1]} does not hold {', '.join(_DESCRIPTION)}")


def read_lines(stream) -> Iterator[str]:
    """Yield the lines of a binary stream, split at newlines alone.

    Raises:
        PredictError: a line is not UTF-8; the message gives its number.
    """
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise PredictError(f"line {number} of the input is not UTF-8") from None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status, 2 for a model or input that fails."""
    parser = argparse.ArgumentParser(prog="python -m helpers.classify", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, type=Path, help="a folder, an .onnx or an .xml")
    chosen = parser.parse_args(arguments)
    try:
        classifier = Classifier(chosen.model, streams=physical_cores())
        for label, probability in classifier.classify(read_lines(sys.stdin.buffer)):
            print(f"{label}\t{probability:.6f}")
    except PredictError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
