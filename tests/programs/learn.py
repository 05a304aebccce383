#!/usr/bin/python3
"""numpy, scipy and scikit-learn in one long training loop, without MPI.

    learn.py [EPOCHS [PAUSE_MS]]

The result depends on the number of epochs only.
"""
import hashlib
import os
import sys
import time

import numpy
from scipy import optimize, sparse
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
pause = int(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0

random = numpy.random.default_rng(11)
data = random.normal(size=(600, 20))
truth = random.normal(size=20)
labels = (data @ truth + random.normal(scale=0.3, size=600) > 0).astype(int)

linear = SGDClassifier(random_state=3)
network = MLPClassifier(hidden_layer_sizes=(16,), random_state=5)
clusters = MiniBatchKMeans(n_clusters=4, random_state=7, n_init=1)
start = numpy.zeros(20)
digest = hashlib.sha256()

for epoch in range(epochs):
    order = random.permutation(len(data))
    for part in numpy.array_split(order, 10):
        linear.partial_fit(data[part], labels[part], classes=[0, 1])
        network.partial_fit(data[part], labels[part], classes=[0, 1])
        clusters.partial_fit(data[part])
        time.sleep(pause / 10)
    logistic = lambda w: numpy.logaddexp(0, -(2 * labels - 1) * (data @ w)).mean() + 1e-3 * w @ w
    start = optimize.minimize(logistic, start, method="L-BFGS-B", options={"maxiter": 3}).x
    graph = sparse.random(200, 200, density=0.05, random_state=epoch, format="csr")
    values = numpy.sort(numpy.abs((graph @ graph.T).diagonal()))
    for part in (linear.coef_, network.coefs_[0], clusters.cluster_centers_, start, values):
        digest.update(numpy.round(part, 9).tobytes())
    print("epoch", epoch, round(float(logistic(start)), 9), flush=True)

go = os.environ.get("MANA_TEST_GO")  # see common.h
while go and not os.path.exists(go):
    time.sleep(0.02)
print("RESULT", digest.hexdigest()[:16], flush=True)
