# Python with nothing but its own library: threads, a child, modules written in C; prints a hash.
import ctypes, hashlib, importlib, subprocess, sys, threading, time

digest = hashlib.sha256()


def work(k, out):
    value = str(k).encode()
    for _ in range(20000):
        value = hashlib.sha256(value).digest()
    out[k] = value.hex()


for r in range(int(sys.argv[1])):
    out = {}
    threads = [threading.Thread(target=work, args=(k, out)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    digest.update(repr(sorted(out.items())).encode())
    digest.update(subprocess.run(["/bin/echo", str(r)], stdout=subprocess.PIPE).stdout)
    digest.update(str(ctypes.CDLL(None).abs(-r)).encode())
    time.sleep(0.02)
    importlib.import_module(["json", "decimal", "csv", "sqlite3", "xml.dom.minidom"][r % 5])
print(digest.hexdigest())
