"""Lands files in every layout with a real server and reads them back with DuckDB, pyarrow and polars.

    python -m venv venv && venv/bin/pip install -r tools/readers/requirements.txt
    venv/bin/python tools/readers/check.py --millstream target/release/millstream --data flights.ndjson.zst

Two data sets. The flights (`--data`: NDJSON as in `tools/millstream/data`, or the same compressed with zstd), in four
lakes: flat, by carrier and date, raw, NDJSON. Counts, sums, nulls and groups of what each reader sees must be those of
the input, which plain Python computes; each (partition, offset) must be there once. And the odd records of `odd.py`,
value by value. Ends with 1 and says what differs, or prints one line for each lake and reader.
"""

import argparse
import collections
import json
import pathlib
import sys
import tempfile
import time

import pyarrow as pa

import odd
from readers import NULLS, READERS, SUMS
from server import Server

LAYOUTS = [
    ("flat", "flat", []),
    (
        "by-carrier-and-date",
        "hive",
        ["--layout", "carrier={carrier}/date={event_time:%Y-%m-%d}", "--open-files", "256"],
    ),
    ("raw", "raw", ["--columns", "raw"]),
    ("ndjson", "lines", ["--format", "ndjson"]),
]


def expected(path):
    """The input's figures, in the shape of `readers.summary`."""
    rows = 0
    sums, nulls = dict.fromkeys(SUMS, 0), dict.fromkeys(NULLS, 0)
    carriers, months = collections.defaultdict(lambda: (0, 0)), collections.defaultdict(lambda: (0, 0))
    with pa.input_stream(str(path)) as stream:
        for line in stream.read().splitlines():
            flight = json.loads(line)
            rows += 1
            for name in SUMS:
                sums[name] += flight[name] or 0
            for name in NULLS:
                nulls[name] += flight[name] is None
            count, miles = carriers[flight["carrier"]]
            carriers[flight["carrier"]] = (count + 1, miles + flight["distance"])
            month = flight["event_time"][:7]
            count, delay = months[month]
            months[month] = (count + 1, delay + (flight["dep_delay"] or 0))
    return {"rows": rows, "sums": sums, "nulls": nulls, "carriers": dict(carriers), "months": dict(months)}


def differences(found, wanted):
    """Where two summaries differ, a line each."""
    for key, value in wanted.items():
        if found[key] != value:
            yield f"{key}: {found[key]}, sent were {value}"
    if found["places"] not in (None, wanted["rows"]):
        yield f"{found['places']} different (partition, offset) in {wanted['rows']} records"


def flights(server, data):
    """The flights in four lakes, read by three."""
    wanted = expected(data)
    print(f"flights: {wanted['rows']:,} rows, {wanted['sums']}, nulls {wanted['nulls']}")
    server.run("stream", "create", "flights", "--partitions", "4", say=False)
    server.run("produce", "flights", data.resolve(), "--key", "tailnum")
    wrong = 0
    for name, how, flags in LAYOUTS:
        print(f"{name}:")
        directory = server.lake(name, "flights", *flags)
        count = sum(1 for path in directory.rglob("*") if path.is_file() and "_millstream" not in path.parts)
        for make in READERS:
            reader, began = make(), time.monotonic()
            differs = list(differences(reader.summary(getattr(reader, how)(directory)), wanted))
            wrong += len(differs)
            verdict = "\n    ".join(["DIFFERS", *differs]) if differs else "equal"
            print(f"  {reader.name}: {verdict}, {count} files in {time.monotonic() - began:.1f} s", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--millstream", required=True, type=pathlib.Path, help="the program")
    parser.add_argument("--data", required=True, type=pathlib.Path, help="flights.ndjson or flights.ndjson.zst")
    parser.add_argument(
        "--work", type=pathlib.Path, help="an empty directory to work in, which stays; else a temporary one"
    )
    arguments = parser.parse_args()
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
        if any(arguments.work.iterdir()):
            parser.error(f"{arguments.work} is not empty: name another --work")
        wrong = check(arguments, arguments.work)
    else:
        with tempfile.TemporaryDirectory(prefix="millstream-readers-") as work:
            wrong = check(arguments, work)
    print("all that was sent was read, by all" if not wrong else f"{wrong} differences")
    sys.exit(bool(wrong))


def check(arguments, work):
    with Server(arguments.millstream, work) as server:
        return flights(server, arguments.data) + odd.check(server)


if __name__ == "__main__":
    main()
