#!/usr/bin/env python3
"""Puts noise on every timestamp of a set of feeds. Standard library only.

  noise.py --feeds DIR --out DIR [--sd 0.1 | --late 0.03] [--steps 2] [--seed 1] [--true-times]

Every line's own stamp is moved by its own draw; logged durations stay. A second delivery of a line (byte-identical, stamped finer
than seconds) keeps the stamp of the first. Where a source stamps whole seconds, the fraction that it cut is drawn first and the sum is
cut again. The noise is Gaussian (--sd), or late only with a heavy tail (--late: a Lomax distribution of shape 1.5 with that median,
at most ten seconds). With --steps half of the clocks (workstations, gateways, servers, hosts and databases downstream) are set to
another time once, at a time of their own and by a normal draw of that many seconds, as NTP does. With --true-times a line bears the time that its truth has (`t`, milliseconds) in place of its own: what is then still
lost is not the clocks'. Lines without a stamp that can be read pass unchanged, and so do `truth` and every other file. Reads and writes .gz by name.
"""
import argparse, datetime, gzip, json, os, random, re, shutil

ISO = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d{1,9}))?(Z|\+00:00)")
CLF = re.compile(rb"\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d) \+0000\]")
HEAD = 400
# What says whose clock stamped a line, by feed.
CLOCK = {"host.jsonl": rb'"host\.name":\s*"([^"]*)"', "gateway.jsonl": rb'"gateway":\s*"([^"]*)"', "server.jsonl": rb'"server":\s*"([^"]*)"',
         "server.log": rb"\bserver=(\S+)", "access.log": rb"^(\S+)", "dbaudit.jsonl": rb'"db":\s*"([^"]*)"'}
FEEDS = ("host.jsonl", "gateway.jsonl", "server.jsonl", "server.log", "access.log", "dbaudit.jsonl")
UTC = datetime.timezone.utc


def opened(path, mode):
    return gzip.open(path, mode) if path.endswith(".gz") else open(path, mode)


def iso(seconds, digits, end):
    at = datetime.datetime.fromtimestamp(seconds, UTC)
    if not digits:
        return at.strftime("%Y-%m-%dT%H:%M:%S").encode() + end
    return at.strftime("%Y-%m-%dT%H:%M:%S.").encode() + f"{at.microsecond:06d}".ljust(9, "0")[:digits].encode() + end


def stamp(found, pattern):
    """Seconds since the Unix epoch."""
    if pattern is CLF:
        return datetime.datetime.strptime(found.group(1).decode(), "%d/%b/%Y:%H:%M:%S").replace(tzinfo=UTC).timestamp()
    base, _, zone = found.group(0).decode().replace("Z", "+00:00").partition("+")
    base, _, fraction = base.partition(".")
    return datetime.datetime.fromisoformat(base + "+" + zone).timestamp() + (float("0." + fraction) if fraction else 0.0)


def true_times(feeds):
    """(feed, line number) -> seconds."""
    path = next(p for p in (os.path.join(feeds, "truth.jsonl"), os.path.join(feeds, "truth.jsonl.gz")) if os.path.exists(p))
    with opened(path, "rb") as lines:
        truth = [json.loads(line) for line in lines if line.strip()]
    return {tuple(t["line_id"].rsplit(":", 1)): t["t"] / 1e3 for t in truth if t.get("t")}


def stamped(line):
    """The stamp of a line, and its pattern."""
    for pattern in (ISO, CLF):
        found = pattern.search(line[:HEAD])
        if found:
            return found, pattern
    return None, None


class Steps:
    """Clocks that are set to another time once."""

    def __init__(self, size, span, seed):
        self.size, self.span, self.seed, self.known = size, span, seed, {}

    def of(self, feed, line, seconds):
        if not self.size:
            return 0.0
        name = re.search(CLOCK[feed], line)
        name = (feed.split(".")[0], name.group(1) if name else b"")
        if name not in self.known:
            rng = random.Random(f"{self.seed}:{name}")
            self.known[name] = rng.uniform(*self.span), rng.gauss(0, self.size) if rng.random() < .5 else 0.0
        at, by = self.known[name]
        return by if seconds >= at else 0.0


def span(feeds):
    """First and last time of the feeds."""
    low, high = float("inf"), float("-inf")
    for name in sorted(os.listdir(feeds)):
        if (name[:-3] if name.endswith(".gz") else name) in FEEDS:
            with opened(os.path.join(feeds, name), "rb") as lines:
                for line in lines:
                    found, pattern = stamped(line)
                    try:
                        at = stamp(found, pattern) if found else None
                    except ValueError:
                        at = None
                    if at is not None:
                        low, high = min(low, at), max(high, at)
    return low, high


def late(rng, middle):
    return min(middle / (2 ** (1 / 1.5) - 1) * (rng.random() ** (-1 / 1.5) - 1), 10.0)


def moved(line, feed, noise, steps, rng, first, true=None):
    """The line with another stamp."""
    found, pattern = stamped(line)
    if not found:
        return line
    whole = pattern is CLF or not found.group(1)
    if not whole and line in first:
        return first[line]
    try:
        seconds = stamp(found, pattern)
    except ValueError:
        return line
    noise = noise(rng) + steps.of(feed, line, seconds)
    if true is not None:
        seconds = float(int(true + noise)) if whole else round(true + noise, len(found.group(1)))
    elif whole:
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
    ap.add_argument("--late", type=float, help="median, seconds; in place of --sd"); ap.add_argument("--steps", type=float, default=0.0, help="seconds")
    ap.add_argument("--true-times", action="store_true")
    a = ap.parse_args(); true = true_times(a.feeds) if a.true_times else {}
    os.makedirs(a.out, exist_ok=True)
    noise = (lambda rng: late(rng, a.late)) if a.late else (lambda rng: rng.gauss(0, a.sd))
    steps = Steps(a.steps, span(a.feeds) if a.steps else (0, 0), a.seed)
    for name in sorted(os.listdir(a.feeds)):
        path, out = os.path.join(a.feeds, name), os.path.join(a.out, name)
        feed = name[:-3] if name.endswith(".gz") else name
        if feed not in FEEDS:
            if os.path.isfile(path):
                shutil.copyfile(path, out)
            continue
        rng, first = random.Random(f"{a.seed}:{feed}"), {}
        with opened(path, "rb") as lines, opened(out, "wb") as to:
            for number, line in enumerate(lines, 1):
                end = b"\n" if line.endswith(b"\n") else b""
                to.write(moved(line[:len(line) - len(end)], feed, noise, steps, rng, first, true.get((feed, str(number)))) + end)


if __name__ == "__main__":
    main()
