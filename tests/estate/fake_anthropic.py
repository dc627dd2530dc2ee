# tiny scripted Messages API on loopback; answers with tool_use blocks from a plan file
import sys, json, asyncio, itertools, re, time, os
from aiohttp import web

port, plan, logf = int(sys.argv[1]), json.load(open(sys.argv[2])), sys.argv[3]
log = open(logf, "a", buffering=1)
ctr = itertools.count(1)


# plan: list of {"match": substring of latest user text, "steps":[ {"text":..,"tools":[{"name","input"}]} , ... ]}
def text_of(c):
    if isinstance(c, str):
        return c
    return "\n".join(b.get("text", "") for b in c if b.get("type") == "text")


def choose(body):
    msgs = body["messages"]
    tools = {t["name"] for t in body.get("tools", []) if "name" in t}
    # find last real user prompt
    last = None
    for i, m in enumerate(msgs):
        if m["role"] == "user":
            t = text_of(m["content"])
            for p in plan:
                if p["match"] in t:
                    last = (i, p)
    if not last or not tools:
        return {"text": "Title: recorded session"}, "aux"
    i, p = last
    n = sum(1 for m in msgs[i + 1 :] if m["role"] == "assistant")
    st = p["steps"][min(n, len(p["steps"]) - 1)]
    return st, f"{p['match']}#{n}"


async def messages(req):
    body = await req.json()
    n = next(ctr)
    st, key = choose(body)
    if key.endswith("#0"):
        # Servers connect in the background; a choice made before is answered by the host alone.
        await asyncio.sleep(float(os.environ.get("FIRST_ANSWER_DELAY_S", "6")))
    mid = f"msg_fake{n:06d}"
    blocks = []
    if st.get("text"):
        blocks.append({"type": "text", "text": st["text"]})
    for j, t in enumerate(st.get("tools", [])):
        blocks.append(
            {"type": "tool_use", "id": f"toolu_fake{n:04d}{j:02d}", "name": t["name"], "input": t["input"]}
        )
    stop = "tool_use" if st.get("tools") else "end_turn"
    log.write(
        json.dumps(
            {
                "ts_ns": time.time_ns(),
                "n": n,
                "key": key,
                "model": body.get("model"),
                "stream": body.get("stream"),
                "n_messages": len(body["messages"]),
                "tools": [t.get("name") for t in body.get("tools", [])],
                "metadata": body.get("metadata"),
                "headers": {
                    k.lower(): ("REDACTED" if k.lower() in ("x-api-key", "authorization") else v)
                    for k, v in req.headers.items()
                },
                "answer": blocks,
                "last_message": body["messages"][-1],
            }
        )
        + "\n"
    )
    usage = {
        "input_tokens": 100,
        "output_tokens": 20,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    base = {
        "id": mid,
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    hdr = {"request-id": f"req_fake{n:06d}"}
    if not body.get("stream"):
        return web.json_response({**base, "content": blocks, "stop_reason": stop}, headers=hdr)
    r = web.StreamResponse(headers={"content-type": "text/event-stream", **hdr})
    await r.prepare(req)

    async def ev(t, d):
        await r.write(f"event: {t}\ndata: {json.dumps({'type':t,**d})}\n\n".encode())

    await ev("message_start", {"message": base})
    for i, b in enumerate(blocks):
        if b["type"] == "text":
            await ev("content_block_start", {"index": i, "content_block": {"type": "text", "text": ""}})
            await ev("content_block_delta", {"index": i, "delta": {"type": "text_delta", "text": b["text"]}})
        else:
            await ev("content_block_start", {"index": i, "content_block": {**b, "input": {}}})
            await ev(
                "content_block_delta",
                {"index": i, "delta": {"type": "input_json_delta", "partial_json": json.dumps(b["input"])}},
            )
        await ev("content_block_stop", {"index": i})
    await ev(
        "message_delta",
        {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 20}},
    )
    await ev("message_stop", {})
    await r.write_eof()
    return r


async def other(req):
    log.write(json.dumps({"ts_ns": time.time_ns(), "other": req.method + " " + req.path}) + "\n")
    if req.path.endswith("count_tokens"):
        return web.json_response({"input_tokens": 100})
    return web.json_response(
        {"type": "error", "error": {"type": "not_found_error", "message": "not here"}}, status=404
    )


app = web.Application(client_max_size=64 << 20)
app.router.add_post("/v1/messages", messages)
app.router.add_route("*", "/{p:.*}", other)
web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)
