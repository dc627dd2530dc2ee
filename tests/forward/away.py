"""A receiver that is away and comes back: the rate of ingestion with and without forwarding, and whether it catches up.

    away.py --program threadline [--seconds 600] [--rate 2000]

Records --rate events per second (0: as many as one client gets taken) for a third of the time without forwarding, for a third
with a forwarder whose receiver is away, and for a third while it is back and what it missed is caught up with. Prints the
rates and how long catching up took; exits 1 when a rate with forwarding is below 0.95 of that without, or when the receiver
lacks an event at the end.
"""
import argparse, json, pathlib, shutil, socket, subprocess, sys, tempfile, threading, time, urllib.request

arguments = argparse.ArgumentParser()
arguments.add_argument("--program", required=True)
arguments.add_argument("--seconds", type=float, default=600)
arguments.add_argument("--rate", type=int, default=2000)
options = arguments.parse_args()
here, work = pathlib.Path(__file__).parent, pathlib.Path(tempfile.mkdtemp(prefix="threadline-away-"))
data, children = work / "data", []
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
(work / "token").write_text("hec-token-of-the-test\n")
(work / "forward.toml").write_text(f'''[[sink]]
name = "away"
type = "splunk_hec"
url = "http://127.0.0.1:{port}"
token = {{ file = "token" }}
allow_private = true
result_wait_s = 2
retry_max_s = 5
''')


def start(command, **more):
    children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, **more))
    return children[-1]


number = 0


def record(url, seconds):
    """Records for so long; gives records per second."""
    global number
    begun, first = time.time(), number
    while time.time() - begun < seconds:
        count = options.rate // 10 or 200
        lines = [json.dumps({"id": f"e-{n}", "kind": "log", "conversation_id": f"c-{n // 50}", "text": "x" * 300})
                 for n in range(number, number + count)]
        request = urllib.request.Request(url + "/api/v1/events", "\n".join(lines).encode(), {"content-type": "application/x-ndjson"})
        try:
            urllib.request.urlopen(request, timeout=60).read()
            number += count
        except urllib.error.HTTPError as error:
            # Overloaded: what the server asks for; the same records again are the same events.
            time.sleep(float(error.headers.get("retry-after", 0.2)))
        if options.rate:
            time.sleep(max(0, begun + (number - first) / options.rate - time.time()))
    return (number - first) / (time.time() - begun)


try:
    served = start([options.program, "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0",
                    "--otlp-grpc", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
    url = next(line.split()[-1] for line in served.stderr if "pages and API" in line)
    threading.Thread(target=lambda: [None for _ in served.stderr], daemon=True).start()
    third = options.seconds / 3
    record(url, min(10, third))
    alone = record(url, third)
    # The receiver is away: nothing listens on its port.
    start([options.program, "forward", "run", "--config", str(work / "forward.toml"), "--data", str(data)])
    away = record(url, third)
    start([sys.executable, "-B", str(here / "receiver.py"), "hec", str(port), str(work / "out")], stdout=subprocess.DEVNULL)
    returned = time.time()
    back = record(url, third)
    ended = time.time()
    status = [options.program, "forward", "status", "--data", str(data), "--format", "json"]
    deadline = time.time() + max(120, options.seconds * 2)
    while True:
        # In this order: what is sealed after the count is not in the lag of a status before it.
        stored = json.loads(subprocess.check_output([options.program, "sql", "select count(*) from records", "--data", str(data),
                                                     "--format", "json"], stderr=subprocess.DEVNULL))
        sink = json.loads(subprocess.check_output(status, stderr=subprocess.DEVNULL))["data"][0]
        if sink["lag_rows"] == 0 and stored["completeness"]["snapshot"]["tail_rows"] == 0:
            break
        if time.time() > deadline:
            sys.exit(f"it did not catch up: {sink}")
        time.sleep(1)
    caught_up = time.time()
    got = {json.loads(line)["metadata"]["uid"] for line in open(work / "out", "rb")}
    count = stored["data"]["rows"][0][0]
    print(f"{alone:.0f} records/s alone, {away:.0f} with the receiver away (ratio {away / alone:.3f}), "
          f"{back:.0f} with it back (ratio {back / alone:.3f}); caught up {caught_up - returned:.0f} s after it came back, "
          f"{caught_up - ended:.0f} s after the last record; {count} committed, {len(got)} delivered")
    sys.exit(0 if min(away, back) >= 0.95 * alone and len(got) == count else 1)
finally:
    for child in children:
        child.kill()
        child.wait()
    shutil.rmtree(work, ignore_errors=True)
