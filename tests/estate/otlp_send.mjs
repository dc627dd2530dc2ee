// Sends spans and log records with the official OpenTelemetry SDK for JavaScript and says what became of them.
//
// usage: otlp_send.mjs grpc|http|json ENDPOINT NAME COUNT     (ESTATE_OTLP names the folder with node_modules)
//
// The same as otlp_send.py: COUNT spans NAME-span-<n>, as many log records NAME-log-<n>, `exported N` lines, and one
// line of JSON at the end. The gRPC exporter does not try again by itself, so a batch it gives up on is handed to it
// again.
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.ESTATE_OTLP, "npm", "package.json"));
const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");
const { LoggerProvider, BatchLogRecordProcessor } = require("@opentelemetry/sdk-logs");
const { resourceFromAttributes } = require("@opentelemetry/resources");

const [protocol, endpoint, name, text] = process.argv.slice(2);
const count = Number(text);
const options = { compression: "gzip", timeoutMillis: 20000, url: endpoint };
// The package called `http` writes JSON, the one called `proto` protobuf; both go over HTTP.
const form = { grpc: "grpc", http: "proto", json: "http" }[protocol];
const { OTLPTraceExporter } = require(`@opentelemetry/exporter-trace-otlp-${form}`);
const { OTLPLogExporter } = require(`@opentelemetry/exporter-logs-otlp-${form}`);
const url = (signal) => (protocol === "grpc" ? `http://${endpoint}` : `${endpoint}/v1/${signal}`);

const exported = { spans: 0, logs: 0, gave_up: 0 };

/** An exporter that counts what the real one reports. */
class Counting {
  constructor(exporter, kind) {
    this.exporter = exporter;
    this.kind = kind;
  }
  export(batch, done) {
    this.exporter.export(batch, (result) => {
      if (result.code === 0) {
        exported[this.kind] += batch.length;
        console.log("exported", exported.spans + exported.logs);
        return done(result);
      }
      exported.gave_up += 1;
      setTimeout(() => this.export(batch, done), 200);
    });
  }
  forceFlush() {
    return Promise.resolve();
  }
  shutdown() {
    return this.exporter.shutdown();
  }
}

const resource = resourceFromAttributes({ "service.name": name });
const batches = { maxQueueSize: 4 * count, maxExportBatchSize: 64, scheduledDelayMillis: 20, exportTimeoutMillis: 600000 };
const spans = new Counting(new OTLPTraceExporter({ ...options, url: url("traces") }), "spans");
const logs = new Counting(new OTLPLogExporter({ ...options, url: url("logs") }), "logs");
const tracers = new BasicTracerProvider({ resource, spanProcessors: [new BatchSpanProcessor(spans, batches)] });
let processor;
try {
  processor = new BatchLogRecordProcessor({ exporter: logs, ...batches });
} catch {
  processor = new BatchLogRecordProcessor(logs, batches);
}
const loggers = new LoggerProvider({ resource, processors: [processor] });
const tracer = tracers.getTracer("sender");
const logger = loggers.getLogger("sender");
const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
for (let number = 0; number < count; number++) {
  const span = tracer.startSpan(`${name}-span-${number}`, { attributes: { "sender.number": number } });
  logger.emit({ body: `${name}-log-${number}`, timestamp: Date.now() });
  span.end();
  if (number % 50 === 49) await pause(20);
}
while (exported.spans + exported.logs < 2 * count) await pause(20);
console.log(JSON.stringify(exported));
process.exit(0);
