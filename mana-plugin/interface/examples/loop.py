"""A computation that asks for its checkpoints itself.

    PYTHONPATH=.../share/mana/interface/python mana_launch python3 loop.py [STEPS [MILLISECONDS]]

Without mana it runs as well, as long as mana.py is found.
"""

import sys
import time

import mana

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
pause = int(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.01
scratch = bytearray(1 << 24)
told = []
mana.exclude(scratch)  # computed anew in every step
mana.on_checkpoint(told.append)
mana.on_continued(told.append)
mana.on_restarted(told.append)

total = 0
for step in range(steps):
    with mana.held("one step"):
        scratch[::4096] = bytes((step + i) % 256 for i in range(4096))
        total += sum(scratch[::4096])
    if step == steps // 2:
        mana.publish("sum", total)
        result = mana.checkpoint(wait=True)
        if result == mana.CONTINUED:
            print("half way: checkpoint taken", flush=True)
        elif result == mana.RESUMED:
            print("half way: resumed", flush=True)
    time.sleep(pause)

mana.include(scratch)
if mana.running():
    print("restarts", mana.restarts(), "events", told)
print("RESULT", total)
