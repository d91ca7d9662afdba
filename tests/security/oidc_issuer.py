"""An issuer of our own for the tests of the OIDC policy: its keys, its tokens, its key endpoint."""

from __future__ import annotations

import base64
import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from testorch_core.interfaces.transport import Handshake
from testorch_plugins.security.oidc_auth.options import OidcOptions
from testorch_plugins.security.oidc_auth.plugin import OidcAuth

NOW = 1_900_000_000.0
"""The wall clock of these tests."""

ISSUER = "https://token.actions.githubusercontent.com"
CLAIMS: Mapping[str, Any] = {
    "iss": ISSUER,
    "aud": "testorch",
    "sub": "repo:acme/web:ref:refs/heads/main",
    "jti": "4a576b35-ff09-41c5-af2c-ca62dd89b76a",
    "iat": int(NOW) - 10,
    "nbf": int(NOW) - 310,
    "exp": int(NOW) + 290,
    "repository": "acme/web",
    "repository_owner": "acme",
    "repository_owner_id": "65",
    "ref": "refs/heads/main",
    "event_name": "push",
}
"""As GitHub writes them."""

RULE = {"claims": {"repository": "acme/*", "ref": "refs/heads/*"}, "projects": ["{repository}"]}
GIVEN: Mapping[str, Any] = {
    "issuer": ISSUER,
    "audience": "testorch",
    "jwks_file": "keys.json",
    "name": "github:{repository}",
    "rules": [RULE],
}
"""The options that the tests begin with, as the configuration has them."""


@functools.cache
def rsa_key(bits: int = 2048, number: int = 1) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@functools.cache
def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


def jwk_of(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """The public key as a JWK."""
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    known = {} if kid is None else {"kid": kid}
    return {**kind.to_jwk(key.public_key(), as_dict=True), "use": "sig", **known, **more}


def jwks(**keys: Any) -> bytes:
    """A JWKS document; by default the issuer's, with one RSA and one EC key."""
    found = keys or {"rsa": rsa_key(), "ec": ec_key()}
    return json.dumps({"keys": [jwk_of(key, kid) for kid, key in found.items()]}).encode()


def token(
    claims: Mapping[str, Any] | None = None,
    *,
    kid: str | None = "rsa",
    key: Any = None,
    alg: str = "RS256",
    **header: Any,
) -> str:
    """A token that the issuer has signed; `claims` beside and over `CLAIMS`, without those that are None."""
    found = {name: value for name, value in {**CLAIMS, **(claims or {})}.items() if value is not None}
    headers = header if kid is None else {"kid": kid, **header}
    return jwt.encode(found, key or (ec_key() if alg.startswith("ES") else rsa_key()), algorithm=alg, headers=headers)


def signed(header: bytes, payload: bytes, key: Any = None) -> str:
    """A token of any bytes, signed with RS256."""
    text = f"{encoded(header)}.{encoded(payload)}"
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(text.encode(), key or rsa_key())
    return f"{text}.{encoded(signature)}"


def encoded(part: bytes | Mapping[str, Any]) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def policy(folder: Path, **given: Any) -> OidcAuth:
    """The policy, at `NOW`, its keys in `keys.json` of the folder."""
    (folder / "keys.json").write_bytes(jwks())
    options = {name: value for name, value in {**GIVEN, **given}.items() if value is not None}
    made = OidcAuth("github", OidcOptions.load(options, folder=folder))
    made.wall_clock = lambda: NOW
    return made


def bearing(text: str | None) -> Handshake:
    return Handshake(address="192.0.2.7", transport="fake", token=text)


class Endpoint(BaseHTTPRequestHandler):
    """Answers with what the test's `answer` does."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answer(self)

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


def says(body: bytes, status: int = 200, **headers: str) -> Callable[[Endpoint], None]:
    """An answer with this body; headers with `_` for `-`."""

    def answer(request: Endpoint) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@contextmanager
def endpoint(answer: Callable[[Endpoint], None]) -> Iterator[Any]:
    """A server on this machine: `url`, `asked` (the paths) and `answer`, which may be changed."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads, server.block_on_close = True, False
    server.answer, server.asked = answer, []
    server.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
