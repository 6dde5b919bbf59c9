#!/bin/bash
# The promise to a stranger, kept in bare Debian 12 roots: clean_debian.sh FOLDER [test]
# In the first, from the tracked files alone and with nothing but make installed: `make run`, with the word test also
# `make test`, and `make deb`. In the second the package alone: it installs what it needs, runs for a user without
# rights, has its manual and its pair, serves a C program, and leaves nothing when it goes.
# Needs root and debootstrap or mmdebstrap; packages come from where apt is told to look here.
set -eu
folder=$(mkdir -p "$1" && realpath "$1") tests=${2:-}
base=$folder/base.tar say='== '

[ "$(id -u)" = 0 ] || { echo "clean_debian.sh: chroot needs root: run it with sudo" >&2; exit 1; }

# The sources of apt here that are Debian's own.
sources() {
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
        'Origin: Debian' | grep -w bookworm
}
make_base() {
    echo "${say}a bare Debian 12 (minutes)"
    if command -v mmdebstrap >/dev/null; then
        mmdebstrap --quiet --variant=minbase bookworm "$base" ${mirrors:+"$mirrors"}
    elif command -v debootstrap >/dev/null; then
        debootstrap --variant=minbase bookworm "$folder/root" "$(awk '{ print $2; exit }' "$mirrors")" >/dev/null
        tar -C "$folder/root" -cf "$base" . && rm -rf "$folder/root"
    else
        echo "clean_debian.sh: install debootstrap or mmdebstrap first" >&2
        exit 1
    fi
}
# A root of that name, unpacked anew.
fresh() {
    rm -rf "${folder:?}/$1" && mkdir "$folder/$1"
    tar -C "$folder/$1" -xf "$base"
    [ -s "$folder/$1/etc/apt/sources.list" ] || cp "$mirrors" "$folder/$1/etc/apt/sources.list"
}
# A command in a root, with processes, mounts and terminals of its own that end with it.
inside() {
    local root=$folder/$1
    shift
    unshare --mount --pid --fork --mount-proc="$root/proc" \
        bash -c 'mount -t devpts -o newinstance,ptmxmode=666 devpts "$0/dev/pts" && exec chroot "$0" "$@"' "$root" \
        /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        bash -ec "$*" </dev/null
}
expect() { # NAME COMMAND...: its output stays in $folder/said
    local name=$1
    shift
    if "$@" >"$folder/said" 2>"$folder/errors"; then
        echo "ok $name"
    else
        echo "FAIL $name (exit $?)"
        tail -n 30 "$folder/said" "$folder/errors"
        exit 1
    fi
}

mirrors=$folder/sources.list
sources >"$mirrors" || { echo "clean_debian.sh: run apt-get update first, on a Debian 12" >&2; exit 1; }
[ -s "$base" ] || make_base

fresh build
mkdir "$folder/build/src"
git ls-files -z | tar --null -T - -cf - | tar -C "$folder/build/src" --no-same-owner -xf -
inside build 'apt-get update && apt-get install -y --no-install-recommends make' >/dev/null 2>&1
expect "make run from a fresh clone" inside build 'cd /src && make run'
tail -c 120 "$folder/said"; echo
[ -z "$tests" ] || expect "make test from a fresh clone" inside build 'cd /src && make test'
[ -z "$tests" ] || tail -n 1 "$folder/said"
expect "make deb" inside build 'cd /src && make deb'

fresh user
cp "$folder"/build/src/build/outrider_*.deb "$folder/user/tmp/"
inside user 'apt-get update && useradd -m traveller && ls -d /usr/share/*' >"$folder/before" 2>/dev/null
expect "the package installs with what it needs" inside user 'apt-get install -y --no-install-recommends /tmp/outrider_*.deb'
as_user() { inside user "setpriv --reuid=traveller --regid=traveller --clear-groups env HOME=/home/traveller $*"; }
expect "it writes" as_user 'outrider run -p "Once upon a time" -n 16 --temp 0'
expect "it speaks" as_user 'bash -c "echo Hello. | outrider chat -n 8"'
expect "its text is exact there" as_user 'outrider check -n 16'
expect "it has no file that its list does not know" inside user 'dpkg -V outrider'
expect "the manual is there" inside user 'test -s /usr/share/man/man1/outrider.1.gz -a -s /usr/share/man/man3/outrider.3.gz'
cp tests/example.c "$folder/user/tmp/"
inside user 'apt-get install -y --no-install-recommends gcc libc6-dev pkg-config' >/dev/null 2>&1
expect "a C program builds on it" inside user 'cd /tmp && gcc -o example example.c $(pkg-config --cflags --libs outrider)'
expect "and runs" as_user '/tmp/example /usr/share/outrider/tale/verifier /usr/share/outrider/tale/draft Once'
expect "it goes" inside user 'apt-get purge -y outrider && ! ls -d /usr/share/outrider /usr/bin/outrider /usr/lib/liboutrider* 2>/dev/null'
rm -rf "$folder/build" "$folder/user"
