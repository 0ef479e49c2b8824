"""Three readers of landed files, each with its own Parquet and JSON decoder: DuckDB, pyarrow, polars.

Each has the same methods. They are given a lake's directory and read only data files: what the lake writes under
`errors/` and `_millstream/` is left out by the globs, as a user would.

- `summary(table)`: what was landed of the flights, in figures (see `check.py`), over what one of these returns:
- `flat(directory)`, `hive(directory)`, `raw(directory)`, `lines(directory)`: the flights of each layout;
- `rows(directory, hive)`: any lake's rows as Python values, columns of all files together.
"""

import pathlib

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.json
import pyarrow.parquet as pq

FIELDS = {
    "id": "BIGINT",
    "event_time": "VARCHAR",
    "carrier": "VARCHAR",
    "distance": "BIGINT",
    "dep_delay": "BIGINT",
    "dep_time": "BIGINT",
    "tailnum": "VARCHAR",
}
SUMS = ["id", "distance", "dep_delay"]
NULLS = ["dep_time", "dep_delay", "tailnum"]
PLACE = ["_partition", "_offset"]


def files(directory, ending):
    """A lake's data files."""
    found = sorted(pathlib.Path(directory).rglob(f"*.{ending}"))
    inside = [path for path in found if path.relative_to(directory).parts[0] not in ("errors", "_millstream")]
    return [str(path) for path in inside]


def summary(rows, sums, nulls, carriers, months, places):
    """One shape for all: places is how many records there are by (partition, offset), if files say so."""
    months = {month: (count, delay or 0) for month, count, delay in months}
    carriers = {carrier: (count, miles) for carrier, count, miles in carriers}
    return {"rows": rows, "sums": sums, "nulls": nulls, "carriers": carriers, "months": months, "places": places}


class DuckDB:
    name = f"DuckDB {duckdb.__version__}"

    def __init__(self):
        self.db = duckdb.connect()

    def parquet(self, directory, hive):
        # Directories' values are strings, whatever they look like.
        options = f"union_by_name = true, hive_partitioning = {hive}, hive_types_autocast = false"
        glob = str(directory).replace("'", "''")
        return self.db.sql(f"select * from read_parquet('{glob}/**/*.parquet', {options})")

    def flat(self, directory):
        return self.parquet(directory, False)

    def hive(self, directory):
        return self.parquet(directory, True)

    def raw(self, directory):
        shape = "{" + ", ".join(f'"{name}": "{kind}"' for name, kind in FIELDS.items()) + "}"
        query = f"select unnest(from_json(decode(value), '{shape}')), _partition, _offset from lake"
        return self.parquet(directory, False).query("lake", query)

    def lines(self, directory):
        return self.db.read_json(f"{directory}/*.ndjson.zst", format="newline_delimited", columns=FIELDS)

    def summary(self, table):
        # Once, since a relation reads its files for each question.
        table.create("landed")
        table = self.db.table("landed")
        month = "strftime(make_timestamp(epoch_us(event_time)), '%Y-%m')"
        if str(table.types[table.columns.index("event_time")]) == "VARCHAR":
            month = "event_time[:7]"

        def ask(what, group=""):
            return table.query("lake", f"select {what} from lake {group}").fetchall()

        sums = dict(zip(SUMS, ask(", ".join(f"sum({name})" for name in SUMS))[0]))
        nulls = dict(zip(NULLS, ask(", ".join(f"count(*) - count({name})" for name in NULLS))[0]))
        places = None
        if "_offset" in table.columns:
            places = ask("count(distinct (_partition, _offset))")[0][0]
        return summary(
            ask("count(*)")[0][0],
            sums,
            nulls,
            ask("carrier, count(*), sum(distance)", "group by 1"),
            ask(f"{month}, count(*), sum(dep_delay)", "group by 1"),
            places,
        )

    def rows(self, directory, hive=False):
        return self.parquet(directory, hive).to_arrow_table().to_pylist()


class PyArrow:
    name = f"pyarrow {pa.__version__}"

    def parquet(self, directory, hive):
        found = files(directory, "parquet")
        schemas = [pq.read_schema(path) for path in found]
        partitioning = None
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        if hive:
            # Directories' values are strings, whatever they look like.
            keys = [part.split("=")[0] for part in pathlib.Path(found[0]).relative_to(directory).parts[:-1]]
            types = pa.schema([(key, pa.string()) for key in keys])
            partitioning = ds.partitioning(types, flavor="hive")
            for field in types:
                if schema.get_field_index(field.name) < 0:
                    schema = schema.append(field)
        base = str(directory)
        return ds.dataset(
            found, schema=schema, format="parquet", partitioning=partitioning, partition_base_dir=base
        ).to_table()

    def flat(self, directory):
        return self.parquet(directory, False)

    def hive(self, directory):
        return self.parquet(directory, True)

    def raw(self, directory):
        table = self.parquet(directory, False)
        text = b"\n".join(table["value"].to_pylist())
        decoded = self.decode(pa.BufferReader(text))
        return decoded.append_column("_partition", table["_partition"]).append_column("_offset", table["_offset"])

    def decode(self, stream):
        types = {"BIGINT": pa.int64(), "VARCHAR": pa.string()}
        schema = pa.schema([(name, types[kind]) for name, kind in FIELDS.items()])
        options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        return pyarrow.json.read_json(stream, parse_options=options)

    def lines(self, directory):
        return pa.concat_tables(self.decode(pa.input_stream(path)) for path in files(directory, "ndjson.zst"))

    def summary(self, table):
        time = table["event_time"]
        month = pc.utf8_slice_codeunits(time, 0, 7) if pa.types.is_string(time.type) else pc.strftime(time, "%Y-%m")
        table = table.append_column("month", month)

        def group(by, of):
            grouped = table.group_by(by).aggregate([([], "count_all"), (of, "sum")])
            return [(row[by], row["count_all"], row[f"{of}_sum"]) for row in grouped.to_pylist()]

        places = None
        if "_offset" in table.column_names:
            places = table.select(PLACE).group_by(PLACE).aggregate([]).num_rows
        return summary(
            table.num_rows,
            {name: pc.sum(table[name]).as_py() for name in SUMS},
            {name: table[name].null_count for name in NULLS},
            group("carrier", "distance"),
            group("month", "dep_delay"),
            places,
        )

    def rows(self, directory, hive=False):
        return self.parquet(directory, hive).to_pylist()


class Polars:
    name = f"polars {pl.__version__}"
    types = {"BIGINT": pl.Int64, "VARCHAR": pl.String}

    def parquet(self, directory, hive):
        found = files(directory, "parquet")
        # Text, whatever the directories' names look like.
        options = {"hive_partitioning": hive, "try_parse_hive_dates": False}
        if hive:
            keys = [part.split("=")[0] for part in pathlib.Path(found[0]).relative_to(directory).parts[:-1]]
            options["hive_schema"] = dict.fromkeys(keys, pl.String)
        return pl.concat([pl.read_parquet(path, **options) for path in found], how="diagonal_relaxed")

    def flat(self, directory):
        return self.parquet(directory, False)

    def hive(self, directory):
        return self.parquet(directory, True)

    def raw(self, directory):
        shape = pl.Struct({name: self.types[kind] for name, kind in FIELDS.items()})
        value = pl.col("value").cast(pl.String).str.json_decode(shape).alias("value")
        return self.parquet(directory, False).select("_partition", "_offset", value).unnest("value")

    def lines(self, directory):
        shape = {name: self.types[kind] for name, kind in FIELDS.items()}
        # Before it decodes by itself, in whichever version, Python's neighbour does.
        texts = (pa.input_stream(path).read() for path in files(directory, "ndjson.zst"))
        return pl.concat(pl.read_ndjson(text, schema=shape) for text in texts)

    def summary(self, table):
        time = pl.col("event_time")
        month = time.str.slice(0, 7) if table.schema["event_time"] == pl.String else time.dt.strftime("%Y-%m")
        table = table.with_columns(month=month)

        def group(by, of):
            return table.group_by(by).agg(pl.len().alias("count"), pl.col(of).sum().alias("sum")).rows()

        places = table.select(PLACE).n_unique() if "_offset" in table.columns else None
        return summary(
            table.height,
            {name: table[name].sum() for name in SUMS},
            {name: table[name].null_count() for name in NULLS},
            group("carrier", "distance"),
            group("month", "dep_delay"),
            places,
        )

    def rows(self, directory, hive=False):
        return self.parquet(directory, hive).to_dicts()


READERS = [DuckDB, PyArrow, Polars]
