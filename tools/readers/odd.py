"""Records of every odd shape, seeded, landed inferred and declared, and compared value by value with what was sent.

They come in four parts, and the lakes land each before the next is sent: a column is settled by the first file that has
it, and what is odd later drifts from it. Some are not JSON at all, or no objects; those must be in `errors/`, byte for
byte.
"""

import base64
import json
import random
import time

from readers import READERS
from values import Number, encode, fits, parse, row_differs, type_text

SEED = 7
PARTS = 4
PART_RECORDS = 5_000
PLACES = [
    "Zürich",
    "San José/CA",
    'O\'Hare "1"',
    "100% sure",
    "東京 🗼",
    "a=b",
    "..",
    "_hidden",
    ".",
    "errors",
    "x\ty:z",
    " two ",
    "",
    None,
]
TEXTS = [
    "plain",
    "",
    "tab\tand\nline",
    'quo"te\\',
    "nul\u0000",
    "é ü 漢字",
    "👩‍🚀 flies",
    "\u2028",
    "null",
    "1.50",
    "{}",
]
BROKEN = [
    b'{"n":1,"cut',
    b"no JSON",
    b"\xff\xfe\x00 bytes",
    b"[1,2]",
    b"42",
    b'{"n":01}',
    b'{"n":"\\ud800"}',
    b"NaN",
    b'{"n":1}}',
    b"null",
]

DECLARED = {
    "n": "int64",
    "place": "string",
    "at": "timestamp",
    "day": "date",
    "level": "int32",
    "flag": "boolean",
    "exact": "decimal(20,4)",
    "weight": "float64",
    "to": {"street": "string", "zip": "string", "geo": {"lat": "float64", "lon": "float64"}},
    "items": ["list", {"sku": "string", "count": "int64", "tags": ["list", "string"]}],
    "mixed": "string",
}
LOOSER = {
    **DECLARED,
    "level": "int64",
    "exact": "decimal(38,4)",
    "to": {**DECLARED["to"], "country": "string"},
    "mixed": "json",
}


def record(rng, n, part):
    """One record's text. What a field is in the first part is what its column becomes."""
    odd = part > 0 and rng.random() < 0.1

    def number(whole):
        return Number(whole if rng.random() < 0.5 else f"{rng.randint(-(10**6), 10**6)}.{rng.randint(1, 99):02}")

    def maybe(value):
        return None if rng.random() < 0.1 else value

    def item():
        tags = [maybe(rng.choice(TEXTS)) for _ in range(rng.randint(0, 3))]
        return {"sku": rng.choice(TEXTS), "count": Number(rng.randint(0, 99)), "tags": maybe(tags)}

    at = f"20{rng.randint(24, 25)}-0{rng.randint(1, 3)}-1{rng.randint(0, 9)}T0{rng.randint(0, 9)}:30:00"
    fields = {
        "n": Number(n),
        "place": rng.choice(PLACES),
        "at": maybe(at + rng.choice(["Z", ".5Z", ".123456Z", "+00:00"])),
        "day": maybe(at[:10]),
        "to": maybe(
            {"street": rng.choice(TEXTS), "zip": maybe("8000"), "geo": maybe({"lat": number("47"), "lon": number("8")})}
        ),
        "items": maybe([maybe(item()) for _ in range(rng.randint(0, 3))]),
        "matrix": maybe(
            [maybe([Number(rng.randint(0, 9)) for _ in range(rng.randint(0, 2))]) for _ in range(rng.randint(0, 2))]
        ),
        # Whole numbers that become fractions.
        "level": Number(rng.choice([rng.randint(-9, 9)] * 9 + [2**31, -(2**53)])) if part < 2 else number("3"),
        "weight": number("12"),
        # Later beyond 64 bits, and with more digits than a float has.
        "big": Number(2**63 + n) if odd else Number(rng.choice([2**63 - 1, -(2**63), n])),
        "exact": Number(f"{10**25 + n}.0001") if odd else number("1e3"),
        "flag": "yes" if odd else maybe(rng.random() < 0.5),
        "code": str(n) if odd else Number(n % 7),
        "mixed": rng.choice(TEXTS * 3 + [Number("1.50"), True, {"a": [None, "ü"]}, [], None]),
        "nothing": None,
        "empty": {},
        "Name": rng.choice(TEXTS),
        "name": Number(n),
        "NAME": maybe(rng.random() < 0.5),
        "_offset": Number(-n),
        "": rng.choice(TEXTS),
        "later": None,
    }
    if part > 1:
        fields["later"] = {"a": Number(n), "A": [rng.choice(TEXTS)]}
        fields["tail " + rng.choice("äöü")] = rng.choice(TEXTS)
        if fields["to"]:
            fields["to"]["country"] = rng.choice(["CH", "日本"])
    if odd and rng.random() < 0.3:
        fields["items"] = {"sku": "no list"}
    if odd and rng.random() < 0.3:
        fields["to"] = [fields["to"]]
    names = list(fields)
    if rng.random() < 0.2:
        rng.shuffle(names)
    text = encode({name: fields[name] for name in names if fields[name] is not None or rng.random() < 0.5})
    if rng.random() < 0.3:
        # The same with escapes in it.
        text = "".join(char if ord(char) < 128 else json.dumps(char)[1:-1] for char in text)
    return text[:-1] + f',"n":{n},"n":"again"}}' if odd and rng.random() < 0.1 else text


def parts():
    """The records of each part: by their number, and those that are none."""
    rng, n = random.Random(SEED), 0
    for part in range(PARTS):
        records, broken = {}, []
        for _ in range(PART_RECORDS):
            n += 1
            if rng.random() < 0.01:
                broken.append(rng.choice(BROKEN) + b" " * len(broken))
            else:
                records[n] = record(rng, n, part).encode()
        yield records, broken


def rejected(directory):
    """The lines of a lake's error files: the original bytes by partition and offset."""
    lines = [line for path in directory.glob("errors/*.ndjson") for line in path.read_bytes().splitlines()]
    found = [json.loads(line) for line in lines]
    by_place = {(line["partition"], line["offset"]): base64.b64decode(line["value_base64"]) for line in found}
    assert len(by_place) == len(lines), "a record is in errors/ twice"
    return by_place


def compare(name, rows, errors, sent, broken, fit):
    """What is not as it was sent, a line each."""
    places = {(row["_partition"], row["_offset"]) for row in rows} | set(errors)
    if len(places) != len(rows) + len(errors):
        yield f"{name}: {len(rows)} rows and {len(errors)} errors at {len(places)} different (partition, offset)"
    by_number = {row["n"]: row for row in rows}
    wanted = {n for n, value in sent.items() if fit(value)}
    if len(by_number) != len(rows) or by_number.keys() != wanted:
        missing, more = sorted(wanted - by_number.keys()), sorted(by_number.keys() - wanted)
        yield f"{name}: {len(missing)} rows are missing ({missing[:5]}), {len(more)} are too much ({more[:5]})"
    left = sorted(broken + [value for n, value in sent.items() if n not in wanted])
    if sorted(errors.values()) != left:
        yield f"{name}: {len(errors)} records in errors/ are not the {len(left)} that were to be rejected"
    for n, row in by_number.items():
        differs = (
            row_differs({key: row[key] for key in row if key not in ("p", "y")}, sent[n].decode())
            if n in sent
            else None
        )
        if differs:
            yield f"{name}: record {n}: {differs}"


def canary(rows, errors, sent, broken):
    """What compares must see a changed value, a lost row and a doubled one."""
    changed = {**sent, 1: sent[1].replace(b'"n":1', b'"n":1,"x":1', 1)}
    lost, doubled = rows[1:], [*rows, rows[0]]
    for what, found in [(changed, rows), (sent, lost), (sent, doubled)]:
        assert list(compare("canary", found, errors, what, broken, lambda value: True)), "a difference was not seen"


def directories(name, rows, sent):
    """Whether the directories' values, as readers see them, are those of the fields."""
    for row in rows:
        fields = dict(reversed(parse(sent[row["n"]].decode())))
        place, year = fields.get("place") or None, (fields.get("at") or "")[:4] or None
        if (row["p"], row["y"]) != (place, year):
            found = f"{row['p']!r}, {row['y']!r}"
            yield f"{name}: record {row['n']}: in the directory of {found}; sent were {place!r}, {year!r}"


def say(what, count, began, differs):
    """One line, or what differs."""
    text = "\n    ".join([f"{len(differs)} DIFFER", *differs[:8]]) if differs else "equal"
    print(f"  {what}: {count:,} rows, {text}, in {time.monotonic() - began:.1f} s", flush=True)
    return len(differs)


def schema_file(path, columns):
    """Writes a schema file."""
    columns = [{"name": name, "type": type_text(kind), "required": name == "n"} for name, kind in columns.items()]
    path.write_text(json.dumps({"columns": columns}))
    return path


def check(server):
    """Lands them in two lakes and reads them by three. How much differs."""
    print(f"odd records, seed {SEED}:")
    server.run("stream", "create", "odd", "--partitions", "4", say=False)
    sent, broken, wrong = {}, [], 0
    strict = schema_file(server.work / "strict.json", DECLARED)
    inferred = server.lake("odd-inferred", "odd", "--layout", "p={place}/y={at:%Y}")
    declared = server.lake("odd-declared", "odd", "--schema", strict)
    for number, (records, nonsense) in enumerate(parts()):
        path = server.work / f"odd-{number}.ndjson"
        lines = [*records.values(), *nonsense]
        random.Random(number).shuffle(lines)
        path.write_bytes(b"\n".join(lines) + b"\n")
        server.run("produce", "odd", path, "--format", "lines", say=False)
        for lake in ("odd-inferred", "odd-declared"):
            server.run("lake", "flush", lake, say=number == PARTS - 1)
        sent.update(records)
        broken += nonsense
    server.audit("odd-inferred")
    for make in READERS:
        reader, began = make(), time.monotonic()
        rows = reader.rows(inferred, hive=True)
        differs = list(compare(reader.name, rows, rejected(inferred), sent, broken, lambda value: True))
        wrong += say(reader.name, len(rows), began, differs + list(directories(reader.name, rows, sent)))
    canary(rows, rejected(inferred), sent, broken)

    def read_declared(columns):
        def fit(text):
            pairs = parse(text.decode())
            return all(fits(columns.get(name, "json"), value) for name, value in {**dict(reversed(pairs))}.items())

        server.audit("odd-declared")
        found = 0
        for make in READERS:
            reader, began = make(), time.monotonic()
            rows = reader.rows(declared)
            found += say(
                reader.name, len(rows), began, list(compare(reader.name, rows, rejected(declared), sent, broken, fit))
            )
        return found

    print("declared:")
    wrong += read_declared(DECLARED)
    server.run("lake", "alter", "odd-declared", "--schema", schema_file(server.work / "looser.json", LOOSER))
    server.run("lake", "retry-errors", "odd-declared")
    return wrong + read_declared(LOOSER)
