"""A list of jobs, fetched page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta

from openfacility.jobs.v1 import jobs_service_pb2 as pb

from openfacility_client._async.transport import AsyncTransport
from openfacility_client._convert import from_proto
from openfacility_client._model import Job, JobPage


class AsyncJobPager(AsyncIterator[Job]):
    """The jobs of a list, page after page; each page is fetched when its first job is wanted."""

    def __init__(
        self, transport: AsyncTransport, request: pb.ListJobsRequest, timeout: timedelta | float | None
    ) -> None:
        """Fetch nothing yet."""
        self.revision: int | None = None
        """Revision that the list was read at, once the first page is there: a watch with `after_revision` continues
        from here without a gap."""
        self.observe_times: Mapping[str, datetime] = {}
        """When the jobs of each resource were last compared with what its engine says, by resource id, as of the page
        fetched last."""
        self._transport = transport
        self._request = request
        self._timeout = timeout
        self._jobs: list[Job] = []
        self._done = False

    def __aiter__(self) -> AsyncJobPager:
        """Return this very list."""
        return self

    async def __anext__(self) -> Job:
        """Return the next job."""
        while not self._jobs:
            page = await self._fetch()
            if page is None:
                raise StopAsyncIteration
            self._jobs = list(reversed(page.jobs))
        return self._jobs.pop()

    async def pages(self) -> AsyncIterator[JobPage]:
        """Go through the list page by page instead of job by job."""
        while (page := await self._fetch()) is not None:
            yield page

    async def _fetch(self) -> JobPage | None:
        if self._done:
            return None
        response = await self._transport.call("ListJobs", self._request, timeout=self._timeout)
        page = from_proto(JobPage, response)
        self._request.page_token = page.next_page_token
        self._done = not page.next_page_token
        if self.revision is None:
            self.revision = page.revision
        self.observe_times = page.observe_times
        return page
