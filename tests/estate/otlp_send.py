"""Sends spans and log records with the official OpenTelemetry SDK for Python and says what became of them.

usage: otlp_send.py grpc|http ENDPOINT NAME COUNT

Makes COUNT spans NAME-span-<n> and as many log records NAME-log-<n>, a batch about every 20 ms. Prints `exported N`
as exporters report batches as exported, and at the end one line of JSON: what was reported exported, and how many
batches an exporter gave up on (those are handed to it again, as a careful application would).
"""
import json
import sys
import threading
import time

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

protocol, endpoint, name, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
if protocol == "grpc":
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    options = {"endpoint": endpoint, "insecure": True, "compression": Compression.Gzip, "timeout": 60}
    spans_to, logs_to = OTLPSpanExporter(**options), OTLPLogExporter(**options)
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    options = {"compression": Compression.Gzip, "timeout": 60}
    spans_to = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", **options)
    logs_to = OTLPLogExporter(endpoint=f"{endpoint}/v1/logs", **options)

lock = threading.Lock()
exported = {"spans": 0, "logs": 0, "gave_up": 0}


class Counting:
    """An exporter that counts what the real one reports."""

    def __init__(self, exporter, kind, success):
        self.exporter, self.kind, self.success = exporter, kind, success

    def export(self, batch):
        while True:
            result = self.exporter.export(batch)
            with lock:
                if result == self.success:
                    exported[self.kind] += len(batch)
                    print("exported", exported["spans"] + exported["logs"], flush=True)
                    return result
                exported["gave_up"] += 1
            time.sleep(0.2)

    def shutdown(self):
        self.exporter.shutdown()

    def force_flush(self, timeout_millis=30000):
        return True


resource = Resource.create({"service.name": name})
batches = {"max_queue_size": 4 * count, "max_export_batch_size": 64, "schedule_delay_millis": 20}
tracers = TracerProvider(resource=resource)
tracers.add_span_processor(BatchSpanProcessor(Counting(spans_to, "spans", SpanExportResult.SUCCESS), **batches))
loggers = LoggerProvider(resource=resource)
loggers.add_log_record_processor(
    BatchLogRecordProcessor(Counting(logs_to, "logs", LogRecordExportResult.SUCCESS), **batches)
)
tracer, logger = tracers.get_tracer("sender"), loggers.get_logger("sender")
for number in range(count):
    with tracer.start_as_current_span(f"{name}-span-{number}", attributes={"sender.number": number}):
        logger.emit(body=f"{name}-log-{number}", timestamp=time.time_ns())
    if number % 50 == 49:
        time.sleep(0.02)
while exported["spans"] + exported["logs"] < 2 * count:
    time.sleep(0.02)
print(json.dumps(exported), flush=True)
# Nothing is queued any more; leaving at once spares the exporters' threads a graceful end.
import os

os._exit(0)
