"""Passes a stdio server through and keeps the exact bytes of both directions.

    recorder.py PREFIX -- CMD ARGS...      writes PREFIX.in (client to server) and PREFIX.out (server to client)

Two of these, one on each side of a tap, show whether the tap changes anything.
"""

import os
import subprocess
import sys
import threading

prefix, command = sys.argv[1], sys.argv[3:]
server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def pump(source, sink, path):
    with open(path, "wb", buffering=0) as kept:
        while chunk := os.read(source.fileno(), 1 << 16):
            kept.write(chunk)
            try:
                sink.write(chunk)
                sink.flush()
            except BrokenPipeError:
                break
    try:
        sink.close()
    except BrokenPipeError:
        pass


inward = threading.Thread(target=pump, args=(sys.stdin.buffer, server.stdin, prefix + ".in"), daemon=True)
outward = threading.Thread(target=pump, args=(server.stdout, sys.stdout.buffer, prefix + ".out"))
inward.start()
outward.start()
code = server.wait()
outward.join(5)
os._exit(code if code >= 0 else 128 - code)
