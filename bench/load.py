"""Unary load on a gRPC server, and the check that the answers are right.

`h2load` (Debian: nghttp2-client) makes it. It does not see grpc-status: a call of a real client is checked first, and
then the bytes of all answers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import grpc

from bench.processes import LOAD_CORE, Process
from bench.results import Sample

CONNECTIONS, STREAMS = 4, 8
H2LOAD = shutil.which("h2load")


def call(process: Process, method: str, request: bytes, token: str, timeout: float = 30) -> bytes:
    """Makes one call with a real client; returns the answer's bytes. Raises grpc.RpcError."""
    with grpc.insecure_channel(process.address) as channel:
        answer = channel.unary_unary(method)(request, metadata=(("authorization", f"Bearer {token}"),), timeout=timeout)
        return bytes(answer)


class Unary:
    """One request, repeated for some seconds, as a rule over 4 connections of 8 streams.

    With ``exact`` every answer must have the length of the first one; else, half of it (ids, times and lists differ).
    """

    def __init__(
        self,
        process: Process,
        directory: Path,
        method: str,
        request: bytes,
        token: str,
        seconds: int = 2,
        *,
        exact: bool = True,
        connections: int = CONNECTIONS,
        streams: int = STREAMS,
    ) -> None:
        self.done = 0
        self._streams = (f"-c{connections}", f"-m{streams}")
        self._process = process
        self._method = method
        self._token = token
        self._seconds = seconds
        self._body = directory / f"{process.name}{method.replace('/', '-')}.body"
        self._body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
        self._log = self._body.with_suffix(".times")
        # A real client's call: what is not OK raises. An error's answer has no bytes.
        self._answer = (len(call(process, method, request, token)) + 5) * (1.0 if exact else 0.5)

    def __call__(self) -> Sample:
        self._log.unlink(missing_ok=True)
        before = self._process.cpu()
        output = subprocess.run(self._command(), capture_output=True, text=True, check=True).stdout
        cpu = self._process.cpu() - before
        return self._read(output, cpu)

    def _command(self) -> Sequence[str]:
        if H2LOAD is None:
            raise SystemExit("the benchmarks need h2load: apt-get install nghttp2-client")
        return [
            *("taskset", "-c", str(LOAD_CORE), H2LOAD),
            *(f"--log-file={self._log}", f"-D{self._seconds}", *self._streams, f"-d{self._body}"),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            *("-H", f"authorization: Bearer {self._token}"),
            f"http://{self._process.address}{self._method}",
        ]

    def _read(self, output: str, cpu: float) -> Sample:
        counts = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed", output)
        data = re.search(r"traffic: .* \((\d+)\) data", output)
        rate = re.search(r", ([\d.]+) req/s", output)
        if counts is None or data is None or rate is None:
            raise RuntimeError(f"h2load said what is not understood:\n{output}")
        self.done, succeeded, failed = map(int, counts.groups())
        if failed or succeeded < self.done or int(data[1]) < self.done * self._answer * 0.99:
            raise RuntimeError(f"wrong answers from {self._process.name}:\n{output}")
        times = sorted(int(line.split("\t")[2]) for line in self._log.read_text().splitlines())
        p50, p99 = (times[(len(times) - 1) * percent // 100] / 1000 for percent in (50, 99))
        return Sample(float(rate[1]), cpu / self.done * 1e6, p50, p99)
