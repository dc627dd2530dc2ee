"""Receivers of forwarded events, as faithful to their protocols as delivery needs; a stand-in where no real one is at hand.

    receiver.py KIND PORT OUT       KIND: hec | elastic | webhook | otlp

Each accepted event is a line of OUT, synced before the receiver acknowledges, so that whoever kills it loses what it has not
acknowledged and nothing else. Limits and habits of the real ones are kept:

- hec: token and channel are checked; an event is taken first (200, ackId) and indexed some time later, and what was taken and
  not indexed is lost with the process; acknowledgements are given once and known to this process alone
- elastic: `create` answers 409 for an id that is there; a field that is an object in one document and a scalar in another is
  refused (mapper_parsing_exception); an item is refused with 429 now and then; a body over 10 MiB is refused with 413
- webhook: the signature of Standard Webhooks is checked, and the age of the timestamp; 503 with Retry-After now and then
- otlp: protobuf; answers partial_success when a record has no body
"""
import base64, hashlib, hmac, json, os, random, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KIND, PORT, OUT = sys.argv[1], int(sys.argv[2]), sys.argv[3]
TOKEN, SECRET = "hec-token-of-the-test", b"a secret of at least 24 bytes"
lock, chance = threading.Lock(), random.Random(7)
if os.path.exists(OUT):
    # What a kill tore was not acknowledged.
    os.truncate(OUT, open(OUT, "rb").read().rfind(b"\n") + 1)
out = open(OUT, "ab")


def keep(lines):
    with lock:
        out.write(b"".join(line + b"\n" for line in lines))
        out.flush()
        os.fsync(out.fileno())


known, shapes = set(), {}
if KIND == "elastic" and os.path.exists(OUT):
    for line in open(OUT, "rb"):
        if line.endswith(b"\n"):
            known.add(json.loads(line)["metadata"]["uid"])
# Taken and not indexed yet: lost when this process dies, as in a real one.
taken, indexed, next_ack = [], set(), [0]


def index():
    while True:
        time.sleep(0.15)
        with lock:
            batches, taken[:] = list(taken), []
        for ack, lines in batches:
            keep(lines)
            indexed.add(ack)


def shape(document, path=""):
    for name, value in document.items():
        at = path + "." + name
        kind = "object" if isinstance(value, dict) else "scalar"
        if shapes.setdefault(at, kind) != kind:
            return False
        if kind == "object" and not shape(value, at):
            return False
    return True


def fields(data):
    """The length-delimited fields of a protobuf message: (number, bytes)."""
    at = 0

    def varint():
        nonlocal at
        value = bits = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << bits
            bits += 7
            if byte < 128:
                return value
    while at < len(data):
        key = varint()
        if key & 7 == 2:
            size = varint()
            yield key >> 3, data[at:at + size]
            at += size
        elif key & 7 == 0:
            varint()
        else:
            at += 8 if key & 7 == 1 else 4


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=(), kind="application/json"):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        getattr(self, KIND)(body)

    def hec(self, body):
        if self.headers["authorization"] != "Splunk " + TOKEN:
            return self.answer(403, b'{"text":"Invalid token","code":4}')
        channel = self.headers["x-splunk-request-channel"]
        if not channel:
            return self.answer(400, b'{"text":"Data channel is missing","code":10}')
        if self.path.startswith("/services/collector/ack"):
            acks = {str(ack): (channel, ack) in indexed for ack in json.loads(body)["acks"]}
            for ack in acks:
                indexed.discard((channel, int(ack)))
            return self.answer(200, json.dumps({"acks": acks}).encode())
        decoder, at, lines, text = json.JSONDecoder(), 0, [], body.decode()
        while at < len(text):
            envelope, at = decoder.raw_decode(text, at)
            at += len(text[at:]) - len(text[at:].lstrip())
            assert isinstance(envelope["time"], float) and envelope["sourcetype"], envelope.keys()
            assert abs(envelope["time"] * 1000 - envelope["event"]["time"]) < 1
            lines.append(json.dumps(envelope["event"]).encode())
        with lock:
            ack = next_ack[0]
            next_ack[0] += 1
            taken.append(((channel, ack), lines))
        self.answer(200, json.dumps({"text": "Success", "code": 0, "ackId": ack}).encode())

    def elastic(self, body):
        if len(body) > 10 << 20:
            return self.answer(413)
        lines, items, new = body.split(b"\n"), [], []
        assert lines[-1] == b"", "a bulk body ends with a line feed"
        for action, source in zip(lines[0:-1:2], lines[1:-1:2]):
            uid, document = json.loads(action)["create"]["_id"], json.loads(source)
            assert uid == document["metadata"]["uid"] and len(uid) <= 512
            if chance.random() < 0.01:
                item = {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "busy"}}
            elif uid in known:
                item = {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": uid}}
            elif not shape(document):
                item = {"status": 400, "error": {"type": "mapper_parsing_exception", "reason": "object and scalar"}}
            else:
                item = {"status": 201}
                known.add(uid)
                new.append(source)
            items.append({"create": item})
        keep(new)
        self.answer(200, json.dumps({"took": 1, "errors": False, "items": items}).encode())

    def webhook(self, body):
        if chance.random() < 0.05:
            return self.answer(503, headers=[("retry-after", "1")])
        uid, sent = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        mac = hmac.new(SECRET, f"{uid}.{sent}.".encode() + body, hashlib.sha256).digest()
        good = "v1," + base64.b64encode(mac).decode()
        if not hmac.compare_digest(good, self.headers["webhook-signature"]) or abs(time.time() - int(sent)) > 300:
            return self.answer(401)
        keep([json.dumps(event).encode() for event in json.loads(body)])
        self.answer(204)

    def otlp(self, body):
        lines, rejected = [], 0
        for _, resource in fields(body):
            for number, scope in fields(resource):
                for part, record in fields(scope) if number == 2 else ():
                    bodies = [value for field, value in fields(record) if field == 5] if part == 2 else []
                    texts = [text for value in bodies for field, text in fields(value) if field == 1]
                    lines += texts
                    rejected += part == 2 and not texts
        keep(lines)
        partial = b"\x0a\x02\x08" + bytes([rejected]) if rejected else b""
        self.answer(200, partial, kind="application/x-protobuf")


if KIND == "hec":
    threading.Thread(target=index, daemon=True).start()
ThreadingHTTPServer.allow_reuse_address = True
server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
print("ready", flush=True)
server.serve_forever()
