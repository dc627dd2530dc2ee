#!/usr/bin/env python3
"""What is lost where: placements with the truth given for some kinds of line. Standard library only.

  given.py --truth truth.jsonl[.gz] --links links.ndjson --give downstream[,prompt,answer,...] > given.jsonl

`links.ndjson` is what `threadline links --format ndjson` prints, or lines {line_id, session, prompt or turn, call, parent}. A line of a given
kind is put where most of the other lines of its true session, prompt and call are believed to be, below its true parent. What a score
still lacks with a kind given is not that kind's; `score.py --links given.jsonl` scores the result.
"""
import argparse, collections, gzip, json


def read(path):
    with (gzip.open(path, "rt", encoding="utf-8", newline="\n") if path.endswith(".gz") else open(path, encoding="utf-8", newline="\n")) as lines:
        return [json.loads(x) for x in lines if x.strip()]


def given(truth, links, kinds):
    said = {}
    for x in links:
        key = x.get("line_id") or f"{(x['file'] or '').rsplit('/', 1)[-1]}:{x['line']}"
        parent = x["parent"].rsplit("/", 1)[-1] if x.get("parent") else None
        said[key] = {"session": x.get("session"), "turn": x.get("turn", x.get("prompt")), "call": x.get("call"), "parent": parent}
    votes = collections.defaultdict(collections.Counter)
    keys = lambda t: (("session", t["session"], None, None), ("turn", t["session"], t["prompt"], None), ("call", t["session"], t["prompt"], t["call"]))
    for t in truth:
        own = said.get(t["line_id"])
        if t["session"] and own and own["session"] is not None and t["kind"] not in kinds:
            for key in keys(t):
                votes[key][(own["session"], own[key[0]])] += own[key[0]] is not None
    for t in truth:
        own = said.get(t["line_id"], dict.fromkeys(("session", "turn", "call", "parent")))
        if t["kind"] in kinds:
            own = dict.fromkeys(own)
            if t["session"]:
                home = votes[keys(t)[0]].most_common(1)
                own["session"] = home[0][0][0] if home else "given " + t["session"]
                for key in keys(t)[1:]:
                    level = "prompt" if key[0] == "turn" else "call"
                    best = [x for (session, x), n in votes[key].most_common() if session == own["session"] and n]
                    own[key[0]] = None if t[level] is None else best[0] if best else f"given {key}"
                own["parent"] = t.get("parent")
        yield dict(own, line_id=t["line_id"], prompt=own["turn"])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--truth", required=True); ap.add_argument("--links", required=True); ap.add_argument("--give", required=True)
    a = ap.parse_args()
    for x in given(read(a.truth), read(a.links), set(a.give.split(","))):
        print(json.dumps(x))


if __name__ == "__main__":
    main()
