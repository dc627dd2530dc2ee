#!/usr/bin/env python3
"""Puts Gaussian noise on every timestamp of a set of feeds. Standard library only.

  noise.py --feeds DIR --out DIR [--sd 0.1] [--seed 1]

Every line's own stamp is moved by its own draw; logged durations stay. A second delivery of a line (byte-identical, stamped finer
than seconds) keeps the stamp of the first. Where a source stamps whole seconds, the fraction that it cut is drawn first and the sum is
cut again. Lines without a stamp that can be read pass unchanged, and so do `truth` and every other file. Reads and writes .gz by name.
"""
import argparse, datetime, gzip, os, random, re, shutil

ISO = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d{1,9}))?(Z|\+00:00)")
CLF = re.compile(rb"\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d) \+0000\]")
HEAD = 400
FEEDS = ("host.jsonl", "gateway.jsonl", "server.jsonl", "server.log", "access.log", "dbaudit.jsonl")
UTC = datetime.timezone.utc


def opened(path, mode):
    return gzip.open(path, mode) if path.endswith(".gz") else open(path, mode)


def iso(seconds, digits, end):
    at = datetime.datetime.fromtimestamp(seconds, UTC)
    if not digits:
        return at.strftime("%Y-%m-%dT%H:%M:%S").encode() + end
    return at.strftime("%Y-%m-%dT%H:%M:%S.").encode() + f"{at.microsecond:06d}".ljust(9, "0")[:digits].encode() + end


def moved(line, rng, sd, first):
    """The line with another stamp."""
    for pattern in (ISO, CLF):
        found = pattern.search(line[:HEAD])
        if found:
            break
    else:
        return line
    whole = pattern is CLF or not found.group(1)
    if not whole and line in first:
        return first[line]
    if pattern is CLF:
        seconds = datetime.datetime.strptime(found.group(1).decode(), "%d/%b/%Y:%H:%M:%S").replace(tzinfo=UTC).timestamp()
    else:
        text = found.group(0).decode().replace("Z", "+00:00")
        base, _, zone = text.partition("+")
        base, _, fraction = base.partition(".")
        seconds = datetime.datetime.fromisoformat(base + "+" + zone).timestamp() + (float("0." + fraction) if fraction else 0.0)
    noise = rng.gauss(0, sd)
    if whole:
        seconds = float(int(seconds + rng.random() + noise))
    else:
        seconds = round(seconds + noise, len(found.group(1)))
    if pattern is CLF:
        new = b"[" + datetime.datetime.fromtimestamp(seconds, UTC).strftime("%d/%b/%Y:%H:%M:%S").encode() + b" +0000]"
    else:
        new = iso(seconds, len(found.group(1) or b""), found.group(2))
    new = line[:found.start()] + new + line[found.end():]
    if not whole:
        first[line] = new
    return new


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--feeds", required=True); ap.add_argument("--out", required=True)
    ap.add_argument("--sd", type=float, default=0.1, help="seconds"); ap.add_argument("--seed", default="1")
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    for name in sorted(os.listdir(a.feeds)):
        path, out = os.path.join(a.feeds, name), os.path.join(a.out, name)
        feed = name[:-3] if name.endswith(".gz") else name
        if feed not in FEEDS:
            if os.path.isfile(path):
                shutil.copyfile(path, out)
            continue
        rng, first = random.Random(f"{a.seed}:{feed}"), {}
        with opened(path, "rb") as lines, opened(out, "wb") as to:
            for line in lines:
                end = b"\n" if line.endswith(b"\n") else b""
                to.write(moved(line[:len(line) - len(end)], rng, a.sd, first) + end)


if __name__ == "__main__":
    main()
