"""Classify a corpus on several machines, with Ray Data; docs/ray.md says how.

    python -m helpers.classify_ray --model /shared/student_int8_fast.xml /shared/in /shared/out

reads a file or folder of CSV, JSON lines, Parquet or text and writes Parquet: the columns of the
input, `label` and `probability`, as `helpers.classify` gives them. Ray repeats what was lost with a
machine. The order is not kept.
"""

import argparse
import os
from pathlib import Path

import pyarrow as pa
import ray

from helpers.classify import PART, Classifier


class Labeller:
    """An actor on one core, which holds the compiled model."""

    def __init__(self, model: str):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.classifier = Classifier(model, threads=1, many=True)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table, (rows, columns), with the columns `label` and `probability`."""
        column = "sentence" if "sentence" in table.column_names else "text"
        sentences = ["" if text is None else str(text) for text in table[column].to_pylist()]
        labels, shares = zip(*self.classifier.classify(sentences), strict=True)
        return table.append_column("label", [labels]).append_column("probability", [shares])


def classify_corpus(model: Path, source: Path, target: Path, *, actor: type = Labeller) -> None:
    """Label every sentence of `source` on every core of the cluster, in pieces of PART."""
    first = next(path for path in (source, *sorted(source.glob("*"))) if path.is_file())
    readers = {".csv": ray.data.read_csv, ".parquet": ray.data.read_parquet}
    readers |= {".jsonl": ray.data.read_json, ".json": ray.data.read_json}
    options = {} if first.suffix in readers else {"drop_empty_lines": False}
    rows = readers.get(first.suffix, ray.data.read_text)(str(source.absolute()), **options)
    pieces = rows.repartition(target_num_rows_per_block=PART)
    how = {"batch_format": "pyarrow", "num_cpus": 1, "compute": ray.data.ActorPoolStrategy()}
    labelled = pieces.map_batches(actor, fn_constructor_args=[str(model.absolute())], **how)
    labelled.write_parquet(str(target.absolute()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    chosen = parser.parse_args()
    classify_corpus(chosen.model, chosen.source, chosen.target)
