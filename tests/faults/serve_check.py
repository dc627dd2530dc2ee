"""Checks after a crash: every acknowledged event is there exactly once, by id, by session and by text.

    serve_check.py --program PATH DIR ACKS      exit 0 when it is so

One server does the answering, as it would after a restart. Everything that the folder has ever acknowledged is asked for
in batches (SQL, sessions, pages of a search); by its own id, with its exact bytes, each event once: the ids that were asked
for by an earlier check of the same folder stand in ACKS.asked.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import subprocess
import sys

import serving

arguments = argparse.ArgumentParser()
arguments.add_argument("--program", required=True)
arguments.add_argument("folder")
arguments.add_argument("acks")
given = arguments.parse_args()
acknowledged = open(given.acks).read().split()
asked_file = given.acks + ".asked"
asked = set(open(asked_file).read().split()) if os.path.exists(asked_file) else set()
wrong = []
CONNECTIONS = 4
KEYS = "select array_agg(delivery_key) as keys from records where source_name = 'load'"


def compare(how, found):
    """Notes what of the acknowledged is missing, and what of anything is there more than once."""
    missing = [id for id in acknowledged if id not in found]
    twice = [id for id, count in found.items() if count > 1]
    if missing:
        wrong.append(f"{len(missing)} of {len(acknowledged)} acknowledged events are not found {how}")
    if twice:
        wrong.append(f"{len(twice)} events are found twice {how}")


def by_sql(answer):
    if answer["completeness"]["rows_cut"]:
        wrong.append("the answer was cut")
    return collections.Counter(key.removeprefix("api:") for key in answer["data"]["rows"][0][0] or [])


def without_server():
    """What a reader without any lock sees before anybody recovers the folder."""
    command = [given.program, "sql", KEYS, "--format", "json", "--data", given.folder]
    answer = subprocess.run(command, capture_output=True, text=True, env=serving.environment())
    if answer.returncode != 0:
        sys.exit(f"sql: {answer.stderr.strip()}")
    return by_sql(json.loads(answer.stdout))


def by_text(api):
    found, question = collections.Counter(), {}
    while question is not None:
        answer = api.json("/api/v1/search", q="needle", limit=1000, **question)
        found.update(hit["event"]["excerpt"].split("needle")[-1] for hit in answer["data"])
        cursor = answer.get("next_cursor")
        question = {"cursor": cursor} if cursor else None
    return found


def by_session(api):
    found = collections.Counter()
    ids = {serving.event_id(id): id for id in acknowledged}
    for conversation in sorted({serving.conversation(id) for id in acknowledged}):
        status, body = api.get(f"/api/v1/sessions/{conversation}")
        if status == 200:
            for turn in json.loads(body)["data"]["turns"]:
                records = [record for call in turn["calls"] for record in call["records"]]
                found.update(ids.get(record["event_id"]) for record in records + turn.get("records", []))
    # What was stored and not acknowledged before the crash is no concern of this.
    found.pop(None, None)
    return found


def by_id(address):
    def ask(ids):
        api = serving.Api(address)
        for id in ids:
            status, body = api.get(f"/api/v1/events/{serving.event_id(id)}/raw")
            if status != 200 or body != serving.event(id).encode():
                yield f"{id}: {status} and {len(body)} bytes by id"

    new = [id for id in acknowledged if id not in asked]
    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
        for found in pool.map(lambda part: list(ask(part)), [new[n::CONNECTIONS] for n in range(CONNECTIONS)]):
            wrong.extend(found)


compare("by SQL without a server", without_server())
if not wrong:
    server, address = serving.serve(given.program, given.folder)
    api = serving.Api(address)
    stored = by_sql(api.json("/api/v1/sql", query=KEYS))
    compare("by SQL", stored)
    compare("by text", by_text(api))
    compare("by session", by_session(api))
    by_id(address)
    # Not stopped but killed: nothing may depend on a clean end.
    server.kill()
    server.wait()
    with open(asked_file, "w") as f:
        f.write("\n".join(acknowledged))
print(f"acknowledged {len(acknowledged)}; {'; '.join(wrong[:5]) or 'all there'}")
sys.exit(1 if wrong else 0)
