#!/usr/bin/env python3
"""Scores placements against truth. Standard library only.

  score.py --truth truth.jsonl --links links.ndjson [--json]

`links.ndjson` is what `threadline links --format ndjson` prints, or lines {line_id, session, turn, call, parent}.
Pairwise precision, recall and F1 of session, prompt and call membership; strict parents; lines outside the majority of their
session (false merges); forged lines that share a session with true ones; lines of no session (polling) that were attached.
"""
import argparse, collections, json


def pairs(n):
    return n * (n - 1) // 2


def prf(hit, said, true):
    p, r = (hit / said if said else float(not true)), (hit / true if true else 1.0)
    return {"precision": round(p, 4), "recall": round(r, 4), "f1": round(2 * p * r / (p + r), 4) if p + r else 0.0}


def read(path):
    return [json.loads(x) for x in open(path, encoding="utf-8") if x.strip()]


def score(truth, links):
    said = {}
    for x in links:
        key = x.get("line_id") or f"{(x['file'] or '').rsplit('/', 1)[-1]}:{x['line']}"
        parent = x["parent"].rsplit("/", 1)[-1] if x.get("parent") else None
        said[key] = (x.get("session"), x.get("turn"), x.get("call"), parent)
    none = (None, None, None, None)
    real = [x for x in truth if x["session"] and x["kind"] != "forged"]
    out = {}
    for level, place, name in (("session", 0, "session"), ("prompt", 1, "prompt"), ("call", 2, "call")):
        t, s, both = collections.Counter(), collections.Counter(), collections.Counter()
        for x in real:
            true = (x["session"],) if place == 0 else (x["session"], x[name]) if x[name] is not None else None
            got = said.get(x["line_id"], none)
            got = (got[0], got[place]) if got[place] is not None else None
            t[true] += true is not None; s[got] += got is not None; both[true, got] += true is not None and got is not None
        total = lambda c: sum(pairs(v) for v in c.values())
        out[level] = prf(total(both), total(s), total(t))
    right = sum(x["parent"] is not None and said.get(x["line_id"], none)[3] == x["parent"] for x in real)
    out["parent"] = prf(right, sum(said.get(x["line_id"], none)[3] is not None for x in real), sum(x["parent"] is not None for x in real))
    groups, forged, stray = collections.defaultdict(collections.Counter), collections.Counter(), 0
    for x in truth:
        s = said.get(x["line_id"], none)[0]
        if s is None:
            continue
        if x["kind"] == "forged":
            forged[s] += 1
        elif x["session"] is None:
            stray += 1
        else:
            groups[s][x["session"]] += 1
    out["false_merge_lines"] = sum(sum(c.values()) - max(c.values()) for c in groups.values())
    out["forged_merged"] = sum(n for s, n in forged.items() if s in groups)
    out["stray_attached"] = stray
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--truth", required=True); ap.add_argument("--links", required=True); ap.add_argument("--json", action="store_true")
    a = ap.parse_args(); r = score(read(a.truth), read(a.links))
    print(json.dumps(r) if a.json else row("", r))


def row(name, r):
    f = lambda k: "%.3f/%.3f/%.3f" % (r[k]["precision"], r[k]["recall"], r[k]["f1"])
    return f"{name:24} {f('session')}  {f('prompt')}  {f('call')}  {f('parent')}  {r['false_merge_lines']:5} {r['forged_merged']:4} {r['stray_attached']:4}"


HEAD = f"{'':24} {'session P/R/F1':17}  {'prompt P/R/F1':17}  {'call P/R/F1':17}  {'parent P/R/F1':17}  {'merge':>5} {'forg':>4} {'stray':>4}"

if __name__ == "__main__":
    main()
