"""Submitting by slurmrestd, over a unix socket or TCP, with a token of the user."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from openfacility_server.jobs.engines import EngineUnavailable, Refusal
from openfacility_server.jobs.engines.slurm import options
from openfacility_server.jobs.engines.slurm.description import Description
from openfacility_server.jobs.engines.slurm.errors import NotReachedError, away, field_of, refusal_of
from openfacility_server.jobs.engines.slurm.options import Dialect
from openfacility_server.jobs.engines.slurm.script import JOB_PATH
from openfacility_server.jobs.engines.slurm.settings import RestSettings, SlurmSettings
from openfacility_server.jobs.engines.slurm.tokens import Tokens

# Newest first. Only v0.0.38 (Slurm 22.05) was tried against a daemon; the others follow their own descriptions.
VERSIONS: Mapping[str, Dialect] = {
    "v0.0.43": Dialect.NEW,
    "v0.0.42": Dialect.NEW,
    "v0.0.41": Dialect.NEW,
    "v0.0.40": Dialect.NEW,
    "v0.0.38": Dialect.OLD,
}
_CONNECTIONS = 8
_OFFERED = re.compile(r"\\?/slurm\\?/(v\d+\.\d+\.\d+)\\?/job\\?/submit")
# Numbers of what is no answer about the job: an unspecified error is what a token that is not accepted gives.
_UNSPECIFIED = -1
_CONTROLLER = range(1800, 1900)
_KEY = re.compile(r'process key "(\w+)"')
_HELD = 2042  # said of a job that was submitted on hold, as was asked


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    document: dict[str, Any]

    @property
    def errors(self) -> list[tuple[int, str]]:
        """What is wrong: number and words."""
        found = self.document.get("errors")
        items = found if isinstance(found, list) else []
        return [_error(item) for item in items if isinstance(item, dict)]


class Rest:
    """One slurmrestd. For one event loop."""

    def __init__(self, settings: SlurmSettings, rest: RestSettings, tokens: Tokens) -> None:
        """Nothing is sent yet."""
        self._rest, self._tokens = rest, tokens
        self._timeout = settings.timeout.total_seconds()
        self._version = ""
        self._client: httpx.AsyncClient | None = None
        self._negotiating = asyncio.Lock()

    @property
    def version(self) -> str:
        """The version of the interface in use; empty before the first request."""
        return self._version

    async def close(self) -> None:
        """Closes all connections."""
        client, self._client = self._client, None
        self._version = ""
        if client is not None:
            await client.aclose()

    async def submit(self, user: str, description: Description) -> str | Refusal:
        """Submits a job as an account; returns its number. Raises EngineUnavailable: then it may have been taken."""
        answer = await self._submit(user, description)
        if not isinstance(answer, Refusal) and answer.status == httpx.codes.NOT_FOUND:
            self._version = ""  # slurmrestd was replaced by one with other versions
            answer = await self._submit(user, description)
        if isinstance(answer, Refusal):
            return answer
        number = answer.document.get("job_id")
        if isinstance(number, int) and number > 0:
            return str(number)
        return _refused(answer, description.options)

    async def _submit(self, user: str, description: Description) -> _Answer | Refusal:
        version = await self._negotiated(user)
        dialect = VERSIONS[version]
        job = options.body(description.options, dialect)
        if isinstance(job, str):
            text = f"This cluster's REST service has no words for {job}: remove it."
            return Refusal(text, "BAD_ATTRIBUTE", f'attributes.custom_attributes["slurm.{job}"]')
        # Its least: the script sets the job's own.
        if dialect is Dialect.OLD:
            content = {"script": description.script, "job": {**job, "environment": {"PATH": JOB_PATH}}}
        else:
            content = {"job": {**job, "environment": [f"PATH={JOB_PATH}"], "script": description.script}}
        return await self._call("POST", f"/slurm/{version}/job/submit", user, content)

    async def _negotiated(self, user: str) -> str:
        async with self._negotiating:
            if not self._version:
                offered = set(_OFFERED.findall(await self._text("GET", "/openapi/v3", user)))
                common = [version for version in VERSIONS if version in offered]
                if not common:
                    raise EngineUnavailable("The batch system's REST service has no version that this server knows.")
                self._version = common[0]
            return self._version

    async def _call(self, method: str, path: str, user: str, content: object = None) -> _Answer:
        response = await self._request(method, path, user, content)
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise EngineUnavailable("The batch system's REST service does not accept this server's token.")
        try:
            document = response.json()
        except ValueError:
            document = None
        if isinstance(document, dict):
            return _Answer(response.status_code, document)
        if response.status_code == httpx.codes.NOT_FOUND:
            return _Answer(response.status_code, {})
        raise EngineUnavailable("The batch system's REST service answers in a way that cannot be understood.")

    async def _text(self, method: str, path: str, user: str) -> str:
        response = await self._request(method, path, user, None)
        if response.status_code != httpx.codes.OK:
            raise EngineUnavailable("The batch system's REST service does not say which versions it has.")
        return response.text

    async def _request(self, method: str, path: str, user: str, content: object) -> httpx.Response:
        headers = {"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": await self._tokens.token(user)}
        if content is not None:
            headers["Content-Type"] = "application/json"
        body = None if content is None else json.dumps(content).encode()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._connections().request(method, path, headers=headers, content=body)
        except (TimeoutError, httpx.TimeoutException):
            text = f"The batch system's REST service did not answer within {self._timeout:g} s."
            raise EngineUnavailable(text) from None
        except httpx.ConnectError as error:
            raise NotReachedError("The batch system's REST service does not answer.") from error
        except (httpx.HTTPError, OSError) as error:
            raise EngineUnavailable("The batch system's REST service does not answer.") from error

    def _connections(self) -> httpx.AsyncClient:
        if self._client is None:
            socket = self._rest.unix_socket
            transport = httpx.AsyncHTTPTransport(
                uds=None if socket is None else str(socket),
                limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            )
            self._client = httpx.AsyncClient(
                transport=transport,
                base_url=self._rest.url or "http://localhost",
                # Waiting for a free connection is not the service's fault: time is kept by the request as a whole.
                timeout=httpx.Timeout(self._timeout, pool=None),
                trust_env=False,
            )
        return self._client


def _error(item: dict[str, Any]) -> tuple[int, str]:
    number = item.get("error_number", item.get("error_code"))
    words = [item.get("error"), item.get("description")]
    text = "; ".join(str(word) for word in words if word)
    return (number if isinstance(number, int) else 0), text


def _refused(answer: _Answer, given: Mapping[str, options.Value]) -> Refusal:
    """Returns the refusal in an answer without a job. Raises EngineUnavailable when it is none."""
    errors = [(number, text) for number, text in answer.errors if number != _HELD]
    words = "\n".join(text for _, text in errors)
    numbers = {number for number, _ in errors}
    if error := away(words):
        raise error
    if any(number in _CONTROLLER for number in numbers):
        raise EngineUnavailable("The batch system's controller does not answer.")
    # An unspecified error in an answer that does not find fault with the request.
    if not errors or (numbers == {_UNSPECIFIED} and answer.status != httpx.codes.BAD_REQUEST):
        raise EngineUnavailable("The batch system's REST service does not do what it is asked, and does not say why.")
    if answer.status == httpx.codes.BAD_REQUEST:
        return _misread(words, given)
    return refusal_of(words, given)


def _misread(words: str, given: Mapping[str, options.Value]) -> Refusal:
    """Returns the refusal for a request in which a value is not one that slurmrestd can read.

    It names the key, but for generic resources that the cluster does not have.
    """
    key = _KEY.search(words)
    refusal = refusal_of(words, given)
    if key is None:
        generic = [name for name in given if name.startswith(("gres", "gpus", "cpus-per-gpu", "mem-per-gpu"))]
        return replace(refusal_of("Invalid gres", given), engine_message=refusal.engine_message) if generic else refusal
    named = [name for name, value in given.items() if key[1] in (options.fields(name, value, Dialect.OLD) or {})]
    at = field_of(named[0]) if named else ""
    reason = "BAD_ATTRIBUTE" if refusal.reason == "REFUSED" else refusal.reason
    return replace(refusal, reason=reason, field=at)
