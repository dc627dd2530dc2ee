import sys, json, asyncio, itertools, time
from aiohttp import web

port, plan, logf = int(sys.argv[1]), json.load(open(sys.argv[2])), sys.argv[3]
log = open(logf, "a", buffering=1)
ctr = itertools.count(1)


def txt(it):
    return "\n".join(c.get("text", "") for c in it.get("content", []) if isinstance(c, dict))


async def responses(req):
    body = await req.json()
    n = next(ctr)
    items = body["input"]
    last = None
    for i, it in enumerate(items):
        if it.get("type") == "message" and it.get("role") == "user":
            for p in plan:
                if p["match"] in txt(it):
                    last = (i, p)
    st = {"text": "ok"}
    if last:
        i, p = last
        k = 0
        prev = None
        for it in items[i + 1 :]:
            # count model turns: groups of assistant messages / function_calls separated by outputs
            isout = it.get("type") in (
                "function_call_output",
                "custom_tool_call_output",
                "mcp_tool_call_output",
            )
            if isout and prev is not True:
                k += 1
            prev = isout
        st = p["steps"][min(k, len(p["steps"]) - 1)]
    if n == 1:
        open(logf + ".first_request.json", "w").write(json.dumps(body, indent=1))
    out = []
    if st.get("text"):
        out.append(
            {
                "type": "message",
                "role": "assistant",
                "id": f"msg_fake{n}",
                "status": "completed",
                "content": [{"type": "output_text", "text": st["text"], "annotations": []}],
            }
        )
    for j, t in enumerate(st.get("tools", [])):
        fc = {
            "type": "function_call",
            "id": f"fc_fake{n}{j}",
            "call_id": f"call_fake{n:04d}{j:02d}",
            "name": t["name"],
            "arguments": json.dumps(t["input"]),
            "status": "completed",
        }
        if t.get("namespace"):
            fc["namespace"] = t["namespace"]
        out.append(fc)
    log.write(
        json.dumps(
            {
                "ts_ns": time.time_ns(),
                "n": n,
                "model": body.get("model"),
                "n_items": len(items),
                "client_metadata": body.get("client_metadata"),
                "prompt_cache_key": body.get("prompt_cache_key"),
                "headers": {
                    k.lower(): ("REDACTED" if k.lower() == "authorization" else v)
                    for k, v in req.headers.items()
                },
                "answer": out,
                "last_items": items[-2:],
            }
        )
        + "\n"
    )
    r = web.StreamResponse(headers={"content-type": "text/event-stream", "x-request-id": f"req_fake{n}"})
    await r.prepare(req)

    async def ev(t, d):
        await r.write(f"event: {t}\ndata: {json.dumps({'type':t,**d})}\n\n".encode())

    base = {
        "id": f"resp_fake{n:04d}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": body.get("model"),
        "output": [],
    }
    await ev("response.created", {"response": base})
    for i, o in enumerate(out):
        await ev("response.output_item.added", {"output_index": i, "item": o})
        await ev("response.output_item.done", {"output_index": i, "item": o})
    await ev(
        "response.completed",
        {
            "response": {
                **base,
                "status": "completed",
                "output": out,
                "usage": {
                    "input_tokens": 100,
                    "input_tokens_details": {"cached_tokens": 0},
                    "output_tokens": 20,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": 120,
                },
            }
        },
    )
    await r.write_eof()
    return r


async def other(req):
    log.write(json.dumps({"ts_ns": time.time_ns(), "other": req.method + " " + req.path}) + "\n")
    return web.json_response({"error": {"message": "not here"}}, status=404)


app = web.Application(client_max_size=64 << 20)
app.router.add_post("/v1/responses", responses)
app.router.add_route("*", "/{p:.*}", other)
web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)
