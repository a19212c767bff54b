"""Classify sentences with a model that a run has made.

    python -m helpers.classify --model artifacts/default/student_int8_fast.xml < sentences.txt

reads UTF-8, one sentence a line, and prints one line for each, in order: the label, a tab and the
probability of the positive class, or where there are more than two, of that label. An empty line
is a sentence without words; a sentence is cut at the word pieces the model was trained with.
`--model FILE reviews.csv labels` reads a text file or the column `sentence` or `text` of CSV, TSV,
JSON lines or Parquet, of any size, and fills the folder `labels` with Parquet files, in the order
of the input. Stopped or killed, the same command goes on after the last whole one.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, dataset, parquet
from scipy.special import softmax
from tqdm import tqdm

from helpers.environment import physical_cores
from helpers.runtimes import load_model, load_rows_encoder, pad_rows

PART, BATCH = 8192, 32  # sentences: sorted by length and written together, run together
_COLUMNS = ("sentence", "text")
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
    sentence runs alone at the shortest that holds it, for a quick answer. With `many` it takes any
    length and batch, and like an ONNX file runs a batch on each thread at a time. An ONNX file
    whose INT8 ranges are those of the batch has `batch` 1: no answer depends on its company.

    Raises:
        PredictError: the path is missing, is no model, or no folder says what its labels are.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None, many: bool = False):
        path, threads = Path(path), threads or physical_cores()
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
        self._encode = load_rows_encoder(folder, self.max_length)
        self._buckets = length_buckets(self.max_length)
        streams = threads if many and path.is_file() else 1  # PyTorch shares out a batch itself
        runtime, options = "onnxruntime", {"streams": streams}
        if path.is_dir():
            runtime, options = "pytorch", {}
        elif path.suffix == ".xml":
            runtime, options = "openvino", options if many else {"buckets": self._buckets}
        try:
            self._model = load_model(runtime, path, threads=threads, **options)
        except Exception as error:  # the runtimes' own exceptions share no base class
            cause = str(error).strip().splitlines() or [type(error).__name__]
            raise PredictError(f"{path} cannot be loaded by {runtime}: {cause[0]}") from None
        self.runtime, self.threads = runtime, self._model.threads
        ranges_of_batch = runtime == "onnxruntime" and b"DynamicQuantize" in path.read_bytes()
        self.batch = 1 if ranges_of_batch else BATCH
        self._map = ThreadPoolExecutor(streams).map if streams > 1 else map

    def probabilities(self, sentences: Sequence[str], report: Callable = int) -> np.ndarray:
        """Class probabilities, float64 (sentences, classes); `report` gets each batch's size.

        Raises:
            PredictError: the runtime's answer is no number, so that no label follows from it.
        """
        rows = self._encode(sentences)
        lengths = np.array([len(row) for row in rows], dtype=int)
        order = np.argsort(-lengths, kind="stable")  # the longest first: all threads end together
        buckets, batches = np.searchsorted(self._buckets, lengths[order]), []
        for bucket in np.unique(buckets)[::-1]:
            members = order[buckets == bucket]
            batches += np.split(members, range(self.batch, len(members), self.batch))
        logits = np.empty((len(rows), len(self.labels)))

        def run(batch):
            logits[batch] = self._model.run(*pad_rows([rows[place] for place in batch]))
            report(len(batch))

        list(self._map(run, batches))
        if not np.isfinite(logits).all():
            raise PredictError("the runtime answered with something that is no number")
        return softmax(logits, axis=1)

    def classify(self, sentences: Iterable[str], report: Callable = int) -> Iterator[tuple]:
        """Yield (label, probability) for each sentence, in order; `report` as above.

        Of two classes it is the probability of the last one, positive; of more, that of the label.
        """
        two, sentences = len(self.labels) == 2, iter(sentences)
        while part := list(islice(sentences, PART)):
            for row in self.probabilities(part, report):
                best = int(row.argmax())
                yield self.labels[best], float(row[1 if two else best])


def _folder_of(path: Path) -> Path:
    """The folder with the labels and the tokenizer of a model."""
    beside = [path.parent, path.absolute().parent.parent, path.parent / "student"]
    candidates = [path] if path.is_dir() else beside
    for folder in candidates:
        if all((folder / name).is_file() for name in _DESCRIPTION):
            return folder
    raise PredictError(f"{candidates[-1]} does not hold {', '.join(_DESCRIPTION)}")


def read_lines(stream) -> Iterator[str]:
    """Yield a binary stream's lines; PredictError gives the number of one that is not UTF-8."""
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise PredictError(f"line {number} of the input is not UTF-8") from None


def read_sentences(path: Path) -> Iterator[str]:
    """Yield a file's sentences, read in pieces; PredictError where file or column is not there."""
    ending = path.suffix.lower()
    kind = {".jsonl": "json", ".tsv": "csv"}.get(ending, ending[1:])
    try:
        if kind not in ("csv", "json", "parquet"):
            with path.open("rb") as stream:
                yield from read_lines(stream)
            return
        if kind == "csv":
            comma = "\t" if ending == ".tsv" else ","
            cut = csv.ParseOptions(delimiter=comma, newlines_in_values=True)
            text = csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.string()))
            kind = dataset.CsvFileFormat(cut, convert_options=text)
        table = dataset.dataset(path, format=kind)
        columns = [name for name in _COLUMNS if name in table.schema.names]
        if not columns:
            raise PredictError(f"{path} has no column 'sentence' or 'text': {table.schema.names}")
        for batch in table.to_batches(columns=columns[:1], batch_readahead=2, batch_size=PART):
            yield from ("" if one is None else str(one) for one in batch[0].to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise PredictError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def classify_file(classifier: Classifier, model: Path, source: Path, target: Path) -> None:
    """Label a file into a folder: `part-<n>.parquet` begins at sentence n * PART.

    A part has its name once it is whole, and is kept when the work goes on. PredictError where the
    file cannot be read, or the parts are of another model or file.
    """
    if not source.is_file():
        raise PredictError(f"{source} is no file, which is read twice")
    total = sum(1 for _ in read_sentences(source))  # a fault shows before hours of work
    about = [model.name, model.stat().st_mtime_ns, source.name, source.stat().st_size, PART]
    made_from = {b"made from": json.dumps(about).encode()}
    target.mkdir(parents=True, exist_ok=True)
    parts = sorted(target.glob("part-*.parquet"))
    ours = [part.name for part in parts] == [_part(number) for number in range(len(parts))]
    if not ours or any(parquet.read_schema(part).metadata != made_from for part in parts):
        raise PredictError(f"{target} holds parts of another model or input: name another folder")
    aside, done = target / f".writing-{os.getpid()}", min(total, len(parts) * PART)
    sentences = islice(read_sentences(source), done, None)
    with tqdm(total=total, initial=done, unit=" sentences") as bar:
        for number in range(len(parts), -(-total // PART)):
            part = list(islice(sentences, PART))
            labels, shares = zip(*classifier.classify(part, bar.update), strict=True)
            table = pa.table({"sentence": part, "label": labels, "probability": shares})
            parquet.write_table(table.replace_schema_metadata(made_from), aside)
            aside.replace(target / _part(number))


def _part(number: int) -> str:
    return f"part-{number:06}.parquet"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status, 2 for a model or input that fails."""
    parser = argparse.ArgumentParser(prog="python -m helpers.classify", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, type=Path, help="a folder, an .onnx or an .xml")
    parser.add_argument("input", nargs="?", type=Path, help="a file; without it, what is piped in")
    parser.add_argument("output", nargs="?", type=Path, help="a folder; without it, print")
    chosen = parser.parse_args(arguments)
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        classifier = Classifier(chosen.model, many=True)
        if chosen.output or classifier.batch == 1:
            alone = "one by one: company would change its INT8 ranges"
            how = alone if classifier.batch == 1 else f"in batches of {BATCH}"
            ran = f"{classifier.runtime}, FP32 where it is not INT8, sentences {how}"
            print(f"{chosen.model}: {ran}", file=sys.stderr)
        if chosen.output:
            classify_file(classifier, chosen.model, chosen.input, chosen.output)
            return 0
        lines = read_sentences(chosen.input) if chosen.input else read_lines(sys.stdin.buffer)
        for label, probability in classifier.classify(lines):
            print(f"{label}\t{probability:.6f}")
        sys.stdout.flush()  # here, where a reader that has gone is no fault
    except PredictError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, pa.ArrowException) as error:  # a part that is damaged, a disk that is full
        print(f"error: {chosen.output or chosen.input}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
