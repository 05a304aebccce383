"""A training loop of scikit-learn whose workers are joblib's: loky executes them anew, or
multiprocessing forks them. No MPI.

usage: forest.py BACKEND ROUNDS PAUSE    (milliseconds a task takes)
"""

import hashlib
import os
import sys
import time

import joblib
import numpy
from sklearn.ensemble import RandomForestRegressor


def grow(seed, data, target, pause):
    if pause:
        time.sleep(pause / 1000)
    model = RandomForestRegressor(n_estimators=4, max_depth=6, random_state=seed)
    model.fit(data, target)
    return model.predict(data)


def main():
    backend, rounds, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    generator = numpy.random.default_rng(7)
    data = generator.random((300, 5))
    target = data @ numpy.arange(1.0, 6.0) + numpy.sin(9 * data[:, 0])
    total = hashlib.sha256()
    with joblib.Parallel(n_jobs=2, backend=backend) as parallel:
        for start in range(rounds):
            seeds = range(start * 4, start * 4 + 4)
            results = parallel(joblib.delayed(grow)(seed, data, target, pause) for seed in seeds)
            target = target + 0.01 * numpy.mean(results, axis=0)
            total.update(target.tobytes())
        go = os.environ.get("MANA_TEST_GO")  # see common.h
        while go and not os.path.exists(go):
            time.sleep(0.02)
    print("RESULT", total.hexdigest()[:32])


if __name__ == "__main__":
    main()
