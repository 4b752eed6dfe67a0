#!/bin/sh
# Finds a Python 3.11 or newer and hands over to launch.py, which does the rest. The .venv of an earlier start comes
# first: it is there at once, where a pyenv shim takes a tenth of a second to say no.
self=$(readlink -f "$0" 2>/dev/null || printf '%s' "$0")
here=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd) || exit 1
for python in "$here/.venv/bin/python" python3.14 python3.13 python3.12 python3.11 python3 python; do
    if "$python" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" -I "$here/launch.py" "$@"
    fi
done
echo "MirrorMetrics needs Python 3.11 or newer, and none was found. Install one from https://www.python.org/downloads/" \
    "or with your package manager, then start again." >&2
exit 2
