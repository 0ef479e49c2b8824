"""Whether what a reader sees in a row is what was sent: JSON on one side, a reader's values on the other.

Numbers of JSON are kept as their text (`Number`): what float64 cannot hold must be found exactly, not nearly. The rules
are those that the lake documents: a field's value is in its column or, as it was sent, in the JSON object of the column
`_rest`.
"""

import datetime
import decimal
import json

# The lake's own columns.
OWN = {"_offset", "_partition", "_timestamp", "_rest"}


class Number(str):
    """A JSON number, as it is written."""


class Pairs(list):
    """A JSON object, with names that may be there twice."""


def parse(text):
    """JSON without loss."""
    return json.loads(text, parse_int=Number, parse_float=Number, object_pairs_hook=Pairs)


def encode(value):
    """JSON without white space; a `Number` as its text."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, (dict, Pairs)):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ",".join(f"{encode(name)}:{encode(inner)}" for name, inner in pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encode, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def row_differs(row, sent):
    """What of a record is not in its row, in words; `None` if all is."""
    pairs = parse(sent)
    rest = parse(row["_rest"]) if row["_rest"] else Pairs()
    for name in dict.fromkeys(name for name, _ in pairs + rest):
        values = [value for key, value in pairs if key == name and value is not None]
        others = [value for key, value in rest if key == name]
        found = column(row, name)
        # Of a field that is there twice the first is in the column, and the others in the rest.
        if len(values) > len(others):
            if values[1:] == others and matches(found, values[0]):
                continue
        elif values == others and is_nothing(found):
            continue
        return f"the field {name!r}: {found!r} in its column and {encode(others)} in _rest, sent was {encode(values)}"
    return None


def column(row, name):
    """The value in the column of that field."""
    return row.get(column_name(row, name))


def column_name(row, name):
    """Which column a field has: that of its name, unless the lake, or a name that differs only in case, has that."""
    stem = name or "_empty"
    names = [stem, *(f"{stem}_{number}" for number in range(2, 6))]
    return next((name for name in names if name in row and name not in OWN), None)


def is_nothing(found):
    """Null, or a structure of nothing else: readers do not tell one from the other."""
    return found is None or (isinstance(found, dict) and all(map(is_nothing, found.values())))


def matches(found, sent):
    """Whether a reader's value is that JSON value."""
    match found:
        case None:
            return sent is None or (isinstance(sent, Pairs) and all(value is None for _, value in sent))
        case bool():
            return found is sent
        case int():
            return isinstance(sent, Number) and str(found) == sent
        case float():
            return isinstance(sent, Number) and decimal.Decimal(repr(found)) == decimal.Decimal(sent)
        case decimal.Decimal():
            return isinstance(sent, Number) and found == decimal.Decimal(sent)
        case datetime.datetime():
            return isinstance(sent, str) and found == datetime.datetime.fromisoformat(sent)
        case datetime.date():
            return isinstance(sent, str) and found == datetime.date.fromisoformat(sent)
        case str():
            if isinstance(sent, list):
                return parse(found) == sent
            return found == (sent if type(sent) is str else encode(sent))
        case list():
            return type(sent) is list and len(found) == len(sent) and all(map(matches, found, sent))
        case dict():
            if not isinstance(sent, Pairs):
                return sent is None and is_nothing(found)
            known = {column_name(found, name) for name, _ in sent}
            more = [value for name, value in found.items() if name not in known]
            return all(matches(column(found, name), value) for name, value in sent) and all(map(is_nothing, more))
    return False


def fits(kind, value):
    """Whether a value fits a declared type: a name, `["list", kind]`, or a dict of a structure's fields."""
    if value is None:
        return True
    if isinstance(kind, dict):
        known = isinstance(value, Pairs) and all(inner is None or name in kind for name, inner in value)
        return known and all(fits(kind.get(name), inner) for name, inner in value)
    if isinstance(kind, list):
        return type(value) is list and all(fits(kind[1], inner) for inner in value)
    if kind == "json":
        return True
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "string":
        return type(value) is str
    if kind in ("timestamp", "date"):
        try:
            return type(value) is str and bool(
                getattr(datetime, {"timestamp": "datetime"}.get(kind, kind)).fromisoformat(value)
            )
        except ValueError:
            return False
    if not isinstance(value, Number):
        return False
    if kind in ("int32", "int64"):
        bits = int(kind[3:]) - 1
        return value.lstrip("-").isdigit() and -(2**bits) <= int(value) < 2**bits
    if kind == "float64":
        return decimal.Decimal(repr(float(value))) == decimal.Decimal(value)
    digits, scale = map(int, kind.removeprefix("decimal(").removesuffix(")").split(","))
    with decimal.localcontext(prec=100):
        units = decimal.Decimal(value).scaleb(scale)
        return units == units.to_integral_value() and abs(units) < 10**digits


def type_text(kind):
    """A declared type as a schema file has it."""
    if isinstance(kind, dict):
        return "struct<" + ", ".join(f"{name}: {type_text(inner)}" for name, inner in kind.items()) + ">"
    return f"list<{type_text(kind[1])}>" if isinstance(kind, list) else kind
