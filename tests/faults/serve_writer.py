"""Runs `threadline serve` on a folder, posts events from four threads, prints every acknowledged id.

    serve_writer.py --program PATH DIR
"""

import argparse
import http.client
import os
import sys
import threading

import serving

arguments = argparse.ArgumentParser()
arguments.add_argument("--program", required=True)
arguments.add_argument("folder")
given = arguments.parse_args()
_, address = serving.serve(given.program, given.folder)
printing = threading.Lock()
# Ids differ from run to run, because several runs may write to one folder.
run = os.urandom(4).hex()


def post(writer):
    connection = http.client.HTTPConnection(address)
    request = 0
    while True:
        # One at a time: every acknowledgement is a point of its own, and every event is asked for by its id.
        id = f"x{run}w{writer}r{request}"
        request += 1
        connection.request("POST", "/api/v1/events", serving.event(id), {"Content-Type": "application/x-ndjson"})
        answer = connection.getresponse()
        answer.read()
        if answer.status < 300:
            with printing:
                sys.stdout.write(f"{id}\n")
                sys.stdout.flush()


threads = [threading.Thread(target=post, args=(writer,)) for writer in range(4)]
for thread in threads:
    thread.start()
