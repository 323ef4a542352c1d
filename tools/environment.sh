#!/bin/sh
# environment.sh PYTHON VENV WHAT: make VENV with PYTHON if it is missing, and install WHAT from this checkout.
set -eu
python=$1 venv=$2 what=$3

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "winpop needs Python 3.11 or newer; name one with 'make PYTHON=/path/to/python3 …'." >&2
    exit 1
fi
if ! [ -x "$venv/bin/pip" ]; then
    rm -rf "$venv"
    # Debian keeps what venv needs in a package of its own; root gets it, others are told.
    if ! "$python" -c 'import ensurepip' 2>/dev/null && command -v apt-get >/dev/null; then
        if [ "$(id -u)" = 0 ]; then
            apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
        else
            echo "Python cannot make environments here yet; run: sudo apt install python3-venv" >&2
            exit 1
        fi
    fi
    "$python" -m venv "$venv"
fi
echo "Installing into $venv …"
"$venv/bin/pip" install --quiet --disable-pip-version-check --editable "$what"
