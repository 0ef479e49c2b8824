"""How fast DuckDB, pyarrow and polars turn a file of NDJSON into Parquet (zstd 1): a measure for lakes.

    venv/bin/python tools/readers/speed.py flights.ndjson [--times 3]

Prints MB of JSON for each second of CPU, and by the clock, on one core and on all, the best of some rounds. Compare with
`cargo bench --bench lake`, which lands the same lines. None of these is durable, divides by directory or keeps where a record came from.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROW_GROUP_ROWS = 1 << 20


def with_duckdb(source, target, threads):
    import duckdb

    db = duckdb.connect(config={"threads": threads})
    options = f"format parquet, compression zstd, compression_level 1, row_group_size {ROW_GROUP_ROWS}"
    db.execute(f"copy (from read_json('{source}', format = 'newline_delimited')) to '{target}' ({options})")


def with_pyarrow(source, target, threads):
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet as pq

    pa.set_cpu_count(threads)
    table = pyarrow.json.read_json(
        source, read_options=pyarrow.json.ReadOptions(use_threads=threads > 1, block_size=8 << 20)
    )
    pq.write_table(table, target, compression="zstd", compression_level=1, row_group_size=ROW_GROUP_ROWS)


def with_polars(source, target, threads):
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    import polars as pl

    pl.read_ndjson(source).write_parquet(target, compression="zstd", compression_level=1, row_group_size=ROW_GROUP_ROWS)


CONVERTERS = {"DuckDB": with_duckdb, "pyarrow": with_pyarrow, "polars": with_polars}


def child(name, source, target, threads):
    """One conversion in a process of its own: what it took without the start of the libraries."""
    convert = CONVERTERS[name]
    # Whatever is loaded or made once is loaded by a small one.
    with tempfile.NamedTemporaryFile(suffix=".ndjson") as small, open(source, "rb") as lines:
        small.writelines(line for _, line in zip(range(1_000), lines))
        small.flush()
        convert(small.name, target, threads)
    cpu, clock = time.process_time(), time.monotonic()
    convert(source, target, threads)
    print(time.process_time() - cpu, time.monotonic() - clock, pathlib.Path(target).stat().st_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=pathlib.Path, help="NDJSON, not compressed")
    parser.add_argument("--times", type=int, default=3, help="rounds; the best counts")
    arguments = parser.parse_args()
    megabytes = arguments.data.stat().st_size / 1e6
    print(f"{arguments.data.name}, {megabytes:.0f} MB, best of {arguments.times}")
    with tempfile.TemporaryDirectory() as work:
        for threads in sorted({1, os.cpu_count()}):
            for name in CONVERTERS:
                command = [
                    sys.executable,
                    __file__,
                    "--child",
                    name,
                    str(arguments.data),
                    f"{work}/out.parquet",
                    str(threads),
                ]
                runs = [
                    subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(arguments.times)
                ]
                cpu, clock, size = map(min, zip(*(map(float, run.stdout.split()) for run in runs)))
                rates = f"{megabytes / cpu:.0f} MB/s of a core, {megabytes / clock:.0f} MB/s by the clock"
                print(f"  {name:8} {threads} thread(s): {rates}, {size / 1e6:.1f} MB of Parquet", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:5], int(sys.argv[5]))
    else:
        main()
