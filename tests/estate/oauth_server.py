"""An MCP server that asks for OAuth tokens, and the authorization server that issues them, on the official SDK.

    oauth_server.py HOST PORT PUBLIC_ORIGIN strict|lax

PUBLIC_ORIGIN is how it calls itself (resource and issuer). Tokens are bound to the `resource` that was asked for (RFC
8707); strict accepts only those for itself. Everybody is granted everything.
"""

import secrets
import sys
import time

from mcp.server.auth.provider import AccessToken, AuthorizationCode, construct_redirect_uri
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthToken

host, port, origin, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]


class Provider:
    def __init__(self):
        self.clients, self.codes, self.tokens = {}, {}, {}

    async def get_client(self, client_id):
        return self.clients.get(client_id)

    async def register_client(self, client_info):
        self.clients[client_info.client_id] = client_info

    async def authorize(self, client, params):
        code = "code-" + secrets.token_hex(20)
        self.codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
            subject="ada",
        )
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=params.state, iss=origin)

    async def load_authorization_code(self, client, authorization_code):
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(self, client, authorization_code):
        del self.codes[authorization_code.code]
        token = "opaque-" + secrets.token_hex(20)
        self.tokens[token] = AccessToken(
            token=token, client_id=client.client_id, scopes=[], resource=authorization_code.resource, subject="ada"
        )
        return OAuthToken(access_token=token, token_type="Bearer", expires_in=3600)

    async def load_access_token(self, token):
        return self.tokens.get(token)


mcp = MCPServer(
    "vault",
    version="1.0.0",
    auth_server_provider=Provider(),
    auth=AuthSettings(
        issuer_url=origin,
        resource_server_url=origin + "/mcp",
        validate_token_resource=mode == "strict",
        client_registration_options=ClientRegistrationOptions(enabled=True),
    ),
)


@mcp.tool()
async def read_secret(name: str) -> str:
    """Read a secret of the vault."""
    return f"{name} is safe"


mcp.run("streamable-http", host=host, port=port)
