"""What a client may ask of runs, results, history and statistics: filters checked against what it may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testorch_core.access import Access
from testorch_core.errors import refuse
from testorch_core.interfaces.storage import ResultFilter, RunFilter
from testorch_core.orchestrator import DEFAULT_WINDOW, Orchestrator
from testorch_core.protocol import DEFAULT_PAGE
from testorch_core.results import Result
from testorch_core.runs import RunStatus


class Queries:
    """One client's questions. All raise `RefusedError`, and `CloseConversation` when the client must go."""

    def __init__(self, orchestrator: Orchestrator, access: Access) -> None:
        self._orchestrator = orchestrator
        self._access = access

    async def active_runs(self, request: Mapping[str, Any]) -> list[RunStatus]:
        """The open runs of the named project, else of every project that this client may see."""
        project = request.get("project")
        await self._access.admit("getActiveRuns", self._access.addressing.project_of(request))
        found = await self._orchestrator.active_runs(project)
        open_to = {one: self._access.allows("getActiveRuns", one) for one in {run.project for run in found}}
        return [one for one in found if open_to[one.project]]

    async def run_status(self, request: Mapping[str, Any]) -> RunStatus:
        """One run."""
        project, run_id = self._access.addressing.run_of(request)
        await self._access.admit("getRunStatus", project, run_id=run_id)
        return await self._orchestrator.query_run(project, run_id)

    async def runs(self, request: Mapping[str, Any]) -> tuple[list[RunStatus], str | None]:
        """A page of runs, and the cursor of the next: of the named project, else of all that this client may see."""
        project = await self._one_or_all("getRuns", request)
        where = RunFilter(
            project=project, status=request.get("status"), key=request.get("key"), prefix=request.get("prefix")
        )  # fmt: skip
        page = await self._orchestrator.runs(where, **_page_of(request))
        return [row.run_status() for row in page.rows], page.next

    async def results(self, request: Mapping[str, Any]) -> tuple[list[Result], str | None]:
        """A page of a run's results, and the cursor of the next."""
        project, run_id = self._access.addressing.run_of(request)
        await self._access.admit("getResults", project, run_id=run_id)
        where = ResultFilter(
            final_only=request.get("finalOnly", False), status=request.get("status"), outcome=request.get("outcome")
        )
        page = await self._orchestrator.results(project, run_id, where, **_page_of(request))
        return [Result.from_row(project, row) for row in page.rows], page.next

    async def history(self, request: Mapping[str, Any]) -> tuple[list[Result], str | None]:
        """A page of one test's results in a project's runs, and the cursor of the next."""
        project = self._access.addressing.project_of(request)
        await self._access.admit("getHistory", project)
        page = await self._orchestrator.history(project, request["testId"], **_page_of(request))
        return [Result.from_row(project, row) for row in page.rows], page.next

    async def observed(self, request: Mapping[str, Any]) -> tuple[str, str | None]:
        """(project, run id or None) that a subscription is about, if this client may see it."""
        project, run_id = self._access.addressing.project_of(request), request.get("runId")
        await self._access.admit("subscribe", project, run_id=run_id)
        return project, run_id

    async def statistics(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Statistics of the named project, else of all that this client may see as one."""
        project = await self._one_or_all("getStatistics", request)
        return await self._orchestrator.statistics(project, window=request.get("window", DEFAULT_WINDOW))

    async def _one_or_all(self, action: str, request: Mapping[str, Any]) -> str | None:
        """The project that is asked about; None for all, where the client may look into all of them.

        Raises `RefusedError` (`invalid_message`) where it may look into some, and names none.
        """
        home = self._access.addressing.project_of(request)
        await self._access.admit(action, home)
        if request.get("project") is not None or self._access.is_bound:
            return home
        closed = [one for one in self._orchestrator.projects() if not self._access.allows(action, one)]
        if closed:
            raise refuse("invalid_message", "`project` is required: not every project is open to you")
        return None


def _page_of(request: Mapping[str, Any]) -> dict[str, Any]:
    return {"limit": request.get("limit", DEFAULT_PAGE), "cursor": request.get("cursor")}
