#!/usr/bin/env python3
"""How far the confidence of parent links can be believed. Standard library only.

  calibration.py --truth truth.jsonl[.gz] --links links.ndjson [--json]

`links.ndjson` is what `threadline links --format ndjson` prints, or lines {line_id, parent, score}. Counted are links of lines that have a true
session: ten bins of confidence with their mean and the share that is right, the expected calibration error (the mean distance of the two,
weighed by links), the share right at .9 and above, and the Brier score. A second delivery counts as its original.
"""
import argparse, collections, gzip, json


def read(path):
    with (gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")) as lines:
        return [json.loads(x) for x in lines if x.strip()]


def scored(truth, links):
    """(confidence, is right, kind) of every link that says a parent."""
    of = {x["line_id"]: x for x in truth}
    canon = lambda k: of[k].get("dup_of", k) if k in of else k
    base = lambda text: text.rsplit("/", 1)[-1]
    for x in links:
        line = x.get("line_id") or f"{base(x['file'] or '')}:{x['line']}"
        parent, true = x.get("parent"), of.get(line)
        confidence = x.get("score", x.get("confidence"))
        if not parent or confidence is None or not true or not true.get("scored", True) or not true["session"]:
            continue
        if true["kind"].startswith("forged") or "forged" in true.get("flags", ()):
            continue
        yield confidence, true["parent"] is not None and canon(true["parent"]) == canon(base(parent)), true["kind"]


def bins(said, count=10):
    found = collections.defaultdict(list)
    for confidence, right, _ in said:
        found[min(count - 1, int(confidence * count))].append((confidence, right))
    mean = lambda values: sum(values) / len(values)
    return [(at / count, len(v), mean([c for c, _ in v]), mean([r for _, r in v])) for at, v in sorted(found.items())]


def report(said):
    n = max(1, len(said)); table = bins(said); sure = [right for c, right, _ in said if c >= 0.9]
    return {
        "links": len(said), "ece": round(sum(k * abs(c - r) for _, k, c, r in table) / n, 5),
        "right_at_90": round(sum(sure) / max(1, len(sure)), 5), "below_90": len(said) - len(sure),
        "brier": round(sum((c - r) ** 2 for c, r, _ in said) / n, 5),
        "bins": [{"from": b, "links": k, "confidence": round(c, 4), "right": round(r, 4)} for b, k, c, r in table],
    }


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--truth", required=True); ap.add_argument("--links", required=True); ap.add_argument("--json", action="store_true")
    a = ap.parse_args(); said = list(scored(read(a.truth), read(a.links)))
    all_ = report(said); kinds = {kind: report([x for x in said if x[2] == kind]) for kind in sorted({x[2] for x in said})}
    if a.json:
        print(json.dumps(dict(all_, kinds=kinds))); return
    print(f"{'':14} {'links':>7} {'ECE':>7} {'right at .9':>12} {'below .9':>9} {'Brier':>8}")
    for name, r in [("all", all_), *kinds.items()]:
        print(f"{name:14} {r['links']:7} {r['ece']:7.4f} {r['right_at_90']:12.4f} {r['below_90']:9} {r['brier']:8.5f}")
    for b in all_["bins"]:
        print(f"  from {b['from']:.1f}: {b['links']:6} links, mean confidence {b['confidence']:.3f}, right {b['right']:.3f}")


if __name__ == "__main__":
    main()
