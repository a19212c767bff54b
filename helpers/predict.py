"""Classify sentences with a model from the artefacts.

    python -m helpers.predict --model artifacts/laptop/student_int8.onnx < sentences.txt

reads UTF-8, one sentence a line, and prints one line for each, in order: the label, a tab and the
probability of the positive class. An empty line is a sentence without words and gets a line too;
a sentence is cut at the number of word pieces the model was trained with.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from helpers.runtimes import load_model

BATCH = 32


class PredictError(ValueError):
    """The model or the input cannot be used; the message says why."""


class Classifier:
    """A classifier from a PyTorch folder or an ONNX file of the artefacts.

    Raises:
        PredictError: the path is missing, or is neither a folder with `model.safetensors` nor an
            ONNX file that names its tokenizer.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None):
        from helpers.environment import physical_cores

        path = Path(path)
        threads = threads or physical_cores()
        if not path.exists():
            raise PredictError(f"{path} does not exist")
        if path.is_dir():
            folder, self.max_length, self.labels = _describe_folder(path)
            runtime = "pytorch"
        else:
            folder, self.max_length, self.labels = _describe_onnx(path)
            runtime = "onnxruntime"
        self._tokenizer = _load_tokenizer(folder)
        self._model = load_model(runtime, path, threads=threads)

    def probabilities(self, sentences: list[str]) -> np.ndarray:
        """Class probabilities, float64 of shape (sentences, classes)."""
        batch = self._tokenizer(
            sentences,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_token_type_ids=False,
            return_tensors="np",
        )
        logits = self._model.run(
            batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)
        ).astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def classify(self, sentences: Iterable[str]) -> Iterator[tuple[str, float]]:
        """Yield (label, probability of the last class: positive) for each sentence, in order."""
        sentences = iter(sentences)
        while batch := list(islice(sentences, BATCH)):
            for row in self.probabilities(batch):
                yield self.labels[int(row.argmax())], float(row[-1])


def _describe_folder(path: Path) -> tuple[Path, int, tuple[str, ...]]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
        tokenizer = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
        length = int(tokenizer["model_max_length"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PredictError(f"{path} is not a folder with a classifier: {error}") from None
    if not (path / "model.safetensors").is_file():
        raise PredictError(f"{path} holds no model.safetensors")
    return path, length, tuple(labels)


def _describe_onnx(path: Path) -> tuple[Path, int, tuple[str, ...]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # the runtime's own exceptions share no base class
        raise PredictError(f"{path} is not an ONNX model that can be loaded") from None
    notes = session.get_modelmeta().custom_metadata_map
    try:
        folder = path.parent / notes["tokenizer"]
        return folder, int(notes["max_length"]), tuple(json.loads(notes["labels"]))
    except (KeyError, ValueError):
        raise PredictError(
            f"{path} does not say which tokenizer it needs; use a file made by 03 or 04"
        ) from None


def _load_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise PredictError(f"the tokenizer is missing: {folder} holds no tokenizer.json")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


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
    parser = argparse.ArgumentParser(prog="python -m helpers.predict", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, type=Path, help="a folder or an .onnx file")
    chosen = parser.parse_args(arguments)
    try:
        classifier = Classifier(chosen.model)
        for label, positive in classifier.classify(read_lines(sys.stdin.buffer)):
            print(f"{label}\t{positive:.6f}")
    except PredictError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
