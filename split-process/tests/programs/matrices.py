# numpy, threads, imports after the start: prints a hash.
import hashlib, importlib, sys, threading, time
import numpy

random = numpy.random.default_rng(7)
digest = hashlib.sha256()


def work(k, out):
    a = numpy.random.default_rng(k).random((200, 200))
    for _ in range(10):
        a = a @ a
        a /= a.max()
    out[k] = float(a.sum())


for r in range(int(sys.argv[1])):
    a = random.random((200, 200))
    digest.update((a @ a.T).round(6).tobytes())
    out = {}
    threads = [threading.Thread(target=work, args=(k, out)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    digest.update(repr(sorted((k, round(v, 6)) for k, v in out.items())).encode())
    time.sleep(0.02)
    importlib.import_module(["json", "decimal", "csv", "sqlite3", "xml.dom.minidom"][r % 5])
print(digest.hexdigest())
