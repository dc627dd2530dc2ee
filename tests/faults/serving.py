"""Runs `threadline serve` on a folder, and knows what the events of the load look like."""

import ctypes
import hashlib
import http.client
import json
import os
import signal
import subprocess
import threading
import urllib.parse
import uuid

# So often that crashes hit the sealing too, and not the log alone.
SEAL_AGE_MS = "150"


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def environment():
    """The caller's, without settings that would change what is tested; the control of a crash test stays."""
    kept = {k: v for k, v in os.environ.items() if k == "THREADLINE_DURABILITY_CONTROL" or not k.startswith("THREADLINE_")}
    return {**kept, "THREADLINE_SEAL_AGE_MS": SEAL_AGE_MS}


def serve(program, folder):
    """Starts the server; returns the process and its host:port. It says why when it does not start."""
    process = subprocess.Popen(
        [program, "serve", "--data", folder, "--listen", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0",
         "--otlp-grpc", "127.0.0.1:0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(),
        preexec_fn=die_with_parent,
    )
    said = []
    for line in process.stderr:
        said.append(line)
        if "pages and API" in line:
            # Keep the pipe drained, so that the server never waits for us.
            threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
            return process, line.split("http://")[1].strip()
    raise SystemExit(f"serve ended with {process.wait()}: {''.join(said)}")


class Api:
    """One connection to the server."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address)

    def get(self, path, **question):
        target = urllib.parse.quote(path) + ("?" + urllib.parse.urlencode(question) if question else "")
        self.connection.request("GET", target)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def json(self, path, **question):
        status, body = self.get(path, **question)
        if status != 200:
            raise SystemExit(f"GET {path}: {status} {body[:300]}")
        return json.loads(body)


def conversation(id):
    """The conversation of an event of the load: one for each writer of each run."""
    return "conv-" + id.split("r", 1)[0]


def event_id(id):
    """The id under which the event is stored: UUID version 8 over tenant and delivery key."""
    digest = bytearray(hashlib.sha256(f"threadline/event/v1\0default\0api:{id}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))


def event(id):
    """The line that is posted for an event of the load."""
    return json.dumps(
        {
            "id": id,
            "kind": "call",
            "source_name": "load",
            "conversation_id": conversation(id),
            "text": f"needle needle{id}",
            "arguments": {"filler": "x" * 300},
        }
    )
