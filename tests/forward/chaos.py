"""Kills the forwarder and its receivers at random while events are recorded, then compares: every committed event was
delivered at least once to every receiver, and nothing was delivered that was never committed.

    chaos.py --program threadline --seconds 30 --seed 1 [--rate 200] [--tls CA CERT KEY] KIND...

KIND: file, lake, hec, elastic, webhook, otlp, syslog (rsyslogd over TLS, needs --tls), opensearch (a real node, needs
--opensearch with the folder of its jars). Prints one line per receiver; exits 1
when anything is missing or invented, 2 when a receiver cannot be had.
"""
import argparse, base64, glob, json, os, pathlib, random, shutil, signal, socket, subprocess, sys, tempfile, threading, time
import urllib.request

arguments = argparse.ArgumentParser()
arguments.add_argument("--program", required=True)
arguments.add_argument("--seconds", type=float, default=30)
arguments.add_argument("--seed", type=int, default=1)
arguments.add_argument("--rate", type=int, default=200, help="records per second")
arguments.add_argument("--tls", nargs=3, metavar=("CA", "CERT", "KEY"))
arguments.add_argument("--opensearch", help="folder with the jars of tests/forward/opensearch/pom.xml")
arguments.add_argument("--python", default=sys.executable, help="a Python with pyarrow, for lake")
arguments.add_argument("kinds", nargs="+")
options = arguments.parse_args()
here = pathlib.Path(__file__).parent
work = pathlib.Path(tempfile.mkdtemp(prefix="threadline-chaos-"))
data, chance = work / "data", random.Random(options.seed)
children = []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(command, **more):
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **more)
    children.append(child)
    return child


def listens(port):
    for _ in range(4000):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.025)
    sys.exit(f"nothing listens on {port}")


ports = {kind: free_port() for kind in options.kinds if kind not in ("file", "lake")}
if "syslog" in ports:
    rsyslogd = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"
    if not os.path.exists(rsyslogd) or not options.tls:
        print("rsyslogd is not installed, or no certificates were given")
        sys.exit(2)
    ca, cert, key = options.tls
    # Direct queues: a message is in the file before the next one is read, so a kill loses what is in the socket only.
    (work / "rsyslog.conf").write_text(f'''
global(workDirectory="{work}" DefaultNetstreamDriver="ossl" DefaultNetstreamDriverCAFile="{ca}"
  DefaultNetstreamDriverCertFile="{cert}" DefaultNetstreamDriverKeyFile="{key}" maxMessageSize="64k")
main_queue(queue.type="Direct")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
template(name="event" type="string" string="%msg%\\n")
ruleset(name="keep" queue.type="Direct") {{ action(type="omfile" file="{work}/syslog.out" template="event" asyncWriting="off") }}
input(type="imtcp" port="{ports['syslog']}" address="127.0.0.1" ruleset="keep")
''')


def receiver(kind):
    if kind == "opensearch":
        return start(["java", "-Xmx512m", "-cp", options.opensearch + "/*", str(here / "opensearch/OpenSearchNode.java"),
                      str(work / "opensearch"), str(ports[kind])], stdout=subprocess.DEVNULL, stderr=open(work / "opensearch.err", "ab"))
    if kind == "syslog":
        return start([rsyslogd, "-n", "-f", str(work / "rsyslog.conf"), "-i", str(work / "rsyslog.pid")],
                     stdout=subprocess.DEVNULL, stderr=open(work / "rsyslog.err", "ab"))
    return start([sys.executable, "-B", str(here / "receiver.py"), kind, str(ports[kind]), str(work / f"{kind}.out")],
                 stdout=subprocess.DEVNULL, stderr=open(work / f"{kind}.err", "ab"))


(work / "token").write_text("hec-token-of-the-test\n")
(work / "secret").write_text("whsec_" + base64.b64encode(b"a secret of at least 24 bytes").decode() + "\n")
(work / "opensearch").mkdir()
address = {kind: f"http://127.0.0.1:{port}" for kind, port in ports.items()}
sinks = {
    "file": f'type = "file"\npath = "{work}/lines"\nrotate_bytes = 200000',
    "lake": f'type = "security_lake"\nregion = "eu-test-1"\naccount = "123456789012"\npath = "{work}/lake"\nlinger_ms = 2000',
    "hec": f'type = "splunk_hec"\nurl = "{address.get("hec")}"\ntoken = {{ file = "token" }}\nacknowledge_timeout_s = 5',
    "elastic": f'type = "elasticsearch"\nurl = "{address.get("elastic")}"\nindex = "threadline"',
    "opensearch": f'type = "elasticsearch"\nurl = "{address.get("opensearch")}"\nindex = "threadline"\ntimestamp = true',
    "webhook": f'type = "webhook"\nurl = "{address.get("webhook")}/hook"\nsecret = {{ file = "secret" }}',
    "otlp": f'type = "otlp"\nurl = "{address.get("otlp")}/v1/logs"',
    "syslog": f'type = "syslog"\nhost = "localhost"\nport = {ports.get("syslog")}\nca = "{(options.tls or [""])[0]}"',
}
common = "\nallow_private = true\nresult_wait_s = 2\nretry_max_s = 1\nbatch_events = 100\nlinger_ms = 200\ncheck_every = 1\n"
config = work / "forward.toml"
# What a sink says itself goes before what they have in common.
text = lambda kind: "\n".join(line for line in common.splitlines() if line.split(" ")[0] not in
                             [own.split(" ")[0] for own in sinks[kind].splitlines()] or not line)
config.write_text("".join(f'[[sink]]\nname = "{kind}"\n{sinks[kind]}\n{text(kind)}\n' for kind in options.kinds))


def forwarder():
    return start([options.program, "forward", "run", "--config", str(config), "--data", str(data)],
                 stderr=open(work / "forward.err", "ab"))


def stop_all():
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()


def main():
    served = start([options.program, "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0",
                    "--otlp-grpc", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
    url = None
    while url is None:
        line = served.stderr.readline()
        if not line:
            sys.exit("serve ended")
        url = line.split()[-1] if "pages and API" in line else None
    threading.Thread(target=lambda: [None for _ in served.stderr], daemon=True).start()
    running = {kind: receiver(kind) for kind in ports}
    for port in ports.values():
        listens(port)
    running["forwarder"] = forwarder()

    until, accepted, number = time.time() + options.seconds, [], 0
    kills = dict.fromkeys(running, 0)
    recording = threading.Event()

    def record():
        nonlocal number
        while time.time() < until:
            begun, lines = time.time(), []
            for _ in range(max(1, options.rate // 10)):
                session, step = divmod(number, 7)
                event = {"id": f"e-{number}", "kind": ("prompt", "selection", "call", "result", "call", "log", "decision")[step],
                         "conversation_id": f"c-{session}", "tool_call_id": f"t-{session}-{step // 4}", "tool_name": "refund",
                         "server_name": "orders", "text": "refund order \u202e 7", "source_name": "agent"}
                if event["kind"] == "result":
                    event["outcome"], event["result"] = "ok", '{"ok":true}'
                if event["kind"] == "decision":
                    event["decision"] = "deny"
                lines.append(json.dumps(event))
                number += 1
            request = urllib.request.Request(url + "/api/v1/events", "\n".join(lines).encode(),
                                             {"content-type": "application/x-ndjson"})
            urllib.request.urlopen(request, timeout=60).read()
            accepted.append(len(lines))
            time.sleep(max(0, 0.1 - (time.time() - begun)))
        recording.set()

    threading.Thread(target=record, daemon=True).start()
    while time.time() < until:
        time.sleep(chance.uniform(0.2, 1.2))
        # The forwarder is hit as often as all receivers together.
        name = "forwarder" if chance.random() < 0.5 or len(running) == 1 else chance.choice(sorted(set(running) - {"forwarder"}))
        running[name].kill()
        running[name].wait()
        kills[name] += 1
        time.sleep(chance.uniform(0, 0.6))
        running[name] = forwarder() if name == "forwarder" else receiver(name)
        # A search node takes its time; the others are hit meanwhile.
        if name not in ("forwarder", "opensearch"):
            listens(ports[name])
    recording.wait(60)

    command = [options.program, "forward", "status", "--data", str(data), "--format", "json"]
    seal = [options.program, "sql", "select count(*) as n from records", "--data", str(data), "--format", "json"]
    sent, deadline = sum(accepted), time.time() + 180
    while True:
        status = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))["data"]
        stored = json.loads(subprocess.check_output(seal, stderr=subprocess.DEVNULL))
        tail = stored["completeness"]["snapshot"]["tail_rows"]
        if tail == 0 and len(status) == len(options.kinds) and all(sink["lag_rows"] == 0 for sink in status):
            break
        if time.time() > deadline:
            print(json.dumps(status, indent=1), (work / "forward.err").read_text()[-2000:])
            sys.exit("the sinks did not catch up")
        time.sleep(0.3)
    # Calls without an answer are told after their deadline; they are committed, so they count.
    exported = subprocess.check_output([options.program, "export", "range", "--data", str(data)], stderr=subprocess.DEVNULL)
    committed = {json.loads(line)["event_id"] for line in exported.splitlines()}
    assert len(committed) >= sent, (len(committed), sent)
    failed = False
    for kind in options.kinds:
        while True:
            uids = received(kind)
            told = set(uids) | {uid for uid in requests.pop(kind)}
            missing, invented = committed - told, told - committed
            if not missing or time.time() > deadline:
                break
            time.sleep(0.5)
        failed |= bool(missing or invented)
        killed = kills.get(kind, 0)
        print(f"{kind}: {len(committed)} committed, {len(uids)} received, {len(uids) - len(set(uids))} of them again, "
              f"{len(missing)} missing, {len(invented)} invented; killed {killed} times, the forwarder {kills['forwarder']} times")
    status = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))["data"]
    letters = sum(sink["dead_letters"] for sink in status)
    print(f"seed {options.seed}, {options.seconds:g} s, {sent} records accepted, {letters} dead letters")
    running["forwarder"].terminate()
    ended = running["forwarder"].wait(30)
    if failed or letters or ended != 0:
        print((work / "forward.err").read_text()[-3000:])
        sys.exit(1)


requests = {}


def received(kind):
    """The ids of received events, repetitions included; `requests` gets those of the calls they answer."""
    uids, requests[kind] = [], []
    if kind == "lake":
        script = ("import sys, json, pyarrow.parquet as pq, glob\n"
                  "for path in glob.glob(sys.argv[1] + '/ext/**/*.parquet', recursive=True):\n"
                  "    for row in pq.read_table(path, columns=['metadata', 'unmapped'], partitioning=None).to_pylist():\n"
                  "        print(json.dumps([row['metadata'], json.loads(row['unmapped'] or '{}')]))\n")
        text = subprocess.check_output([options.python, "-c", script, str(work / "lake")])
        pairs = [json.loads(line) for line in text.splitlines()]
    elif kind == "opensearch":
        def ask(path, body):
            request = urllib.request.Request(address[kind] + path, json.dumps(body).encode(), {"content-type": "application/json"})
            return json.loads(urllib.request.urlopen(request, timeout=60).read())
        urllib.request.urlopen(urllib.request.Request(address[kind] + "/threadline/_refresh", b"", method="POST"), timeout=60).read()
        answer, pairs = ask("/threadline/_search?scroll=1m", {"size": 5000, "_source": ["metadata", "unmapped"]}), []
        while answer["hits"]["hits"]:
            for hit in answer["hits"]["hits"]:
                assert hit["_id"] == hit["_source"]["metadata"]["uid"]
                pairs.append((hit["_source"]["metadata"], hit["_source"].get("unmapped", {})))
            answer = ask("/_search/scroll", {"scroll": "1m", "scroll_id": answer["_scroll_id"]})
    else:
        paths = glob.glob(f"{work}/lines/*.jsonl") if kind == "file" else [work / f"{kind}.out"]
        lines = [line for path in paths for line in open(path, "rb").read().split(b"\n")]
        events = []
        for line in lines:
            try:
                events.append(json.loads(line))
            except ValueError:
                # A line torn by a kill: what it belongs to was not acknowledged, and is there again.
                continue
        pairs = [(event["metadata"], event.get("unmapped", {})) for event in events]
    for metadata, unmapped in pairs:
        # That we look at what was committed is itself recorded, and forwarded.
        if metadata["event_code"].startswith("threadline.access"):
            continue
        uids.append(metadata["uid"])
        if "threadline.request_event_id" in unmapped:
            requests[kind].append(unmapped["threadline.request_event_id"])
    return uids


try:
    main()
finally:
    stop_all()
    shutil.rmtree(work, ignore_errors=True)
