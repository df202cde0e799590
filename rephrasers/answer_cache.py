"""datatrove's request cache, whose writes are awaited and whose failures end the run.

The stock one writes behind, logs what it could not write and goes on: an answer could be lost to a kill whose document
was already counted, and a full disk would go unnoticed until the same requests are paid for again.
"""

import asyncio
import sqlite3
from typing import Any

import orjson
from datatrove.pipeline.inference.checkpointing import RequestCache

from classifiers.errors import DataError

_INSERT = (
    "INSERT OR REPLACE INTO request_cache (chunk_index, doc_id, rollout_idx, payload_hash, result, error_message) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)


class AnswerCache(RequestCache):
    """Answers and final refusals in sqlite. What arrives while one transaction is committed goes into the next one
    together, so that disks with slow syncs do not slow down the asking."""

    async def initialize(self, rank: int) -> None:
        """Opens or creates the file. Raises DataError where it is there and cannot be read."""
        try:
            await super().initialize(rank)
        except sqlite3.Error as error:
            raise DataError(
                f"{self.db_path}: the answers that were kept cannot be read ({error}). If the disk is full, free space and "
                "run again; if the file is damaged, delete it: its answers are then asked for once more"
            ) from error

    async def store_result(
        self, chunk_index: int, doc_id: str, rollout_idx: int, result: dict[str, Any], *, payload_hash: str
    ) -> None:
        """Returns when the answer is in the file; raises DataError where it cannot be written."""
        await self._store((chunk_index, doc_id, rollout_idx, payload_hash, orjson.dumps(result), None))

    async def store_error(
        self, chunk_index: int, doc_id: str, rollout_idx: int, error_message: str, *, payload_hash: str
    ) -> None:
        """The same for a refusal that is final."""
        await self._store((chunk_index, doc_id, rollout_idx, payload_hash, None, error_message))

    async def _store(self, row: tuple[Any, ...]) -> None:
        assert self._queue is not None
        written = asyncio.get_running_loop().create_future()
        await self._queue.put((row, written))
        await written

    async def _writer_loop(self) -> None:
        """Until None comes (`close`): all that waits, in one transaction."""
        assert self._queue is not None
        more = True
        while more:
            items = [await self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get_nowait())
            more = None not in items
            waiting = [item for item in items if item is not None]
            error = await self._write([row for row, _ in waiting])
            for _, written in waiting:
                if written.done():  # its request was cancelled
                    continue
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(error)
            for _ in items:
                self._queue.task_done()

    async def _write(self, rows: list[tuple[Any, ...]]) -> DataError | None:
        assert self._conn is not None
        if not rows:
            return None
        try:
            await self._conn.executemany(_INSERT, rows)
            await self._conn.commit()
        except sqlite3.Error as error:
            return DataError(
                f"{self.db_path}: an answer cannot be written ({error}). If the disk or your quota is full, free space "
                "and run again: answers that were written are not asked for again"
            )
        return None
