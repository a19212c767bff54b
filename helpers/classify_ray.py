"""Classify a corpus on several machines, with Ray Data; docs/ray.md says how.

python -m helpers.classify_ray --model /shared/student_int8_fast.xml /shared/in /shared/out
"""

import argparse
import os
from pathlib import Path

import pyarrow as pa
import ray

from helpers.classify import PART, Classifier


class Labeller:
    """An actor that holds the compiled model and runs it on one core."""

    def __init__(self, model: str):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.classifier = Classifier(model, threads=1, many=True)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table, of any columns, with `label` and `probability` in place of its own."""
        column = table["sentence" if "sentence" in table.column_names else "text"].to_pylist()
        found = list(self.classifier.classify("" if text is None else str(text) for text in column))
        table = table.drop_columns(sorted({"label", "probability"} & {*table.column_names}))
        table = table.append_column("label", pa.array([label for label, _ in found], pa.string()))
        return table.append_column("probability", pa.array([p for _, p in found], pa.float64()))


def classify_corpus(model: Path, source: Path, target: Path, *, actor: type = Labeller) -> None:
    """Label what `source` holds, a file or a folder of files, on every core of the cluster.

    ValueError where the files are of several kinds or none that is read, or where `target` holds
    labels already.
    """
    endings = {path.suffix for path in (source, *source.glob("[!._]*")) if path.is_file()}
    if len(endings) != 1 or not endings <= {".csv", ".json", ".jsonl", ".parquet", ".txt"}:
        raise ValueError(f"{source}: files of one kind are read, these are {sorted(endings)}")
    if any(target.glob("*.parquet")):
        raise ValueError(f"{target} holds labels already: name another folder")
    ray.init(ignore_reinit_error=True)  # the cluster that this machine is in, or itself alone
    kind = endings.pop()[1:].removesuffix("l").replace("txt", "text")
    options = {"drop_empty_lines": False} if kind == "text" else {}
    pieces = getattr(ray.data, f"read_{kind}")(str(source), **options)
    pieces = pieces.repartition(target_num_rows_per_block=PART)
    # actors that reserve no core leave room to read and write, also when a machine is lost
    how = {"batch_format": "pyarrow", "num_cpus": 0, "scheduling_strategy": "SPREAD"}
    cores = int(ray.cluster_resources()["CPU"])
    how["compute"] = ray.data.ActorPoolStrategy(min_size=1, max_size=cores, initial_size=cores)
    pieces.map_batches(actor, fn_constructor_args=[str(model)], **how).write_parquet(str(target))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    paths = vars(parser.parse_args()).items()
    classify_corpus(**{name: path.absolute() for name, path in paths})
