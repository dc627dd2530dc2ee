# drive.py CLIENT TRANSPORT SESSION OUTDIR [opts]   CLIENT: mcp|fastmcp
import sys, asyncio, json, os, time, anyio

client, transport, sess, outd = sys.argv[1:5]
os.makedirs(outd, exist_ok=True)
from opentelemetry import trace, baggage, context as octx
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

prov = TracerProvider(
    resource=Resource.create(
        {"service.name": os.environ.get("SVC", "demo-agent-host"), "service.version": "0.1.0"}
    )
)
if os.environ.get("OTLP"):
    prov.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=os.environ["OTLP"] + "/v1/traces")))
trace.set_tracer_provider(prov)
tr = trace.get_tracer("demo-agent-host")
if os.environ.get("INSTR") == "traceloop":
    from opentelemetry.instrumentation.mcp import McpInstrumentor

    McpInstrumentor().instrument()
GT = []
cur = None
TRACEON = os.environ.get("NOTRACE") != "1"


class turn:
    def __init__(s, prompt):
        s.p = prompt

    async def __aenter__(s):
        global cur
        s.cm = (
            tr.start_as_current_span(
                "invoke_agent demo-agent",
                attributes={
                    "gen_ai.operation.name": "invoke_agent",
                    "gen_ai.agent.name": "demo-agent",
                    "gen_ai.conversation.id": sess,
                },
            )
            if TRACEON
            else None
        )
        tid = None
        if s.cm:
            sp = s.cm.__enter__()
            tid = format(sp.get_span_context().trace_id, "032x")
        cur = {"turn": len(GT) + 1, "prompt": s.p, "trace_id": tid, "start_ns": time.time_ns(), "calls": []}
        GT.append(cur)

    async def __aexit__(s, *a):
        cur["end_ns"] = time.time_ns()
        if s.cm:
            s.cm.__exit__(*a)


async def do(method, fn, **info):
    c = {"method": method, **info, "start_ns": time.time_ns()}
    cur["calls"].append(c)
    try:
        r = await fn()
        err = getattr(r, "is_error", None) if not isinstance(r, list) else None
        c["outcome"] = "isError" if err else "ok"
        return r
    except asyncio.CancelledError:
        c["outcome"] = "cancelled"
        raise
    except BaseException as e:
        c["outcome"] = "error:" + type(e).__name__
        c["error"] = str(e)[:300]
    finally:
        c["end_ns"] = time.time_ns()


import mcp_types as T


async def sampling(ctx, params):
    return T.CreateMessageResult(
        role="assistant",
        content=T.TextContent(type="text", text="Sampled answer: water boils at 100 C at sea level."),
        model="demo-model-1",
        stop_reason="endTurn",
    )


async def elicit(ctx, params, *a):
    return T.ElicitResult(
        action=os.environ.get("ELICIT", "accept"),
        content=(
            {"name": "Ada Example", "check": True, "email": "ada@example.com"}
            if os.environ.get("ELICIT", "accept") == "accept"
            else None
        ),
    )


async def logcb(params):
    pass


async def roots(ctx):
    return T.ListRootsResult(roots=[T.Root(uri="file:///home/user/project", name="project")])


async def prog(p, t=None, m=None):
    pass


HERE = os.path.dirname(os.path.abspath(__file__))
NODE_MODULES = os.path.join(os.environ["ESTATE"], "npm/node_modules/@modelcontextprotocol")
# Commands that stand between client and server (recorders, the tap), as a JSON list.
BETWEEN = json.loads(os.environ.get("BETWEEN", "[]"))


def srv(kind):
    bare = ["env", "-i", "HOME=/nonexistent", "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]
    return {
        "everything": bare
        + [
            "DEMO_API_TOKEN=dummy-not-a-secret-0123456789",
            "node",
            f"{NODE_MODULES}/server-everything/dist/index.js",
            "stdio",
        ],
        "filesystem": bare
        + ["node", f"{NODE_MODULES}/server-filesystem/dist/index.js", os.environ["FSROOT"]],
        "memory": bare
        + [f"MEMORY_FILE_PATH={outd}/memory.jsonl", "node", f"{NODE_MODULES}/server-memory/dist/index.js"],
        "pyserver": [sys.executable, f"{HERE}/pyserver.py", "stdio"],
        "fastsrv": [sys.executable, f"{HERE}/fastsrv.py", "stdio"],
    }[kind]


def target(kind):
    if transport == "stdio":
        cmd = BETWEEN + srv(kind)
        penv = {
            k: v
            for k, v in os.environ.items()
            if k.startswith(("OTEL", "THREADLINE")) or k in ("OTLP", "PATH", "SRVSVC", "HOME")
        }
        if client == "fastmcp":
            from fastmcp.client.transports import StdioTransport

            return StdioTransport(command=cmd[0], args=cmd[1:], env=penv)
        from mcp.client.stdio import StdioServerParameters

        return StdioServerParameters(command=cmd[0], args=cmd[1:], env=penv)
    if os.environ.get("TOKFILE"):
        tk = open(os.environ["TOKFILE"]).read().strip()
        if client == "fastmcp":
            from fastmcp.client.transports import StreamableHttpTransport

            return StreamableHttpTransport(os.environ["URL"], headers={"Authorization": "Bearer " + tk})
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        return streamable_http_client(
            os.environ["URL"],
            http_client=httpx2.AsyncClient(headers={"Authorization": "Bearer " + tk}, timeout=60),
        )
    return os.environ["URL"]


def mk(kind):
    t = target(kind)
    if client == "fastmcp":
        from fastmcp import Client

        async def fs(messages, params, ctx):
            return "Sampled answer: 42."

        async def fe(message, response_type, params, ctx):
            from fastmcp.client.elicitation import ElicitResult

            return ElicitResult(
                action="accept", content={"name": "Ada Example", "check": True, "email": "ada@example.com"}
            )

        return (
            Client(t, sampling_handler=fs, elicitation_handler=fe, name="fastmcp-demo-host")
            if False
            else Client(t, sampling_handler=fs, elicitation_handler=fe)
        )
    from mcp.client.client import Client

    return Client(
        t,
        sampling_callback=sampling,
        elicitation_callback=elicit,
        list_roots_callback=roots,
        logging_callback=logcb,
        log_level="debug",
        client_info=T.Implementation(name="demo-agent-host", version="0.1.0"),
        mode=os.environ.get("MODE", "auto"),
    )


async def tool(c, name, args=None, **k):
    if client == "fastmcp":
        return await do(
            "tools/call",
            lambda: c.call_tool(name, args or {}, raise_on_error=False, **k),
            tool=name,
            arguments=args or {},
        )
    return await do("tools/call", lambda: c.call_tool(name, args or {}, **k), tool=name, arguments=args or {})


async def prompt(c, n, a=None):
    return await do("prompts/get", lambda: c.get_prompt(n, a), prompt_name=n, arguments=a)


async def read(c, u):
    return await do("resources/read", lambda: c.read_resource(u), uri=u)


async def cancelled(c, name, args, after):
    async def run():
        await tool(c, name, args)

    t = asyncio.create_task(run())
    await asyncio.sleep(after)
    t.cancel()
    try:
        await t
    except asyncio.CancelledError:
        pass


exec(open(f"{HERE}/sessions.py").read())


async def main():
    t0 = time.time_ns()
    kind, fn = SESSIONS[sess]
    pv = None
    async with mk(kind) as c:
        pv = getattr(c, "protocol_version", None)
        await fn(c)
    prov.force_flush()
    prov.shutdown()
    json.dump(
        {
            "session": sess,
            "client": client,
            "transport": transport,
            "server": kind,
            "protocol_version": str(pv) if pv else None,
            "conversation_id": sess if TRACEON else None,
            "start_ns": t0,
            "end_ns": time.time_ns(),
            "turns": GT,
        },
        open(outd + "/ground_truth.json", "w"),
        indent=1,
        default=str,
    )
    print(
        sess,
        "ok",
        pv,
        [
            (k.get("tool") or k.get("uri") or k.get("prompt_name") or k["method"], k.get("outcome"))
            for t in GT
            for k in t["calls"]
        ],
    )


asyncio.run(main())
