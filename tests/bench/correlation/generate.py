#!/usr/bin/env python3
"""Small audit feeds of a made-up support desk, with the truth about every line.

  generate.py --out DIR [--preset ids|skewed|late|stateless] [--seed N] [--sessions N]

Six feeds as six programs would write them: host.jsonl, gateway.jsonl, server.jsonl, server.log, access.log, dbaudit.jsonl, in
order of arrival, and truth.jsonl with {line_id, session, prompt, call, parent, kind} per line. Standard library only; the
output depends on the arguments alone.

preset      ids: trace ids everywhere, one clock
            skewed: no shared id, constant clocks up to 2 s apart, half of the hosts without conversation id, twin sessions
            late: skewed, and stamps late by a heavy-tailed 5-200 ms, a clock step, retries, polling
            stateless: skewed, without MCP session ids and initialize (MCP 2026-07-28), some calls in two rounds
Attackers: replayed gateway frames from another address, telemetry forged from another workstation (all but `ids`).
"""
import argparse, hashlib, json, os, random
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

BASE = datetime(2026, 5, 4, 9, 0, tzinfo=timezone.utc)
USERS = ["ada", "ben", "cleo", "dev", "eli", "fay", "gus", "hal", "ida", "jon", "kim", "lou"]
CUSTOMERS = [f"C-{n}" for n in range(4100, 4125)]
ORDERS = [f"O-{n}" for n in range(77000, 77040)]
TOPICS = ["refund policy", "delivery to islands", "warranty of pumps", "invoice copy", "change of address", "spare filter"]
# server -> (flavour, tools: name -> (argument pools, method, path, statement))
SERVERS = {
    "crm": ("json", {"get_customer": ({"customer_id": CUSTOMERS}, "GET", "/v2/customer/{customer_id}", None),
                     "find_tickets": ({"customer_id": CUSTOMERS, "state": ["open", "closed"]}, "GET", "/v2/tickets", None)}),
    "orders": ("json", {"get_order": ({"order_id": ORDERS}, "GET", "/v2/order/{order_id}", "SELECT * FROM orders WHERE order_id = '{order_id}'"),
                        "cancel_order": ({"order_id": ORDERS, "reason": ["late", "broken"]}, "POST", "/v2/order/{order_id}/cancel", "UPDATE orders SET reason = '{reason}' WHERE order_id = '{order_id}'")}),
    "billing": ("logfmt", {"get_invoice": ({"order_id": ORDERS}, "GET", "/v2/invoice", "SELECT * FROM invoices WHERE order_id = '{order_id}'"),
                           "issue_refund": ({"order_id": ORDERS, "amount": ["10", "25", "90"]}, "POST", "/v2/refund", None)}),
    "manuals": ("logfmt", {"search_manual": ({"query": TOPICS}, "GET", "/v2/manual/search", None)}),
}
PROMPTS = ["Please look at {customer} and tell me about {order}.", "What about {order}? The customer {customer} is waiting.",
           "Now check the invoice of {order}.", "And what do we say about {topic}?", "Cancel {order} if it is late.", "Summarise it for {customer}."]


class World:
    def __init__(self, a):
        self.r, self.p = random.Random(f"{a.seed}/{a.preset}"), a.preset
        self.lines, self.clocks, self.calls = [], {}, 0
        self.noisy = a.preset == "late"

    def clock(self, name, t):
        """Stamp of an emitter at true time t (seconds)."""
        if self.p == "ids":
            return t
        if name not in self.clocks:
            self.clocks[name] = (self.r.uniform(-2, 2), self.r.uniform(600, 1800), self.r.choice([-1.5, 2.0, 3.0]))
        o, at, step = self.clocks[name]
        if self.noisy:
            o += step if name in ("g:gate-1", "s:crm") and t > at else 0
            t += min(2.0, .01 + .03 * self.r.paretovariate(3) - .03)
        return t + o

    def put(self, t, file, obj, kind, session, prompt, call, parent):
        line = {"t": t, "file": file, "text": obj if isinstance(obj, str) else json.dumps(obj, ensure_ascii=False, separators=(",", ":")),
                "truth": {"kind": kind, "session": session, "prompt": prompt, "call": call}, "parent": parent}
        self.lines.append(line)
        return line


def iso(t, digits=3):
    return (BASE + timedelta(seconds=t)).isoformat(timespec="milliseconds" if digits else "seconds").replace("+00:00", "Z")


def digest(args):
    return hashlib.sha256(json.dumps(args, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def hexes(r, n):
    return "%0*x" % (n, r.getrandbits(4 * n))


def session(w, number, user, start, script=None):
    """One conversation; `script` replays the prompts and arguments of another one (a twin)."""
    r, ids, sid = w.r, w.p == "ids", f"s{number}"
    app = ["desk", "pilot"][USERS.index(user) % 2]
    wks = f"pc-{USERS.index(user):02d}"
    ip = f"10.9.0.{20 + USERS.index(user)}" if USERS.index(user) % 3 else "10.9.255.1"
    conv = hexes(r, 16) if app == "pilot" or ids else None
    sub = f"sub-{hashlib.sha256(user.encode()).hexdigest()[:12]}"
    gw = r.choice(["gate-1", "gate-2"])
    msid, opened, rpc = {}, {}, {}
    script = script or [(r.choice(PROMPTS), {"customer": r.choice(CUSTOMERS), "order": r.choice(ORDERS), "topic": r.choice(TOPICS)},
                         [plan(r) for _ in range(r.randint(1, 3))]) for _ in range(r.randint(1, 4))]
    t = start

    def host(t, event, body, attrs=None, span=None, parent_span=None, trace=None):
        o = {"timestamp": iso(w.clock("h:" + wks, t)), "event_name": event, "resource": {"service.name": app, "service.instance.id": f"{wks}/{app}", "host.name": wks,
             **({"host.ip": [ip]} if ip != "10.9.255.1" else {})}, "attributes": {"enduser.id": user, "gen_ai.request.model": "m-1", **({"gen_ai.conversation.id": conv} if conv else {}), **(attrs or {})}, "body": body}
        if ids and trace:
            o["trace_id"], o["span_id"] = trace, span
            if parent_span:
                o["parent_span_id"] = parent_span
        return o
    call_no = -1
    for turn, (text, words, calls) in enumerate(script):
        trace = hexes(r, 32); root = hexes(r, 16)
        mentioned = text.format(**words)
        prompt = w.put(t, "host.jsonl", host(t, "gen_ai.user.message", {"role": "user", "content": mentioned}, trace=trace, span=root), "prompt", sid, turn, None, None)
        for server, tool, args in calls:
            call_no += 1
            t += r.lognormvariate(.3, .5)
            t = one_call(w, locals_of(w, sid, turn, call_no, app, wks, ip, sub, gw, msid, opened, rpc, trace, root, host, prompt), server, tool, args, t)
        t += r.lognormvariate(.5, .4)
        w.put(t, "host.jsonl", host(t, "gen_ai.assistant.message", {"role": "assistant", "content": f"Done: {mentioned[:40]}" + ("?" if r.random() < .3 else ".")}, trace=trace, span=hexes(r, 16), parent_span=root), "answer", sid, turn, None, prompt)
        t += r.lognormvariate(2.2, .6)
    return script


def locals_of(w, sid, turn, call, app, wks, ip, sub, gw, msid, opened, rpc, trace, root, host, prompt):
    return dict(locals())


def plan(r):
    server = r.choice(list(SERVERS)); tool = r.choice(list(SERVERS[server][1]))
    return server, tool, {k: r.choice(v) for k, v in SERVERS[server][1][tool][0].items()}


def one_call(w, c, server, tool, args, t, tries=0):
    r, ids = w.r, w.p == "ids"
    flavour, tools = SERVERS[server]; _, method, path, statement = tools[tool]
    place = dict(session=c["sid"], prompt=c["turn"], call=c["call"])
    span = {k: hexes(r, 16) for k in ("choice", "gateway", "server")}
    key = hexes(r, 24)
    up = w.put(t, "host.jsonl", c["host"](t, "gen_ai.choice", {"index": 0, "message": {"role": "assistant", "tool_calls": [{"id": key, "type": "function", "function": {"name": f"{server}__{tool}", "arguments": json.dumps(args)}}]}}, trace=c["trace"], span=span["choice"], parent_span=c["root"]), "choice", parent=c["prompt"], **place)
    sel = up
    dur = r.lognormvariate(-2.2, .6)
    failed = r.random() < .05
    text = json.dumps({"tool": tool, "rows": r.randint(0, 9), "note": r.choice(TOPICS), **args}) if not failed else "upstream unavailable"
    gw = r.choice(["gate-1", "gate-2"]) if w.p == "stateless" else c["gw"]
    if w.p != "stateless" and server not in c["opened"]:
        c["opened"][server] = True; c["msid"][server] = hexes(r, 24); c["rpc"][server] = 0
        t += .002
        w.put(t, "gateway.jsonl", frame(w, c, gw, server, t, "mcp.request", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}), "open", c["sid"], None, None, None)
    rounds = 2 if w.p == "stateless" and r.random() < .1 else 1
    last = up
    for n in range(rounds):
        t += r.uniform(.002, .015)
        rid = r.getrandbits(31) if w.p == "stateless" else c["rpc"].__setitem__(server, c["rpc"][server] + 1) or c["rpc"][server]
        state = hexes(r, 20) if rounds == 2 else None
        params = {"name": tool, "arguments": args, **({"requestState": c["state"]} if n else {})}
        req = w.put(t, "gateway.jsonl", {**frame(w, c, gw, server, t, "mcp.request", {"jsonrpc": "2.0", "id": rid, "method": "tools/call", "params": params}), **({"trace_id": c["trace"], "span_id": span["gateway"], "parent_span_id": span["choice"]} if ids else {})}, "request", parent=last, **place)
        begin = t + r.uniform(.001, .004)
        end = begin + dur
        up = req
        o = {"trace_id": c["trace"], "span_id": span["server"], "parent_span_id": span["gateway"]} if ids else {}
        if flavour == "json":
            up = w.put(end, "server.jsonl", {"time": iso(w.clock("s:" + server, end)), "level": "info", "logger": "mcp.server", "server": server, "instance": server + "-1", "msg": "tool call finished", "tool": tool, "params": dict(sorted(args.items())), "duration_ms": round(dur * 1000), "outcome": "error" if failed else "ok", **o}, "server", parent=up, **place)
        else:
            more = f" trace_id={o['trace_id']} span_id={o['span_id']} parent_span_id={o['parent_span_id']}" if ids else ""
            up = w.put(end, "server.log", f"ts={iso(w.clock('s:' + server, end))} level=info server={server} instance={server}-1 event=tool_call tool={tool} params_sha256={digest(args)[:16]} dur={round(dur * 1000)}ms outcome={'error' if failed else 'ok'}{more}", "server", parent=up, **place)
        srv = up
        if n == rounds - 1:
            rt = dur * r.uniform(.2, .8); hb = begin + r.uniform(.05, .95) * (dur - rt); he = hb + rt
            url = path.format(**{k: quote(v) for k, v in args.items()})
            query = "&".join(f"{k}={quote(v)}" for k, v in args.items() if "{" + k + "}" not in path)
            tail = f'traceparent="00-{c["trace"]}-{span["server"]}-01"' if ids else "-"
            stamp = (BASE + timedelta(seconds=w.clock("a:" + server, he))).strftime("%d/%b/%Y:%H:%M:%S +0000")
            http = w.put(he, "access.log", f'{server}-api.desk.example 10.9.7.1 - svc-{server} [{stamp}] "{method} {url}{"?" + query if query else ""} HTTP/1.1" {502 if failed else 200} {len(text) + r.randint(50, 400)} "-" "client/1" rt={rt:.3f} {tail}', "downstream", parent=srv, **place)
            if statement:
                ms = rt * r.uniform(.1, .6); at = hb + r.uniform(0, 1) * (rt - ms)
                st = statement.format(**args) + (f" /* traceparent='00-{c['trace']}-{span['server']}-01' */" if ids else "")
                w.put(at, "dbaudit.jsonl", {"ts": iso(w.clock("d:" + server, at)), "db": server + "_db", "user": "svc_" + server, "app": server, "client": "10.9.7.2", "pid": 1, "op": st.split()[0], "statement": st, "rows": 1, "ms": max(1, round(ms * 1000))}, "downstream", parent=http, **place)
        t = end + r.uniform(.001, .004)
        more = rounds == 2 and n == 0
        result = {"resultType": "input_required", "requestState": state} if more else {"content": [{"type": "text", "text": text}], "isError": failed}
        c["state"] = state
        last = w.put(t, "gateway.jsonl", frame(w, c, gw, server, t, "mcp.response", {"jsonrpc": "2.0", "id": rid, "result": result}, duration_ms=round((t - req["t"]) * 1000)), "response", parent=up, **place)
    t += r.uniform(.002, .015)
    w.put(t, "host.jsonl", c["host"](t, "gen_ai.tool.message", {"role": "tool", "id": key, "content": text}, {"gen_ai.tool.name": f"{server}__{tool}"}, trace=c["trace"], span=hexes(r, 16), parent_span=span["choice"]), "result", parent=last, **place)
    return t


def frame(w, c, gw, server, t, event, message, duration_ms=None):
    o = {"ts": iso(w.clock("g:" + gw, t)), "gateway": gw, "event": event, "client": {"name": c["app"], "version": "1", "ip": c["ip"]}, "server": server}
    if server in c["msid"]:
        o["mcp_session_id"] = c["msid"][server]
    if event == "mcp.request":
        o["principal"] = {"sub": c["sub"]}; o["policy"] = {"decision": "allow", "rule": "default"}
    if duration_ms is not None:
        o["duration_ms"] = duration_ms
    return {**o, "frame": message}


def attacks(w):
    """Replayed gateway frames from another address and subject; host telemetry forged from another workstation."""
    r = w.r
    for line in r.sample([x for x in w.lines if x["truth"]["kind"] in ("request", "choice")], 12):
        o, t = json.loads(line["text"]), line["t"] + r.uniform(.5, 20)
        if line["file"] == "gateway.jsonl":
            o["client"]["ip"], o["principal"]["sub"], o["ts"] = "10.66.6.6", "sub-mallory", iso(w.clock("g:" + o["gateway"], t))
        else:
            o["resource"]["host.name"], o["resource"]["service.instance.id"] = "pc-66", "pc-66/" + o["resource"]["service.name"]
            o["resource"].pop("host.ip", None); o["timestamp"] = iso(w.clock("h:pc-66", t))
        w.put(t, line["file"], o, "forged", f"x{line['truth']['session']}", None, None, None)


def polling(w, until):
    for n in range(30):
        t = w.r.uniform(0, until)
        stamp = (BASE + timedelta(seconds=w.clock("a:orders", t))).strftime("%d/%b/%Y:%H:%M:%S +0000")
        w.put(t, "access.log", f'orders-api.desk.example 10.9.7.1 - svc-orders [{stamp}] "GET /v2/changes?since={n} HTTP/1.1" 200 90 "-" "poller/1" rt=0.004 -', "poll", None, None, None, None)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True); ap.add_argument("--preset", default="skewed", choices=["ids", "skewed", "late", "stateless"])
    ap.add_argument("--seed", type=int, default=1); ap.add_argument("--sessions", type=int, default=60)
    a = ap.parse_args(); w = World(a)
    t, before = 5.0, None
    for n in range(a.sessions):
        user = w.r.choice(USERS)
        twin = before is not None and a.preset != "ids" and w.r.random() < .25
        before = session(w, n, user, t, before if twin else None)
        t += w.r.expovariate(1 / 12) if not twin else .2
    if a.preset != "ids":
        attacks(w)
    if w.noisy:
        polling(w, t)
    os.makedirs(a.out, exist_ok=True)
    late = {"ids": .05, "skewed": 20, "late": 20, "stateless": 2}[a.preset]
    arrival = sorted(w.lines, key=lambda x: x["t"] + w.r.uniform(0, late))
    files, number = {}, {}
    for line in arrival:
        out = files.setdefault(line["file"], []); out.append(line["text"]); number[id(line)] = f"{line['file']}:{len(out)}"
    for name, out in files.items():
        with open(os.path.join(a.out, name), "w", encoding="utf-8", newline="\n") as f:
            f.write("".join(x + "\n" for x in out))
    with open(os.path.join(a.out, "truth.jsonl"), "w", encoding="utf-8", newline="\n") as f:
        for line in arrival:
            parent = number[id(line["parent"])] if line["parent"] else None
            f.write(json.dumps({"line_id": number[id(line)], **line["truth"], "parent": parent}) + "\n")


if __name__ == "__main__":
    main()
