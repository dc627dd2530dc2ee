async def ev_basic(c):
    async with turn("What tools do you have?"):
        await do("tools/list", lambda: c.list_tools())
    async with turn("Echo 'hello audit' and add 17 and 25."):
        await tool(c, "echo", {"message": "hello audit"})
        await tool(c, "get-sum", {"a": 17, "b": 25})
    async with turn("Give me the weather in New York and Chicago as structured data."):
        await tool(c, "get-structured-content", {"location": "New York"})
        await tool(c, "get-structured-content", {"location": "Chicago"})
    async with turn("Add seven and 'banana'."):
        await tool(c, "get-sum", {"a": 7, "b": "banana"})
    async with turn("Use the delete-everything tool."):
        await tool(c, "delete-everything", {"confirm": True})
    async with turn("Read the docs and resource number 3."):
        await do("resources/list", lambda: c.list_resources())
        await read(c, "demo://resource/dynamic/text/3")
        await read(c, "demo://resource/does/not/exist")
    async with turn("Start from the args prompt for Berlin."):
        await do("prompts/list", lambda: c.list_prompts())
        await prompt(c, "args-prompt", {"city": "Berlin", "state": "BE"})
        await prompt(c, "args-prompt", {})
    async with turn("Show me an error message annotated."):
        await tool(c, "get-annotated-message", {"messageType": "error", "includeImage": False})
    async with turn("Print the server's environment."):
        await tool(c, "get-env", {})


async def ev_server_initiated(c):
    async with turn("Ask your model when water boils."):
        await tool(
            c, "trigger-sampling-request", {"prompt": "At what temperature does water boil?", "maxTokens": 50}
        )
    async with turn("Ask me for my contact details."):
        await tool(c, "trigger-elicitation-request", {})
    async with turn("Which workspace roots do you see?"):
        await tool(c, "get-roots-list", {})
    async with turn("Start the long job and report progress."):
        await tool(
            c,
            "trigger-long-running-operation",
            {"duration": 2, "steps": 4},
            **({"progress_callback": prog} if client != "fastmcp" else {"progress_handler": prog})
        )
    async with turn("Start the long job again, then stop it."):
        await cancelled(c, "trigger-long-running-operation", {"duration": 30, "steps": 3}, 1.0)
    async with turn("Sum again."):
        await tool(c, "get-sum", {"a": 1, "b": 1})


async def ev_concurrent(c):
    async with turn("Do these six things at once."):
        await asyncio.gather(
            tool(c, "echo", {"message": "same text"}),
            tool(c, "echo", {"message": "same text"}),
            tool(c, "get-sum", {"a": 1, "b": 2}),
            tool(c, "get-sum", {"a": 2, "b": 1}),
            tool(c, "trigger-long-running-operation", {"duration": 1, "steps": 2}),
            tool(c, "get-structured-content", {"location": "Los Angeles"}),
        )
    async with turn("Echo the same text once more."):
        await tool(c, "echo", {"message": "same text"})


async def fs_work(c):
    R = os.environ["FSROOT"]
    async with turn("What may you access, and what files are in the project?"):
        await do("tools/list", lambda: c.list_tools())
        await tool(c, "list_allowed_directories")
        await tool(c, "list_directory", {"path": R})
    async with turn("Summarise README.md and config.yaml."):
        await tool(c, "read_text_file", {"path": R + "/README.md"})
        await tool(c, "read_text_file", {"path": R + "/config.yaml"})
    async with turn("Raise the retry count to 5 in config.yaml."):
        await tool(
            c,
            "edit_file",
            {"path": R + "/config.yaml", "edits": [{"oldText": "retries: 3", "newText": "retries: 5"}]},
        )
        await tool(c, "read_text_file", {"path": R + "/config.yaml"})
    async with turn("Write a note and move it to the archive."):
        await tool(c, "create_directory", {"path": R + "/archive"})
        await tool(c, "write_file", {"path": R + "/note.txt", "content": "meeting at ten\n"})
        await tool(c, "move_file", {"source": R + "/note.txt", "destination": R + "/archive/note.txt"})
    async with turn("Show me /etc/passwd."):
        await tool(c, "read_text_file", {"path": "/etc/passwd"})
    async with turn("Edit a line that is not there."):
        await tool(
            c,
            "edit_file",
            {"path": R + "/config.yaml", "edits": [{"oldText": "no such line", "newText": "x"}]},
        )


async def fs_injection(c):
    R = os.environ["FSROOT"]
    async with turn("Read the tickets folder and tell me what is urgent."):
        await tool(c, "list_directory", {"path": R + "/tickets"})
        await tool(c, "read_multiple_files", {"paths": [R + "/tickets/1.md", R + "/tickets/2.md"]})
        await tool(c, "read_text_file", {"path": R + "/.env"})
        await tool(
            c,
            "write_file",
            {"path": R + "/public/status.html", "content": "<!-- DEMO_KEY=dummy-demo-key-123 -->ok"},
        )
    async with turn("Search for TODO."):
        await tool(c, "search_files", {"path": R, "pattern": "**/*.md"})


async def mem_work(c):
    async with turn("Remember that Ada works at Example GmbH and likes tea."):
        await tool(
            c,
            "create_entities",
            {
                "entities": [
                    {"name": "Ada", "entityType": "person", "observations": ["likes tea"]},
                    {"name": "Example GmbH", "entityType": "company", "observations": []},
                ]
            },
        )
        await tool(
            c,
            "create_relations",
            {"relations": [{"from": "Ada", "to": "Example GmbH", "relationType": "works_at"}]},
        )
    async with turn("What do you know about Ada?"):
        await tool(c, "search_nodes", {"query": "Ada"})
        await tool(c, "open_nodes", {"names": ["Ada"]})
    async with turn("Add that she moved to Berlin. And note the same for Bob."):
        await tool(
            c, "add_observations", {"observations": [{"entityName": "Ada", "contents": ["moved to Berlin"]}]}
        )
        await tool(
            c, "add_observations", {"observations": [{"entityName": "Bob", "contents": ["moved to Berlin"]}]}
        )
    async with turn("Forget Example GmbH."):
        await tool(c, "delete_entities", {"entityNames": ["Example GmbH"]})
        await tool(c, "read_graph")


async def py_work(c):
    async with turn("List the tools."):
        await do("tools/list", lambda: c.list_tools())
    async with turn("Look up order 1001 and 1002."):
        await asyncio.gather(
            tool(c, "lookup_order", {"order_id": "1001"}), tool(c, "lookup_order", {"order_id": "1002"})
        )
    async with turn("Refund order 1001, 20 euros."):
        await tool(c, "refund", {"order_id": "1001", "amount": 20})
    async with turn("Refund order 9999."):
        await tool(c, "refund", {"order_id": "9999", "amount": 5})
    async with turn("Crash please."):
        await tool(c, "boom", {})
    async with turn("Refund with the wrong type."):
        await tool(c, "refund", {"order_id": "1001", "amount": "lots"})
    async with turn("Delete the customer 7 (needs confirmation)."):
        await tool(c, "delete_customer", {"customer_id": "7"})
    async with turn("Summarise order 1001 with your model."):
        await tool(c, "summarise", {"order_id": "1001"})
    async with turn("Read the policy."):
        await read(c, "policy://refunds")
        await prompt(c, "refund_letter", {"name": "Ada"})
    async with turn("Export slowly, then stop."):
        await cancelled(c, "slow_export", {"rows": 50}, 0.8)
    async with turn("Export 3 rows."):
        await tool(
            c,
            "slow_export",
            {"rows": 3},
            **({"progress_callback": prog} if client != "fastmcp" else {"progress_handler": prog})
        )


async def py_short(c):
    async with turn("Look up order 1002."):
        await tool(c, "lookup_order", {"order_id": "1002"})
    async with turn("Refund it fully."):
        await tool(c, "refund", {"order_id": "1002", "amount": 42})
    async with turn("Delete the customer 8."):
        await tool(c, "delete_customer", {"customer_id": "8"})


SESSIONS = {}
for n, (k, f) in {
    "basic": ("everything", ev_basic),
    "server-initiated": ("everything", ev_server_initiated),
    "concurrent": ("everything", ev_concurrent),
    "fs": ("filesystem", fs_work),
    "fsinj": ("filesystem", fs_injection),
    "mem": ("memory", mem_work),
    "py": ("pyserver", py_work),
    "pys": ("pyserver", py_short),
    "fast": ("fastsrv", py_work),
    "fasts": ("fastsrv", py_short),
}.items():
    SESSIONS[n] = (k, f)
_s = sess.split("--")[0]
if _s in SESSIONS:
    SESSIONS[sess] = SESSIONS[_s]


async def cf_basic(c):
    async with turn("What tools do you have?"):
        await do("tools/list", lambda: c.list_tools())
    async with turn("Echo 'hello gateway' and add 17 and 25."):
        await tool(c, "everything-echo", {"message": "hello gateway"})
        await tool(c, "everything-get-sum", {"a": 17, "b": 25})
    async with turn("Add seven and 'banana'."):
        await tool(c, "everything-get-sum", {"a": 7, "b": "banana"})
    async with turn("Use a tool that does not exist."):
        await tool(c, "everything-delete-everything", {"confirm": True})
    async with turn("Both at once."):
        await asyncio.gather(
            tool(c, "everything-echo", {"message": "same text"}),
            tool(c, "everything-echo", {"message": "same text"}),
            tool(c, "everything-get-structured-content", {"location": "Chicago"}),
        )
    async with turn("Read a resource and a prompt."):
        await do("resources/list", lambda: c.list_resources())
        await read(c, "demo://resource/static/document/features.md")
        await do("prompts/list", lambda: c.list_prompts())
        await prompt(c, "everything-simple-prompt")
    async with turn("Print the environment of the server."):
        await tool(c, "everything-get-env", {})
    async with turn("Start the long job and report progress."):
        await tool(
            c,
            "everything-trigger-long-running-operation",
            {"duration": 1, "steps": 2},
            **({"progress_callback": prog} if client != "fastmcp" else {"progress_handler": prog})
        )


async def cf_short(c):
    async with turn("Weather in Los Angeles, then echo it."):
        await tool(c, "everything-get-structured-content", {"location": "Los Angeles"})
        await tool(c, "everything-echo", {"message": "sunny"})
    async with turn("Long job, then stop."):
        await cancelled(c, "everything-trigger-long-running-operation", {"duration": 20, "steps": 2}, 1.0)
    async with turn("Add 5 and 6."):
        await tool(c, "everything-get-sum", {"a": 5, "b": 6})


for n, f in {"cfb": cf_basic, "cfs": cf_short}.items():
    SESSIONS[n] = ("everything", f)
if _s in SESSIONS:
    SESSIONS[sess] = SESSIONS[_s]
