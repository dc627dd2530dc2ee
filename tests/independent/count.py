#!/usr/bin/env python3
"""Counts what a folder of captures holds, without any of threadline's code.

Prints one JSON object: {"files": {path: {"kind": ..., "lines": [line numbers] | "records": n}}, "calls": [...]}.
Paths are relative to the folder. Standard library only; protobuf is walked by hand.

    count.py FOLDER
"""
import json
import os
import sys


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data):
    """Yields (number, wire type, value) of one protobuf message."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 1:
            value, at = data[at : at + 8], at + 8
        elif wire == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire == 5:
            value, at = data[at : at + 4], at + 4
        else:
            raise ValueError(f"wire type {wire}")
        yield number, wire, value


def nested(data, *path):
    """All sub-messages of `data` under a path of field numbers."""
    if not path:
        return [data]
    return [found for number, wire, value in fields(data) if number == path[0] and wire == 2 for found in nested(value, *path[1:])]


def otlp_records(path, data):
    """Log records or spans of one OTLP body; None for metrics."""
    name = os.path.basename(path)
    if "metrics" in name:
        return None
    if path.endswith(".pb"):
        # ExportLogsServiceRequest.resource_logs=1, .scope_logs=2, .log_records=2; traces have the same numbers.
        return len(nested(data, 1, 2, 2))
    body = json.loads(data)
    total = 0
    for outer, middle, inner in (("resourceLogs", "scopeLogs", "logRecords"), ("resourceSpans", "scopeSpans", "spans")):
        for resource in body.get(outer) or []:
            for scope in resource.get(middle) or []:
                total += len(scope.get(inner) or [])
    return total


def kind_of(path, data):
    name = os.path.basename(path)
    if name in ("ground_truth.json", "index.jsonl", "README.md") or name.startswith("stream-"):
        return "none"
    if os.path.basename(os.path.dirname(path)) == "otlp":
        return "otlp"
    if name == "gateway.log.jsonl" or (name.startswith("db.") and name.endswith(".jsonl")):
        # Lines of a gateway's own log, rows of its tables.
        return "log"
    if name.endswith(".jsonl"):
        first = json.loads(data.split(b"\n", 1)[0])
        if "dir" in first and "raw" in first:
            return "stdio"
        if "dir" in first and "xchg" in first:
            return "http"
        if "rollout-" in name:
            return "codex"
        if "sessionId" in first or "uuid" in first:
            return "claude-code"
    return "other"


def main(folder):
    files = {}
    truths = {}
    for top, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            path = os.path.join(top, name)
            relative = os.path.relpath(path, folder)
            with open(path, "rb") as handle:
                data = handle.read()
            kind = kind_of(path, data)
            if name == "ground_truth.json":
                truths[os.path.dirname(relative)] = json.loads(data)
            if kind == "otlp":
                records = otlp_records(path, data)
                files[relative] = {"kind": "metrics" if records is None else "otlp", "records": records or 0}
            elif kind in ("stdio", "http", "codex", "claude-code", "log"):
                lines = [number for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
                files[relative] = {"kind": kind, "lines": lines}
            else:
                files[relative] = {"kind": kind}
    json.dump({"files": files, "truths": truths}, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
