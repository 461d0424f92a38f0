"""The strict check of JSON requests with a body, asked by Envoy before it transcodes them.

Envoy sends method, path, query and body of the request as it came; 200 lets it pass, anything else is the caller's
answer. The check needs no credentials and tells nothing but what the public contract says: who may call is decided
later, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from google.protobuf.descriptor import Descriptor
from starlette.requests import Request
from starlette.responses import Response

from openfacility_server.errors import InvalidArgument, Violation
from openfacility_server.http import query, replies, strict
from openfacility_server.http.bindings import Binding, Router
from openfacility_server.http.envoy_config import CHECK_PREFIX, MAX_BODY
from openfacility_server.http.replies import RefusedError

# Bigger bodies are parsed beside the event loop, which would stand still for milliseconds otherwise.
_BIG = 16 * 1024
_RAW = "google.api.HttpBody"


class Check:
    """Answers Envoy's question whether a request may go on."""

    def __init__(self, bindings: Sequence[Binding], max_body: int = MAX_BODY) -> None:
        self._router = Router(bindings)
        self._max_body = max_body
        self._targets = {binding: _target(binding) for binding in bindings if binding.body}

    async def __call__(self, request: Request) -> Response:
        """The endpoint below ``CHECK_PREFIX``."""
        try:
            await self._check(request)
        except RefusedError as refused:
            return replies.error_response(refused, replies.request_id(request))
        except strict.Malformed as malformed:
            # The reason of the first violation; each violation has its own.
            error = InvalidArgument(malformed.violations, reason=malformed.violations[0].reason)
            return replies.error_response(error, replies.request_id(request))
        return Response(status_code=200)

    async def _check(self, request: Request) -> None:
        path = request.scope["raw_path"].decode("latin-1").removeprefix(CHECK_PREFIX)
        found = self._router.find(request.method, path)
        if found is None:
            raise RefusedError(replies.plain(404))
        body = await self._read(request)
        if body and not found[0].body:
            raise RefusedError(
                replies.plain(400, "BODY_NOT_ALLOWED", "this method takes no body; use query parameters")
            )
        if body:
            _content_type(request)
        if len(body) > _BIG:
            await asyncio.to_thread(self._judge, *found, request.url.query, body)
        else:
            self._judge(*found, request.url.query, body)

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body:
                text = f"the body is larger than {self._max_body} bytes; send less at once"
                raise RefusedError(replies.plain(413, "BODY_TOO_LARGE", text), 413)
        return bytes(body)

    def _judge(self, binding: Binding, variables: dict[str, str], text: str, body: bytes) -> None:
        values = {path: query.unquote_path(path, raw) for path, raw in variables.items()}
        query.read(list(values.items()), binding.request())
        given = query.pairs(text)
        if binding.body == "*":
            if given:
                why = "belongs into the JSON body of this method; remove it from the query"
                raise strict.Malformed([Violation(name[:200], why, "UNKNOWN_FIELD") for name, _ in given][:50])
        else:
            taken = (binding.body, *binding.variables) if binding.body else binding.variables
            query.read(given, binding.request(), taken)
        target = self._targets.get(binding)
        if not body or target is None or target.full_name == _RAW:
            return
        prefix = "" if binding.body == "*" else binding.body
        value = strict.check_body(body, target, prefix)
        _agree(binding, values, value, target)


def _target(binding: Binding) -> Descriptor:
    """The message that the body of a binding is."""
    if binding.body == "*":
        return binding.input()
    field = binding.input().fields_by_name[binding.body]
    if field.message_type is None or field.is_repeated:
        raise TypeError(f"{binding.service}.{binding.method}: a body that is not one message cannot be checked")
    target: Descriptor = field.message_type
    return target


def _content_type(request: Request) -> None:
    media, *parameters = request.headers.get("content-type", "").split(";")
    charset = [p.strip().lower() for p in parameters if p.strip().lower().startswith("charset=")]
    if media.strip().lower() != "application/json" or charset not in ([], ["charset=utf-8"], ['charset="utf-8"']):
        text = "send the body as UTF-8 JSON with the header content-type: application/json"
        raise RefusedError(replies.plain(415, "UNSUPPORTED_MEDIA_TYPE", text), 415)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        text = "send the body without content-encoding"
        raise RefusedError(replies.plain(415, "UNSUPPORTED_MEDIA_TYPE", text), 415)


def _agree(binding: Binding, values: dict[str, str], body: object, target: Descriptor) -> None:
    """Refuses a body that names another resource than the path does."""
    for path, expected in values.items():
        inner = path if binding.body == "*" else path.removeprefix(f"{binding.body}.")
        if binding.body != "*" and inner == path:
            continue
        for given in strict.values_at(body, target, inner):
            if str(given) != expected:
                text = "differs from the one in the path; make them equal or leave it out of the body"
                raise strict.Malformed([Violation(path, text, "CONTRADICTION")])
