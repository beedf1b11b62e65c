#!/bin/sh
# What this checkout needs from the machine: each need with its version, found or missing, and the Debian package that gives it.
#   prereqs.sh             prints the table; exit 1 if something is missing
#   prereqs.sh --python    prints the Python that will be used (nothing if there is none)
#   prereqs.sh --packages  prints the packages that give what is missing
# PYTHON and JAVA_HOME choose their programs. ALLOW_SKIP=java,maven lets `make test` go on without those (and counts the skip).
set -u

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        # A PYTHON that was asked for is never replaced by another one.
        [ "$candidate" = "${PYTHON:-}" ] && return
    done
}

python=$(find_python)
if [ "${1:-}" = --python ]; then
    printf '%s\n' "$python"
    exit 0
fi

mode=table
[ "${1:-}" = --packages ] && mode=packages
missing=0

row() { # name, version or nothing, what is needed, package
    if [ "$mode" = packages ]; then
        [ -n "$2" ] || printf '%s\n' "$4"
        return
    fi
    if [ -n "$2" ]; then
        printf '  %-8s %-22s found\n' "$1" "$2"
        return
    fi
    case ",${ALLOW_SKIP:-}," in
    *",$1,"*) printf '  %-8s %-22s missing, skipped by name\n' "$1" "$3" ;;
    *)
        printf '  %-8s %-22s MISSING: apt-get install %s\n' "$1" "$3" "$4"
        missing=1
        ;;
    esac
}

optional() { # name, version or nothing, what it is for, package
    if [ -n "$2" ] || [ "$mode" = packages ]; then
        row "$@"
    else
        printf '  %-8s %-22s missing, it would be: apt-get install %s\n' "$1" "for $3 only" "$4"
    fi
}

[ "$mode" = table ] && echo "prerequisites"

row git "$(git --version 2>/dev/null | cut -d' ' -f3)" "any" git
row make "$(make --version 2>/dev/null | sed -n 's/^GNU Make //p')" "GNU make" make
row python "${python:+$("$python" -c 'import platform; print(platform.python_version())')}" "3.11 or newer" python3
row venv "${python:+$("$python" -c 'import ensurepip, venv; print("pip", ensurepip.version())' 2>/dev/null)}" \
    "python's venv module" python3-venv
row headers "${python:+$("$python" -c 'import os, sysconfig as s
p = os.path.join(s.get_path("include"), "Python.h")
print(s.get_python_version() if os.path.exists(p) else "")' 2>/dev/null)}" "Python.h" python3-dev

# The compiler that the extension will be built with; it must find the C library's headers too.
cc=${CC:-}
[ -n "$cc" ] || cc=${python:+$("$python" -c 'import sysconfig as s; print((s.get_config_var("CC") or "cc").split()[0])')}
compiler=
if printf '#include <stdio.h>\nint main(void){return 0;}\n' | ${cc:-cc} -x c -o /dev/null - 2>/dev/null; then
    compiler=$(${cc:-cc} -dumpfullversion 2>/dev/null || ${cc:-cc} -dumpversion)
fi
row cc "$compiler" "a C compiler" "gcc libc6-dev"

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9._]*\).*/\1/p' | head -n 1)
[ "${version%%.*}" -ge 17 ] 2>/dev/null || version=
row java "$version" "JDK 17 or newer" default-jdk-headless
row openssl "$(openssl version 2>/dev/null | cut -d' ' -f2)" "3.0, for test certificates" openssl
row maven "$(mvn -v 2>/dev/null | sed -n 's/.*Apache Maven \([0-9.]*\).*/\1/p')" "any" maven

optional valgrind "$(valgrind --version 2>/dev/null | cut -d- -f2)" "instructions" valgrind

# Asked of the daemon itself: the command alone runs no container. A package would not start one everywhere.
[ "$mode" = packages ] ||
    optional docker "$(timeout 5 docker version --format '{{.Server.Version}}' 2>/dev/null)" "test-containers" docker.io

free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
if [ "$free" -ge 4 ]; then
    row disk "$free GiB free" "" ""
elif [ "$mode" = table ]; then
    printf '  %-8s %-22s MISSING: 4 GiB are needed here\n' disk "$free GiB free"
    missing=1
fi

exit $missing
