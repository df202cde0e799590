"""A server of ours that ended while it was in use is started again, a bounded number of times."""

import asyncio

from loguru import logger

from classifiers.errors import ModelError
from rephrasers.servers.open_servers import Serving, warm_up
from rephrasers.servers.process import ServerProcess
from rephrasers.servers.settings import ServerSettings

_POLL_SECONDS = 0.25


class Restarts:
    """The restarts that one pass over a shard's documents may make. `made`: how many it made.

    A server that did not come up once more is not tried again, by this pass or by the ones that follow it.
    """

    def __init__(self, settings: ServerSettings, server: Serving):
        self.settings, self.server = settings, server
        self.made = 0
        self._lock = asyncio.Lock()
        self._failure: ModelError | None = None

    async def revive(self) -> None:
        """Returns when the server's process runs and answers; at once for an endpoint, which others run.

        Raises ModelError, with the end of the server's log, where it has ended more often than `max_restarts` allows or
        does not come up. Call it from the thread that started the server: the kernel ends a server with that thread.
        """
        process = self.server.process
        if process is None or not (process.has_ended() or self._lock.locked()):
            return
        async with self._lock:
            if self._failure is not None:  # all requests that waited tell the same
                raise self._failure
            try:
                if process.has_ended():
                    await self._restart(process)
            except ModelError as error:
                self._failure = error
                raise

    async def _restart(self, process: ServerProcess) -> None:
        what = f"ended with status {process.exit_status()} while it was in use"
        if not process.came_up:
            raise process.failure(f"{what}, and did not come up again")
        if self.made >= self.settings.max_restarts:
            raise process.failure(f"{what}; it was started again {self.made} times in this shard (max_restarts)")
        self.made += 1
        logger.warning(f"the {process.name} server {what}; restart {self.made} of {self.settings.max_restarts}")
        process.start_again()
        try:
            await self._wait_until_healthy(process, what)
            await asyncio.to_thread(warm_up, self.settings, self.server, process)
        except ModelError:
            process.stop()  # half started, it must not look as if it answered
            raise
        process.came_up = True

    async def _wait_until_healthy(self, process: ServerProcess, what: str) -> None:
        """`ServerProcess.wait_until_healthy` beside the requests that wait for it."""
        limit, clock = self.settings.start_timeout_seconds, asyncio.get_running_loop().time
        deadline = clock() + limit
        while not await asyncio.to_thread(process.is_healthy):
            if process.has_ended():
                raise process.failure(f"{what}, and with status {process.exit_status()} when it was started again")
            if clock() > deadline:
                raise process.failure(f"{what}, and was not ready {limit:.0f} s after it was started again")
            await asyncio.sleep(_POLL_SECONDS)
