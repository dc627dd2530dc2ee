"""Checks after a power cut: every acknowledged event is there exactly once, by id, session and text.

    serve_check.py --program PATH DIR ACKS      exit 0 when it is so
"""

import argparse
import collections
import json
import os
import subprocess
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--program", required=True)
arguments.add_argument("folder")
arguments.add_argument("acks")
given = arguments.parse_args()
data = given.folder
acknowledged = open(given.acks).read().split()
environment = {k: v for k, v in os.environ.items() if not k.startswith("THREADLINE_")}


def ask(*words):
    command = [given.program, *words, "--format", "json", "--data", data]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    if answer.returncode != 0:
        sys.exit(f"{words[:2]}: {answer.stderr.strip()}")
    return json.loads(answer.stdout)


stored = collections.Counter()
rows = ask("sql", "select array_agg(delivery_key) as keys from records where source_name = 'load'")
for key in rows["data"]["rows"][0][0] or []:
    stored[key.removeprefix("api:")] += 1
lost = [id for id in acknowledged if id not in stored]
twice = [id for id, count in stored.items() if count > 1]
wrong = []
if rows["completeness"]["rows_cut"]:
    wrong.append("the answer was cut")
if lost:
    wrong.append(f"{len(lost)} of {len(acknowledged)} acknowledged events are lost")
if twice:
    wrong.append(f"{len(twice)} events are stored twice")
for id in [] if wrong else acknowledged[:: max(1, len(acknowledged) // 3)]:
    hits = ask("search", f"needle{id}")["data"]
    if len(hits) != 1:
        wrong.append(f"{id}: {len(hits)} hits by text")
        continue
    event = hits[0]["event"]["event_id"]
    record = ask("event", "show", event)["data"]["record"]
    if record["delivery_key"] != f"api:{id}":
        wrong.append(f"{id}: another record by id")
    if event not in json.dumps(ask("session", "show", record["conversation_id"])):
        wrong.append(f"{id}: not in its session")
print(f"acknowledged {len(acknowledged)}, stored {len(stored)}; {'; '.join(wrong) or 'all there'}")
sys.exit(1 if wrong else 0)
