"""The official SDK's client against an OAuth-protected server: registers, is authorized, calls a tool.

    oauth_client.py URL      prints one JSON object: {"resource", "result"} or {"error"}
"""

import asyncio
import json
import sys
import warnings
from urllib.parse import parse_qs, urlparse

import httpx2
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

warnings.simplefilter("ignore")
url, asked = sys.argv[1], {}


class Storage:
    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client_info):
        self.client = client_info


async def redirect(authorization_url):
    """The user's browser: follows to the redirect that bears the code."""
    asked["resource"] = parse_qs(urlparse(authorization_url).query).get("resource", [None])[0]
    async with httpx2.AsyncClient(follow_redirects=False) as browser:
        answer = await browser.get(authorization_url)
        asked["callback"] = {k: v[0] for k, v in parse_qs(urlparse(answer.headers["location"]).query).items()}


async def callback():
    given = asked["callback"]
    return AuthorizationCodeResult(code=given["code"], state=given.get("state"), iss=given.get("iss"))


def root(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def main():
    metadata = OAuthClientMetadata(
        client_name="audit test",
        redirect_uris=["http://localhost:3030/callback"],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
    )
    auth = OAuthClientProvider(url, metadata, Storage(), redirect, callback)
    async with httpx2.AsyncClient(auth=auth, timeout=60) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            result = await client.call_tool("read_secret", {"name": "door code"})
    print(json.dumps({"resource": asked.get("resource"), "result": result.content[0].text}))


try:
    asyncio.run(main())
except BaseException as error:
    print(json.dumps({"resource": asked.get("resource"), "error": f"{type(root(error)).__name__}: {root(error)}"}))
