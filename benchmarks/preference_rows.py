"""Memory and speed of reading preference data, against a floor that reads the same file and checks nothing.

    python benchmarks/preference_rows.py [--rows 1000000] [--rounds 3]

A file of pairs (a prompt of 40 to 200 characters, two responses of 80 to 400) is written to a temporary folder as JSON
Lines and as Parquet in one row group, the worst case for memory. Each measurement is a process of its own, ours and the
floor's in turns: ``for line in file: json.loads(line)``, and pyarrow's batches turned into dictionaries. Printed are
the medians of rows per second and the highest resident memory above what was there once everything was imported.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

WORDS = ["sky", "blue", "green", "reason", "because", "light", "is", "the", "scattered", "of", "it", "and"]


def rows(count: int) -> Iterator[dict[str, str]]:
    """Yield pairs, all different."""
    draw = random.Random(0)
    for i in range(count):
        texts = (" ".join(draw.choices(WORDS, k=draw.randint(10, 40) * size)) for size in (1, 2, 2))
        prompt, chosen, rejected = texts
        yield {"prompt": f"{i} {prompt}", "chosen": f"yes {chosen}", "rejected": f"no {rejected}"}


def write(count: int, folder: Path) -> None:
    """Write the same rows as JSON Lines and as Parquet."""
    import pyarrow
    from pyarrow import parquet

    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))
    columns = {name: pyarrow.array([row[name] for row in rows(count)]) for name in ("prompt", "chosen", "rejected")}
    parquet.write_table(pyarrow.table(columns), folder / "rows.parquet", row_group_size=count)


def ours(path: Path) -> int:
    from rlhf_lab.data.files import read_rankings
    from rlhf_lab.data.summary import Summary

    summary = Summary()
    for _ in read_rankings(path, summary=summary):
        pass
    assert summary.duplicates == 0
    return summary.used


def floor(path: Path) -> int:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return sum(len(batch.to_pylist()) for batch in parquet.ParquetFile(path).iter_batches(batch_size=4096))
    count = 0
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
            count += 1
    return count


def measure(side: str, path: Path) -> None:
    """Print rows per second and megabytes above import, as a process of its own."""
    import numpy  # noqa: F401
    from pyarrow import parquet  # noqa: F401

    import rlhf_lab.data.files  # noqa: F401

    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    count = {"ours": ours, "floor": floor}[side](path)
    seconds = time.perf_counter() - began
    above = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - imported
    print(json.dumps([count / seconds, above / 1024]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return
    table = Table("file", "MB", "ours, rows/s", "floor, rows/s", "ratio", "ours, MB in memory", "floor, MB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # in a process of its own, since a child's highest memory begins with its parent's
        subprocess.run([sys.executable, "-c", WRITE, __file__, str(options.rows), name], check=True)
        for path in (folder / "rows.jsonl", folder / "rows.parquet"):
            found: dict[str, list[tuple[float, float]]] = {"ours": [], "floor": []}
            for _ in range(options.rounds):
                for side, figures in found.items():
                    command = [sys.executable, __file__, "--measure", side, str(path)]
                    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    figures.append(tuple(json.loads(answer)))
            (fast, peak), (fastest, least) = (
                (statistics.median(speed for speed, _ in figures), max(memory for _, memory in figures))
                for figures in found.values()
            )
            ratio = f"{fastest / fast:.2f}"
            size = f"{path.stat().st_size / 1e6:,.0f}"
            table.add_row(path.name, size, f"{fast:,.0f}", f"{fastest:,.0f}", ratio, f"{peak:.0f}", f"{least:.0f}")
    Console().print(table)


WRITE = "import runpy, sys, pathlib; runpy.run_path(sys.argv[1])['write'](int(sys.argv[2]), pathlib.Path(sys.argv[3]))"

if __name__ == "__main__":
    main()
