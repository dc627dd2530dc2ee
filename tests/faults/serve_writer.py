"""Runs `threadline serve` on a folder, posts events from four threads, prints every acknowledged id.

    serve_writer.py --program PATH DIR
"""

import argparse
import ctypes
import http.client
import json
import os
import signal
import subprocess
import sys
import threading

arguments = argparse.ArgumentParser()
arguments.add_argument("--program", required=True)
arguments.add_argument("folder")
given = arguments.parse_args()


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


serve = subprocess.Popen(
    [given.program, "serve", "--data", given.folder, "--listen", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    stdin=subprocess.DEVNULL,
    text=True,
    preexec_fn=die_with_parent,
)
address = next(line.split("http://")[1].strip() for line in serve.stderr if "pages and API" in line)
threading.Thread(target=lambda: [None for _ in serve.stderr], daemon=True).start()
printing = threading.Lock()
# Ids differ from run to run, because several runs may write to one folder.
run = os.urandom(4).hex()


def post(writer):
    connection = http.client.HTTPConnection(address)
    request = 0
    while True:
        ids = [f"x{run}w{writer}r{request}n{n}" for n in range(8)]
        request += 1
        lines = (
            json.dumps(
                {
                    "id": id,
                    "kind": "call",
                    "source_name": "load",
                    "conversation_id": f"conv-{run}-{writer}",
                    "text": f"needle{id}",
                    "arguments": {"filler": "x" * 300},
                }
            )
            for id in ids
        )
        connection.request("POST", "/api/v1/events", "\n".join(lines), {"Content-Type": "application/x-ndjson"})
        answer = connection.getresponse()
        answer.read()
        if answer.status < 300:
            with printing:
                sys.stdout.write("".join(f"{id}\n" for id in ids))
                sys.stdout.flush()


threads = [threading.Thread(target=post, args=(writer,)) for writer in range(4)]
for thread in threads:
    thread.start()
