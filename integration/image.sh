#!/bin/sh
# Images for test clusters in containers, made with no registry of images: a small Debian with a JRE, from the package
# mirror of this machine, and the jars of `make kafka`.
#   image.sh [name]    makes name:4.3.1 and name:3.9.2, by the versions in pom.xml and pom-3.9.xml
# The name is eomirror-kafka, if none is given. Needs root, debootstrap and a Docker daemon. MIRROR is another place
# of Debian bookworm than apt's own list says.
set -eu
cd "$(dirname "$0")/.."

name=${1:-eomirror-kafka}
SUITE=bookworm
if [ -z "${MIRROR:-}" ]; then
    # Where apt has this suite from; without an answer, debootstrap's own default.
    MIRROR=$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Codename: $SUITE" \
        "Origin: Debian" "Component: main" 2>/dev/null | head -n 1)
fi

fail() {
    printf '%s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "debootstrap must be run by root" "Say \"sudo integration/image.sh\"."
command -v debootstrap >/dev/null || fail "no debootstrap command" "Say \"apt-get install debootstrap\"."
docker version >/dev/null 2>&1 || fail "the Docker daemon does not answer" "\"docker version\" says why."

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root" "$root.tar"' EXIT
chmod 755 "$root"

echo "Debian $SUITE with a JRE"
debootstrap --variant=minbase --include=openjdk-17-jre-headless "$SUITE" "$root" ${MIRROR:+"$MIRROR"} \
    >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; fail "debootstrap failed" "The whole log is $root.log."; }
rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
    "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale

for release in .work/kafka:pom.xml .work/kafka-3.9:pom-3.9.xml; do
    libs=${release%%:*}/libs
    version=$(sed -n 's/.*<kafka.version>\(.*\)<.*/\1/p' "${release#*:}")
    ls "$libs"/kafka_2.13-"$version".jar >/dev/null 2>&1 || fail "$libs: no jars of Kafka $version" "Say \"make kafka\"."
    rm -rf "$root/opt/kafka"
    mkdir -p "$root/opt/kafka"
    cp -rL "$libs" "$root/opt/kafka/libs"
    echo "$name:$version"
    tar -C "$root" --one-file-system -cf "$root.tar" .
    docker import "$root.tar" "$name:$version"
done
