"""A pool of worker processes made by fork, that of the standard library, with a queue, a lock and a
shared counter beside it. No MPI.

usage: pool.py ROUNDS PAUSE [WORKERS]    (milliseconds a task takes)
"""

import hashlib
import multiprocessing
import os
import sys
import time


def hold():
    """See common.h."""
    go = os.environ.get("MANA_TEST_GO")
    while go and not os.path.exists(go):
        time.sleep(0.02)


def work(task):
    number, pause = task
    if pause:
        time.sleep(pause / 1000)
    digest = hashlib.sha256(str(number).encode())
    for _ in range(2000):
        digest = hashlib.sha256(digest.digest())
    return number, digest.hexdigest()


def count(lock, counter, queue, turns, pause):
    for turn in range(turns):
        if turn == turns - 1:
            hold()
        with lock:
            counter.value += turn
        if pause:
            time.sleep(pause / 1000)
        queue.put(turn)
    queue.put(None)


def main():
    rounds, pause = int(sys.argv[1]), float(sys.argv[2])
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    context = multiprocessing.get_context("fork")
    lock, counter, queue = context.Lock(), context.Value("q", 0, lock=False), context.Queue()
    counters = [
        context.Process(target=count, args=(lock, counter, queue, 3 * rounds, pause)) for _ in range(2)
    ]
    for process in counters:
        process.start()
    total = hashlib.sha256()
    with context.Pool(workers) as pool:
        for start in range(rounds):
            tasks = [(start * 10 + i, pause) for i in range(6)]
            for number, text in pool.imap(work, tasks):
                total.update(f"{number} {text}".encode())
            assert pool.apply(os.getpid) != os.getpid()
        hold()
        pool.close()
        pool.join()
    ended, turns = 0, 0
    while ended < 2:
        got = queue.get()
        if got is None:
            ended += 1
        else:
            turns += got
    for process in counters:
        process.join()
    codes = [process.exitcode for process in counters]
    print("RESULT", total.hexdigest()[:24], counter.value, turns, codes)


if __name__ == "__main__":
    main()
