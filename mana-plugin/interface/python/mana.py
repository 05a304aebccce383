"""The application interface of mana for Python 3.6 and later: one file, nothing to build.

Put it beside the script, or its directory on PYTHONPATH. Without mana, running() is False, critical sections
and callbacks are accepted and have no effect, and checkpoint() returns NOT_RUNNING: the same script runs
either way. See docs/guide/interface.md.

    import mana

    for step in range(10**6):
        work()
        if step % 1000 == 0:
            if mana.checkpoint(wait=True) == mana.RESUMED:
                print("going on after a restart")
"""

import contextlib
import ctypes

HIGHEST, LOCAL, PARTNER, GROUP, GLOBAL = range(5)
REQUESTED, CONTINUED, RESUMED = range(3)
NOT_RUNNING = -1
CHECKPOINT, CONTINUED_EVENT, RESTARTED_EVENT = 1, 2, 3

_WAIT = 1
_ERRORS = {
    -2: "an argument makes no sense",
    -3: "the checkpoint was not taken; standard error says why",
    -4: "no checkpoints are possible now (before MPI_Init, after MPI_Finalize, or unprotected)",
    -5: "not possible while this thread holds checkpoints back, or in a callback",
    -6: "more than there is room for",
}
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)
_kept = []  # callbacks live as long as the process


class Error(RuntimeError):
    """A call that could not be done; `code` is the number of mana.h."""

    def __init__(self, code):
        super().__init__(_ERRORS.get(code, "error %d" % code))
        self.code = code


def _find(name, *types):
    try:
        function = getattr(ctypes.CDLL(None), "mana_1_" + name)
    except (AttributeError, OSError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = types
    return function


_running = _find("running")
_restarts = _find("restarts")
_checkpoint = _find("checkpoint", ctypes.c_int, ctypes.c_int)
_hold = _find("hold", ctypes.c_char_p)
_release = _find("release")
_on = _find("on", ctypes.c_int, _CALLBACK, ctypes.c_void_p)
_exclude = _find("exclude", ctypes.c_void_p, ctypes.c_size_t)
_include = _find("include", ctypes.c_void_p, ctypes.c_size_t)
_publish = _find("publish", ctypes.c_char_p, ctypes.c_char_p)


def _call(function, *arguments):
    code = function(*arguments) if function else NOT_RUNNING
    if code < 0 and code != NOT_RUNNING:
        raise Error(code)
    return code


def running():
    """Whether this process is under mana (False in a forked child)."""
    return bool(_running and _running())


def restarts():
    """How often the program was resumed; 0 without mana."""
    return max(_call(_restarts), 0)


def checkpoint(level=HIGHEST, wait=False):
    """Asks for a checkpoint. REQUESTED at once; with wait CONTINUED or RESUMED (collective over all ranks of
    an MPI program). NOT_RUNNING without mana. Raises Error when it was not taken."""
    return _call(_checkpoint, level, _WAIT if wait else 0)


def hold(why=""):
    """No checkpoint until as many release()."""
    _call(_hold, why.encode())


def release():
    """Takes one hold() back."""
    _call(_release)


@contextlib.contextmanager
def held(why=""):
    """A critical section: no checkpoint inside `with mana.held("writing results"):`."""
    hold(why)
    try:
        yield
    finally:
        release()


def on(event, callback):
    """Has callback(event) called at every CHECKPOINT, CONTINUED_EVENT or RESTARTED_EVENT, on a thread of mana's
    own."""
    wrapped = _CALLBACK(lambda number, _data: callback(number))
    _kept.append(wrapped)
    _call(_on, event, wrapped, None)
    return callback


def on_checkpoint(callback):
    """Decorator: called before the threads are stopped for an image."""
    return on(CHECKPOINT, callback)


def on_continued(callback):
    """Decorator: called after it, in the same process (also when it was given up)."""
    return on(CONTINUED_EVENT, callback)


def on_restarted(callback):
    """Decorator: called after it, in a process resumed from that image."""
    return on(RESTARTED_EVENT, callback)


def _range(buffer):
    view = memoryview(buffer)
    if view.readonly:
        raise ValueError("a writable buffer is needed")
    start = ctypes.addressof(ctypes.c_char.from_buffer(view.cast("B")))
    return start, view.nbytes


def exclude(buffer):
    """The whole pages of a contiguous buffer (a numpy array, a bytearray, an mmap) are left out of images and
    are zero after a restart. include() it again before it is freed."""
    _call(_exclude, *_range(buffer))


def include(buffer):
    """Takes exclude() back."""
    _call(_include, *_range(buffer))


def publish(key, value):
    """Leaves a key with a value for the report."""
    _call(_publish, str(key).encode(), str(value).encode())
