"""Work on both sides of a slow consumer: results made ahead of it, in order, and jobs done behind it; both bounded."""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

MOST_READY = 64  # results that wait, however small


class Ahead:
    """Iterates over the results of `work` on each item, in order, worked out by threads before they are asked for.

    No thread takes another item while results that weigh more than `limit` wait: at most `limit` and one result of
    each thread are held. What `work` raises is raised when its item's turn comes.

    Args:
        items: a list.
        work: `item -> result`, for several threads at once.
        weigh: `result -> bytes`.
        threads: how many.
        limit: bytes.
    """

    def __init__(self, items, work, weigh, threads=2, limit=64e6):
        self._items, self._work, self._weigh, self._limit = items, work, weigh, limit
        self._condition, self._ready = threading.Condition(), {}
        self._taken, self._held, self._over = 0, 0, False
        count = max(1, min(threads, len(items)))
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def __iter__(self):
        for index in range(len(self._items)):
            with self._condition:
                self._condition.wait_for(lambda wanted=index: wanted in self._ready)
                result, raised, weight = self._ready.pop(index)
                self._held -= weight
                self._condition.notify_all()
            if raised:
                raise raised
            yield result
            del result

    def close(self):
        """Ends the threads, after the items that they are at."""
        with self._condition:
            self._over = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self):
        while True:
            with self._condition:
                self._condition.wait_for(self._may_take)
                if self._over or self._taken == len(self._items):
                    return
                index = self._taken
                self._taken += 1
            try:
                result = self._work(self._items[index])
                done = result, None, self._weigh(result)
                del result
            except BaseException as error:  # the consumer would wait for ever otherwise
                done = None, error, 0
            with self._condition:
                self._ready[index] = done
                self._held += done[2]
                self._condition.notify_all()
            del done

    def _may_take(self):
        return self._over or (self._held <= self._limit and len(self._ready) < MOST_READY)


class Behind:
    """Does jobs in threads; `add` waits while unfinished jobs weigh more than `limit`.

    Args:
        threads: how many.
        limit: bytes.
    """

    def __init__(self, threads=2, limit=64e6):
        self._pool, self._limit = ThreadPoolExecutor(threads), limit
        self._jobs, self._held = deque(), 0.0

    def add(self, job, weight):
        """Starts a job, `() -> None`; one that raises stops the next `add` or `finish` with what it raised."""
        while self._jobs and self._held + weight > self._limit:
            self._wait()
        self._jobs.append((self._pool.submit(job), weight))
        self._held += weight

    def finish(self):
        """Waits for all jobs."""
        while self._jobs:
            self._wait()

    def close(self):
        """Ends the threads; jobs that have not begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _wait(self):
        job, weight = self._jobs.popleft()
        self._held -= weight
        job.result()
