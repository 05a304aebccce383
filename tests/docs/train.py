"""The program train.py of the guide: counts with pauses, until there is a file "hurry" or some minutes are over."""
import os
import time

total = 1
for step in range(3000):
    total = (total * 31 + step) % 1000003
    if not os.path.exists("hurry"):
        time.sleep(0.1)
print("RESULT", total, flush=True)
