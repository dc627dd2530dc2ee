import sys, os, logging, asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

if os.environ.get("OTLP"):
    p = TracerProvider(
        resource=Resource.create(
            {"service.name": os.environ.get("SRVSVC", "orders-fastmcp"), "service.version": "2.0.0"}
        )
    )
    p.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(endpoint=os.environ["OTLP"] + "/v1/traces"), schedule_delay_millis=500
        )
    )
    trace.set_tracer_provider(p)
tr = trace.get_tracer("orders-backend")
from fastmcp import FastMCP, Context
from fastmcp.exceptions import ToolError

DB = {
    "1001": {"customer": "Ada Example", "total": 55.0, "state": "shipped"},
    "1002": {"customer": "Bob Example", "total": 42.0, "state": "paid"},
}
mcp = FastMCP("orders-fastmcp")


@mcp.tool(annotations={"readOnlyHint": True})
async def lookup_order(order_id: str) -> dict:
    """Look up an order."""
    with tr.start_as_current_span(
        "GET /orders/{id}",
        kind=trace.SpanKind.CLIENT,
        attributes={
            "http.request.method": "GET",
            "url.full": f"http://orders.internal/orders/{order_id}",
            "http.response.status_code": 200,
        },
    ):
        await asyncio.sleep(0.03)
        return DB[order_id]


@mcp.tool(annotations={"destructiveHint": True})
async def refund(order_id: str, amount: float) -> str:
    """Refund an order."""
    if order_id not in DB:
        raise ToolError(f"order {order_id} not found")
    with tr.start_as_current_span(
        "INSERT refunds",
        kind=trace.SpanKind.CLIENT,
        attributes={
            "db.system.name": "postgresql",
            "db.operation.name": "INSERT",
            "db.collection.name": "refunds",
        },
    ):
        await asyncio.sleep(0.02)
        return f"refunded {amount} on {order_id}"


@mcp.tool
async def boom() -> str:
    raise RuntimeError("backend unavailable")


@mcp.tool(annotations={"destructiveHint": True})
async def delete_customer(customer_id: str, ctx: Context) -> str:
    """Delete a customer after confirmation."""
    r = await ctx.elicit(f"Really delete customer {customer_id}?", response_type=bool)
    return f"deleted {customer_id}" if r.action == "accept" else "not deleted"


@mcp.tool
async def summarise(order_id: str, ctx: Context) -> str:
    r = await ctx.sample(f"Summarise order {order_id}: {DB[order_id]}", max_tokens=60)
    return r.text or ""


@mcp.tool
async def slow_export(rows: int, ctx: Context) -> str:
    for i in range(rows):
        await asyncio.sleep(0.2)
        await ctx.report_progress(i + 1, rows)
    return f"exported {rows}"


@mcp.resource("policy://refunds")
def pol() -> str:
    return "Refunds above 100 euros need approval."


@mcp.prompt
def refund_letter(name: str) -> str:
    return f"Write a refund letter to {name}."


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        mcp.run(show_banner=False)
    else:
        mcp.run(transport="http", host="127.0.0.1", port=int(sys.argv[2]), show_banner=False)
