"""Stands before or behind whatever is between an MCP client and an HTTP server, and keeps what passes.

    http_tee.py UPSTREAM OUT [PORT]      prints the port it listens on

One JSON line per exchange, written when it has ended: the request's method, path, `mcp-*` headers and body, the
response's status, content type, session id and body (bytes in hex, as they were on the wire), and how it ended. Two
of these, one on each side of a proxy, show whether the proxy changes anything.
"""

import asyncio
import json
import sys

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

upstream, out = sys.argv[1].rstrip("/"), open(sys.argv[2], "a", buffering=1)
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade", "host"}


def kept(headers):
    names = ("content-type", "content-encoding", "www-authenticate", "last-event-id", "accept", "allow")
    return sorted((k.lower(), v) for k, v in headers.items() if k.lower() in names or k.lower().startswith("mcp-"))


class Answer(web.StreamResponse):
    """Without the content type that aiohttp adds where the server gave none."""

    has_type = False

    async def _prepare_headers(self):
        await super()._prepare_headers()
        if not self.has_type:
            self.headers.popall("Content-Type", None)


async def handle(request):
    seen = {"method": request.method, "path": request.path_qs, "request_headers": kept(request.headers)}
    seen |= {"request": "", "status": None, "response_headers": [], "response": "", "end": None}
    body = bytearray()
    try:
        seen["request"] = (await request.read()).hex()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        async with request.app["session"].request(
            request.method,
            upstream + request.path_qs,
            headers=headers,
            data=bytes.fromhex(seen["request"]) or None,
            allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        ) as answer:
            seen |= {"status": answer.status, "response_headers": kept(answer.headers)}
            response = Answer(status=answer.status)
            response.has_type = "Content-Type" in answer.headers
            for name, value in answer.headers.items():
                if name.lower() not in HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                body += chunk
                await response.write(chunk)
            await response.write_eof()
            seen["end"] = "end"
            return response
    except (asyncio.CancelledError, ConnectionResetError):
        seen["end"] = "client-disconnect"
        raise
    except Exception as error:
        seen["end"] = "upstream-error"
        if seen["status"] is not None:
            # The client must see that the body is cut, not an end.
            request.transport.abort()
        return web.Response(status=502, text=type(error).__name__)
    finally:
        seen["response"] = body.hex()
        out.write(json.dumps(seen) + "\n")


async def main():
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", handle)
    app["session"] = ClientSession(
        timeout=ClientTimeout(total=None), auto_decompress=False, connector=TCPConnector(limit=0)
    )
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
