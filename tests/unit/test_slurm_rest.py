"""slurmrestd as it answers, and as it does not: what the real one of one version cannot be made to say."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openfacility_server.jobs.engines import EngineJob, EngineUnavailable, Refusal
from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.description import Description, describe
from openfacility_server.jobs.engines.slurm.errors import NotReachedError
from openfacility_server.jobs.engines.slurm.rest import Rest
from openfacility_server.jobs.engines.slurm.settings import RestSettings, SlurmSettings
from openfacility_server.jobs.engines.slurm.tokens import Tokens
from openfacility_server.jobs.model import JobAttributes, JobSpec, ResourceSpec

ACCOUNT = Account("ada", 4711, 4711, "/home/ada", "/bin/sh", (4711,))
Answer = tuple[int, str]


class Slurmrestd:
    """Answers as it is told to, over a unix socket; keeps what it is asked."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.versions = ["v0.0.38"]
        self.submit: Callable[[str], Answer] = lambda _: (200, '{"job_id": 7, "errors": []}')
        self.asked: list[tuple[str, dict[str, str], Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.decode().strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            path = first.split()[1]
            self.asked.append((path, headers, json.loads(body) if body else None))
            code, text = self.answer(path)
            if code == 0:  # the connection breaks off
                break
            answer = f"HTTP/1.1 {code} X\r\nContent-Length: {len(text.encode())}\r\n\r\n{text}"
            writer.write(answer.encode())
        writer.close()

    def answer(self, path: str) -> Answer:
        if path == "/openapi/v3":
            paths = {rf"\/slurm\/{version}\/job\/submit": {} for version in self.versions}
            return 200, json.dumps({"paths": paths}).replace(r"\\", "\\")
        version = path.split("/")[2]
        return self.submit(version) if version in self.versions else (404, "Unable find requested URL.")


@pytest.fixture
async def slurmrestd(tmp_path: Path) -> AsyncIterator[Slurmrestd]:
    daemon = Slurmrestd(tmp_path / "socket")
    server = await asyncio.start_unix_server(daemon.serve, daemon.socket)
    yield daemon
    server.close()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    return path


@pytest.fixture
async def rest(slurmrestd: Slurmrestd, key: Path) -> AsyncIterator[Rest]:
    settings = RestSettings(key, unix_socket=slurmrestd.socket)
    service = Rest(SlurmSettings("machine", timeout=timedelta(seconds=1)), settings, Tokens(key))
    yield service
    await service.close()


def description(**values: Any) -> Description:
    spec = JobSpec(executable="x", **values)
    return describe(EngineJob("j1", spec, "ada", datetime.now(UTC)), ACCOUNT, SlurmSettings("machine"))


async def test_the_newest_version_that_both_know(slurmrestd: Slurmrestd, rest: Rest) -> None:
    slurmrestd.versions = ["v0.0.38", "v0.0.40", "v0.0.39", "v0.0.41", "v0.0.99"]
    attributes = JobAttributes(timedelta(minutes=3))
    job = description(resources=ResourceSpec(memory=1 << 30), attributes=attributes, hold=True)
    assert await rest.submit("ada", job) == "7"
    path, _, body = slurmrestd.asked[-1]
    assert path == "/slurm/v0.0.41/job/submit"
    assert body["job"]["script"] == job.script
    assert body["job"]["environment"] == ["PATH=/usr/local/bin:/usr/bin:/bin"]
    assert body["job"]["time_limit"] == {"set": True, "infinite": False, "number": 3}
    assert body["job"]["memory_per_node"] == {"set": True, "infinite": False, "number": 1024}
    assert body["job"]["hold"] is True
    assert rest.version == "v0.0.41"


async def test_another_version_after_a_change_of_slurm(slurmrestd: Slurmrestd, rest: Rest) -> None:
    assert await rest.submit("ada", description()) == "7"
    path, _, body = slurmrestd.asked[-1]
    assert path == "/slurm/v0.0.38/job/submit"
    assert set(body) == {"script", "job"}
    assert body["job"]["environment"] == {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    slurmrestd.versions = ["v0.0.42"]
    assert await rest.submit("ada", description()) == "7"
    assert slurmrestd.asked[-1][0] == "/slurm/v0.0.42/job/submit"


async def test_no_version_in_common(slurmrestd: Slurmrestd, rest: Rest) -> None:
    slurmrestd.versions = ["v0.0.35", "v0.0.99"]
    with pytest.raises(EngineUnavailable, match="no version"):
        await rest.submit("ada", description())


async def test_tokens(slurmrestd: Slurmrestd, rest: Rest, key: Path) -> None:
    """One for each user, signed with the key as it is now."""

    async def sent(user: str) -> str:
        await rest.submit(user, description())
        _, headers, _ = slurmrestd.asked[-1]
        assert headers["x-slurm-user-name"] == user
        assert _claims(headers["x-slurm-user-token"], key)["sun"] == user
        return headers["x-slurm-user-token"]

    first = await sent("ada")
    assert await sent("bob") != first
    assert await sent("ada") == first
    _replace(key)
    again = await sent("ada")
    assert again != first
    claims = _claims(again, key)
    assert 60 < claims["exp"] - claims["iat"] <= 3600
    _remove(key)
    with pytest.raises(EngineUnavailable, match="cannot read the key"):
        await rest.submit("ada", description())


def _replace(key: Path) -> None:
    key.with_suffix(".new").write_bytes(os.urandom(32))
    key.with_suffix(".new").rename(key)


def _remove(key: Path) -> None:
    key.unlink()


def _claims(token: str, key: Path) -> dict[str, Any]:
    head, body, signature = token.split(".")
    expected = hmac.new(key.read_bytes(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == expected
    return dict(json.loads(base64.urlsafe_b64decode(body + "==")))


def errors(*items: tuple[int, str]) -> str:
    return json.dumps({"errors": [{"error_number": number, "error": text} for number, text in items]})


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (500, errors((2000, "Invalid partition name specified")), "BAD_QUEUE"),
        (500, errors((2045, "Invalid account or account/partition combination specified")), "BAD_ACCOUNT"),
        (400, errors((-1, "Unspecified error"), (9001, "Failure during parsing")), "BAD_ATTRIBUTE"),
        (500, errors((2999, "Never heard of")), "REFUSED"),
    ],
)
async def test_refusals(slurmrestd: Slurmrestd, rest: Rest, code: int, text: str, reason: str) -> None:
    slurmrestd.submit = lambda _: (code, text)
    refusal = await rest.submit("ada", description())
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason


async def test_held_as_asked(slurmrestd: Slurmrestd, rest: Rest) -> None:
    answer = {"job_id": 9, "errors": [{"error_number": 2042, "error": "Job is in held state"}]}
    slurmrestd.submit = lambda _: (200, json.dumps(answer))
    assert await rest.submit("ada", description(hold=True)) == "9"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (500, errors((1800, "Unable to contact slurm controller (connect failure)"))),
        (500, errors((-1, "Unspecified error"))),  # a token that is not accepted
        (401, "Authentication failure"),
        (500, "{}"),
        (200, "{}"),
        (200, "[]"),
        (502, "<html>"),
        (0, ""),
    ],
)
async def test_what_is_no_answer_about_the_job(slurmrestd: Slurmrestd, rest: Rest, code: int, text: str) -> None:
    slurmrestd.submit = lambda _: (code, text)
    with pytest.raises(EngineUnavailable):
        await rest.submit("ada", description())


async def test_silence(slurmrestd: Slurmrestd, rest: Rest) -> None:
    await rest.submit("ada", description())
    silent = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    await rest.close()
    slurmrestd.socket.unlink()
    async with await asyncio.start_unix_server(say_nothing, slurmrestd.socket):
        with pytest.raises(EngineUnavailable, match="within 1 s") as missed:
            await rest.submit("ada", description())
        silent.set()
    assert not isinstance(missed.value, NotReachedError)


async def test_nobody_there(slurmrestd: Slurmrestd, rest: Rest) -> None:
    slurmrestd.socket.unlink()
    with pytest.raises(NotReachedError):
        await rest.submit("ada", description())
