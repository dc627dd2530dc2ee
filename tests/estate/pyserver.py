import sys, os, logging
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

res = Resource.create(
    {"service.name": os.environ.get("SRVSVC", "orders-mcp-server"), "service.version": "1.4.0"}
)
if os.environ.get("OTLP"):
    p = TracerProvider(resource=res)
    p.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(endpoint=os.environ["OTLP"] + "/v1/traces"), schedule_delay_millis=500
        )
    )
    trace.set_tracer_provider(p)
    lp = LoggerProvider(resource=res)
    lp.add_log_record_processor(
        BatchLogRecordProcessor(
            OTLPLogExporter(endpoint=os.environ["OTLP"] + "/v1/logs"), schedule_delay_millis=500
        )
    )
    lg = logging.getLogger("orders")
    lg.setLevel(logging.INFO)
    lg.addHandler(LoggingHandler(logger_provider=lp))
tr = trace.get_tracer("orders-backend")
lg = logging.getLogger("orders")
from typing import Annotated
from pydantic import BaseModel
import asyncio, anyio
from mcp.server.mcpserver import MCPServer, Context
from mcp.server.mcpserver.resolve import Resolve, Elicit, Sample
import mcp_types as T

DB = {
    "1001": {"customer": "Ada Example", "total": 55.0, "state": "shipped"},
    "1002": {"customer": "Bob Example", "total": 42.0, "state": "paid"},
}
mcp = MCPServer("orders", version="1.4.0") if True else None


@mcp.tool(annotations=T.ToolAnnotations(read_only_hint=True, open_world_hint=False))
async def lookup_order(order_id: str) -> dict:
    """Look up an order."""
    with tr.start_as_current_span(
        "GET /orders/{id}",
        kind=trace.SpanKind.CLIENT,
        attributes={
            "http.request.method": "GET",
            "url.full": f"http://orders.internal/orders/{order_id}",
            "server.address": "orders.internal",
            "http.response.status_code": 200,
        },
    ):
        lg.info("order lookup %s", order_id)
        await asyncio.sleep(0.03)
        return DB[order_id]


@mcp.tool(annotations=T.ToolAnnotations(destructive_hint=True, idempotent_hint=False))
async def refund(order_id: str, amount: float) -> str:
    """Refund an order."""
    if order_id not in DB:
        raise ValueError(f"order {order_id} not found")
    with tr.start_as_current_span(
        "INSERT refunds",
        kind=trace.SpanKind.CLIENT,
        attributes={
            "db.system.name": "postgresql",
            "db.operation.name": "INSERT",
            "db.collection.name": "refunds",
            "server.address": "db.internal",
        },
    ):
        lg.warning("refund booked order=%s amount=%s", order_id, amount)
        await asyncio.sleep(0.02)
        return f"refunded {amount} on {order_id}"


@mcp.tool()
async def boom() -> str:
    """Always fails."""
    raise RuntimeError("backend unavailable")


class Confirm(BaseModel):
    check: bool


def ask(customer_id: str) -> Elicit[Confirm]:
    return Elicit(f"Really delete customer {customer_id}?", Confirm)


@mcp.tool(annotations=T.ToolAnnotations(destructive_hint=True))
async def delete_customer(customer_id: str, ok: Annotated[Confirm, Resolve(ask)]) -> str:
    """Delete a customer after confirmation."""
    return f"deleted {customer_id}" if ok.check else "not deleted"


def samp(order_id: str) -> Sample:
    return Sample(
        [
            T.SamplingMessage(
                role="user",
                content=T.TextContent(type="text", text=f"Summarise order {order_id}: {DB[order_id]}"),
            )
        ],
        max_tokens=60,
    )


@mcp.tool()
async def summarise(order_id: str, s: Annotated[T.CreateMessageResult, Resolve(samp)]) -> str:
    """Summarise an order with the client's model."""
    return s.content.text if hasattr(s.content, "text") else str(s.content)


@mcp.tool()
async def slow_export(rows: int, ctx: Context) -> str:
    """Export rows slowly."""
    for i in range(rows):
        await asyncio.sleep(0.2)
        await ctx.report_progress(i + 1, rows)
    return f"exported {rows}"


@mcp.resource("policy://refunds")
def pol() -> str:
    return "Refunds above 100 euros need approval."


@mcp.prompt()
def refund_letter(name: str) -> str:
    return f"Write a refund letter to {name}."


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        mcp.run("stdio")
    else:
        mcp.run(
            "streamable-http",
            host="127.0.0.1",
            port=int(sys.argv[2]),
            **({"json_response": True} if "json" in sys.argv else {}),
        )
