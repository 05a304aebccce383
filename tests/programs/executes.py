# Forks children that execute another program, one round after the other: a checkpoint meets them at every
# instant of it, for so many seconds and until a file exists. Says how many ended otherwise than natively.
import os
import sys
import time

seconds = float(sys.argv[1])
end = time.monotonic() + seconds
ran = bad = 0
while time.monotonic() < end or not os.path.exists(sys.argv[2]):
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os.execve("/bin/true", ["true"], os.environ)
        children.append(child)
    for child in children:
        ran += 1
        bad += os.waitpid(child, 0)[1] != 0
print(f"executed {ran} times", file=sys.stderr)
print(f"RESULT {bad} ended badly", flush=True)
