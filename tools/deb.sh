#!/bin/bash
# deb.sh BUILD VERSION: makes BUILD/outrider_VERSION_ARCH.deb from an installation into BUILD/deb. What it depends on
# is asked of the packages that the program's and the library's own shared libraries come from.
set -e
build=$1 version=$2 root=$1/deb
arch=$(dpkg --print-architecture)

needed() {
    for file in "$root/usr/bin/outrider" "$root/usr/lib/liboutrider.so.0"; do
        objdump -p "$file" | awk '$1 == "NEEDED" { print $2 }'
    done | sort -u | while read -r library; do
        path=$(ldconfig -p | awk -v l="$library" '$1 == l { print $NF; exit }')
        real=$(realpath "$path")
        dpkg -S "$path" "${path#/usr}" "$real" "${real#/usr}" 2>/dev/null | head -n 1 | cut -d: -f1
    done | sort -u
}
depends=
for package in $(needed); do
    depends+="${depends:+, }$package (>= $(dpkg-query -W -f='${Version}' "$package" | sed 's/[-+~].*//'))"
done

mkdir -p "$root/DEBIAN" "$root/usr/share/doc/outrider"
cp LICENSE "$root/usr/share/doc/outrider/copyright"
gzip -9nf "$root"/usr/share/man/man1/outrider.1 "$root"/usr/share/man/man3/outrider.3
cat >"$root/DEBIAN/control" <<END
Package: outrider
Version: $version
Architecture: $arch
Maintainer: Outrider maintainers <maintainers@outrider.invalid>
Section: science
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: $depends
Description: speculative decoding of large language models
 A small draft model proposes tokens, a large verifier scores whole runs of them
 in one pass. The text is the verifier's own, bit for bit at temperature 0. With
 a command line, a C library, and a small pair of models to begin with.
END
printf 'activate-noawait ldconfig\n' >"$root/DEBIAN/triggers"
dpkg-deb --root-owner-group --build "$root" "$build/outrider_${version}_$arch.deb"
