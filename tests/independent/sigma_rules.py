#!/usr/bin/env python3
"""Converts the Sigma rules of the content pack by pySigma through our pipeline and runs them over the sample events.

Prints what differs from sigma/expected.json and ends with 1; ends with 77 when pySigma and its SQLite backend are not
installed. One argument: the folder schemas/siem."""
import json
import pathlib
import sqlite3
import sys

try:
    from sigma.backends.sqlite import sqliteBackend
    from sigma.collection import SigmaCollection
    from sigma.processing.pipeline import ProcessingPipeline
except ImportError as missing:
    print(missing)
    sys.exit(77)

pack = pathlib.Path(sys.argv[1])


def flat(value, path=""):
    """Scalars by dotted path, as a SIEM sees them; a list is one text of its scalars."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        scalars = [str(item) for item in value if not isinstance(item, (dict, list))]
        if scalars:
            yield path, "\n".join(scalars)
    else:
        yield path, value


events = [dict(flat(json.loads(line))) for line in (pack / "samples/1.8.0.ndjson").open(encoding="utf-8")]
pipeline = ProcessingPipeline.from_yaml((pack / "sigma/pipeline.yml").read_text(encoding="utf-8"))
names = sorted({name for event in events for name in event} | {to for item in pipeline.items
               for to in getattr(item.transformation, "mapping", {}).values()})
database = sqlite3.connect(":memory:")
database.execute("create table logs (%s)" % ", ".join('"%s"' % name for name in names))
for event in events:
    given = list(event)
    columns = ", ".join('"%s"' % name for name in given)
    database.execute("insert into logs (%s) values (%s)" % (columns, ", ".join("?" * len(given))), list(event.values()))

expected = json.loads((pack / "sigma/expected.json").read_text(encoding="utf-8"))
wrong = 0
rules = sorted((pack / "sigma/rules").glob("*.yml"))
if sorted(expected) != [rule.name for rule in rules]:
    sys.exit("expected.json and the rules do not name the same files")
for rule in rules:
    backend = sqliteBackend(processing_pipeline=pipeline)
    (query,) = backend.convert(SigmaCollection.from_yaml(rule.read_text(encoding="utf-8")))
    query = query.replace("<TABLE_NAME>", "logs")
    where = query[query.index("WHERE"):]
    unknown = [name for name in ("EventCode", "StatusCode", "Activity") if name in where]
    found = sorted({row[0] for row in database.execute('select "metadata.event_code" from logs ' + where)})
    if unknown or found != expected[rule.name]:
        wrong += 1
        print(f"{rule.name}: {unknown} found {found}, expected {expected[rule.name]}\n  {query}")
print(f"{len(rules)} rules over {len(events)} events, {wrong} wrong")
sys.exit(bool(wrong))
