"""What a script says when its imports fail: it has the standard library alone, and runs on older Pythons too."""

import importlib.util
import resource
import sys
from pathlib import Path

NEEDED = (3, 11)  # as pyproject.toml
OURS = ("dataset", "models", "utils")
INSTALL = ("activate the environment, `source .venv/bin/activate`, or make it, `python3 -m venv .venv && "
           ".venv/bin/python -m pip install -r requirements.txt`")


def explain_import_errors():
    """From now on an import that fails for want of a package or of memory is one sentence and exit status 2. On a
    Python that is too old, that is said at once."""
    if sys.version_info < NEEDED:
        stop("this needs Python {}.{} or newer, {} is Python {}.{}: {}".format(
            *NEEDED, sys.executable, *sys.version_info[:2], INSTALL))
    sys.excepthook = explain


def explain(kind, error, traceback):
    """In place of sys.excepthook."""
    said = reason(error)
    if said is None:
        return sys.__excepthook__(kind, error, traceback)
    stop(said)


def stop(said):
    print(f"{Path(sys.argv[0]).name}: error: {said}", file=sys.stderr)
    sys.exit(2)


def reason(error):
    """What to tell the user of an error; None for one whose cause is not certain."""
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        if package in OURS or importlib.util.find_spec(package):
            return None
        return f"the Python package {package} is not installed for {sys.executable} ({error}): {INSTALL}"
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    mapping = isinstance(error, ImportError) and "failed to map segment" in str(error)
    if limit != resource.RLIM_INFINITY and (isinstance(error, MemoryError) or mapping):
        return (f"the memory that this process may use ({limit / 1e9:.1f} GB, ulimit -v) is not enough to load its "
                f"libraries ({str(error) or 'MemoryError'}): raise the limit")
    return None
