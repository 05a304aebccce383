"""mpi4py's own test suite, with an outcome for each test and rank.

suite.py TESTS OUTCOMES [--only MODULES] [--without MODULES] [--seconds S]

TESTS is the directory of the tests, OUTCOMES the beginning of the name of a file for each rank; MODULES are separated by commas.
The suite is run again until S seconds have passed; the worst outcome of each test counts.
The exit code is 0 when every test has had its turn: what came out is to be compared with another run.
"""
import argparse
import glob
import os
import sys
import time
import unittest

parser = argparse.ArgumentParser()
parser.add_argument("tests")
parser.add_argument("outcomes")
parser.add_argument("--only", default="")
parser.add_argument("--without", default="")
parser.add_argument("--seconds", type=float, default=0)
arguments = parser.parse_args()

# Packages the suite would use if they were there.
for package in ("cupy", "numba"):
    sys.modules[package] = None
sys.path.insert(0, arguments.tests)

import mpi4py.MPI as MPI


class Outcomes(unittest.TextTestResult):
    """Keeps the worst outcome of each test."""

    found = {}

    def note(self, test, outcome):
        if self.found.get(test.id(), "passed") in ("passed", "skipped"):
            self.found[test.id()] = outcome

    def addSuccess(self, test):
        super().addSuccess(test)
        self.note(test, "passed")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, "skipped")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.note(test, "failed")

    def addError(self, test, error):
        super().addError(test, error)
        self.note(test, "failed")


names = sorted(os.path.basename(path)[:-3] for path in glob.glob(os.path.join(arguments.tests, "test_*.py")))
if arguments.only:
    names = [name for name in names if name in arguments.only.split(",")]
names = [name for name in names if name not in arguments.without.split(",")]
end = time.monotonic() + arguments.seconds
more = True
while more:
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromModule(__import__(name)) for name in names)
    unittest.TextTestRunner(resultclass=Outcomes, verbosity=0).run(suite)
    more = MPI.COMM_WORLD.bcast(time.monotonic() < end)
with open("%s.%d" % (arguments.outcomes, MPI.COMM_WORLD.Get_rank()), "w") as file:
    for test, outcome in sorted(Outcomes.found.items()):
        print(test, outcome, file=file)
