#!/usr/bin/env python3
"""Three simple ways to correlate the same feeds, to compare with. Standard library only.

  baselines.py --feeds DIR --mode trace|ids|greedy      # placements as lines {line_id, session, turn, call, parent}

trace: lines share a session when they share a trace id. ids: conversation id, trace id and MCP session id join. greedy: ids, and
a line without one takes the nearest earlier line of the layer above with the same tool (or server) and no clock correction.
"""
import argparse, datetime, json, os, re


def when(x):
    return datetime.datetime.fromisoformat(x.replace("Z", "+00:00")).timestamp()


def lines(folder):
    for name in ("host.jsonl", "gateway.jsonl", "server.jsonl", "server.log", "access.log", "dbaudit.jsonl"):
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            continue
        for n, text in enumerate(open(path, encoding="utf-8"), 1):
            x = {"line_id": f"{name}:{n}", "layer": name}
            if name.endswith("jsonl"):
                j = json.loads(text)
                x["t"] = when(j.get("timestamp") or j.get("ts") or j.get("time"))
                x["trace"] = j.get("trace_id"); a = j.get("attributes", {})
                if name == "host.jsonl":
                    x["conv"] = a.get("gen_ai.conversation.id"); call = j["body"].get("message", {}).get("tool_calls")
                    x["tool"] = (call[0]["function"]["name"] if call else a.get("gen_ai.tool.name") or "").split("__")[-1]
                    x["kind"] = j["event_name"]; x["who"] = j["resource"]["service.instance.id"]
                elif name == "gateway.jsonl":
                    x["msid"] = j.get("mcp_session_id"); p = j["frame"].get("params", {}); x["tool"] = p.get("name", ""); x["server"] = j["server"]
                    x["kind"] = j["event"] + ("/open" if j["frame"].get("method") == "initialize" else ""); x["rpc"] = j["frame"]["id"]
                elif name == "server.jsonl":
                    x["tool"], x["server"] = j["tool"], j["server"]
                else:
                    m = re.search(r"traceparent='00-(\w+)-", j["statement"]); x["trace"] = m and m.group(1); x["server"] = j["user"][4:]
            elif name == "server.log":
                kv = dict(re.findall(r"(\w+)=(\S+)", text)); x["t"] = when(kv["ts"]); x["tool"], x["server"], x["trace"] = kv["tool"], kv["server"], kv.get("trace_id")
            else:
                m = re.match(r'(\S+) \S+ - svc-(\S+) \[([^\]]+)\]', text); x["server"] = m.group(2)
                x["t"] = datetime.datetime.strptime(m.group(3), "%d/%b/%Y:%H:%M:%S %z").timestamp(); m = re.search(r'traceparent="00-(\w+)-', text); x["trace"] = m and m.group(1)
            yield x


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--feeds", required=True); ap.add_argument("--mode", choices=["trace", "ids", "greedy"], required=True)
    a = ap.parse_args(); xs = sorted(lines(a.feeds), key=lambda x: x["t"]); up = {}

    def find(k):
        while up.setdefault(k, k) != k:
            k = up[k]
        return k
    for x in xs:
        x["keys"] = [("trace", x["trace"])] if x.get("trace") else []
        if a.mode != "trace":
            x["keys"] += [(k, x[k]) for k in ("conv", "msid") if x.get(k)]
        for k in x["keys"][1:]:
            up[find(x["keys"][0])] = find(k)
    parent, last, open_, turn = {}, {}, {}, {}
    if a.mode == "greedy":
        for x in xs:
            s = find(x["keys"][0]) if x["keys"] else None
            if x["layer"] == "host.jsonl":
                s = s or ("who", x["who"])
                if x["kind"] == "gen_ai.user.message":
                    turn[s] = x["line_id"]
                else:
                    parent[x["line_id"]] = turn.get(s)
                if x["kind"] == "gen_ai.choice":
                    open_["host", x["tool"]] = (x["line_id"], s, turn.get(s))
            else:
                above = {"gateway.jsonl": ("host", x.get("tool")), "server.jsonl": ("gw", x.get("tool")), "server.log": ("gw", x.get("tool")), "access.log": ("srv", x.get("server")), "dbaudit.jsonl": ("srv", x.get("server"))}[x["layer"]]
                p = open_.get(above)
                if p:
                    parent[x["line_id"]] = p[0]; s = p[1]
                layer = {"gateway.jsonl": ("gw", x.get("tool")), "server.jsonl": ("srv", x.get("server")), "server.log": ("srv", x.get("server"))}.get(x["layer"])
                if layer and p:
                    open_[layer] = (x["line_id"], s, p[2]); turn.setdefault(("t", x["line_id"]), p[2])
            last[x["line_id"]] = s
    for x in xs:
        s = last.get(x["line_id"]) or (find(x["keys"][0]) if x["keys"] else None)
        print(json.dumps({"line_id": x["line_id"], "session": str(s) if s else None, "turn": None, "call": None, "parent": parent.get(x["line_id"])}))


if __name__ == "__main__":
    main()
