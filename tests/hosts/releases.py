"""Stand-ins for releases of Orthanc that Debian does not have: its own, under another version."""

# Has a source of packages with one release. A bad one raises the schema of its index and ends; while /run/slow is
# there, it does not leave without delay either. With a foreign one comes the DICOMweb plugin of Debian 12, as it is.
OFFER = r"""
set -eu
release=$1 kind=$2
mkdir -p /srv/repository /srv/build && cd /srv/build
[ -e orthanc ] || { apt-get update -q; apt-get download -q orthanc; dpkg-deb --raw-extract orthanc_*.deb orthanc; }
rm -rf made /srv/repository/*.deb && cp -a orthanc made
sed -i "s/^Version: .*/Version: $release+standin-1/" made/DEBIAN/control
# The same length, so that the program stays one.
sed -i "s/1\.12\.7/$release/g" made/usr/sbin/Orthanc
if [ $kind = bad ]; then
    mkdir made/usr/lib/stand-in && mv made/usr/sbin/Orthanc made/usr/lib/stand-in/
    cat > made/usr/sbin/Orthanc <<'END'
#!/bin/sh
case $1 in --*) exec /usr/lib/stand-in/Orthanc "$@" ;; esac
[ ! -e /var/lib/orthanc/db-v6/index ] || python3 -c 'import sqlite3
with sqlite3.connect("/var/lib/orthanc/db-v6/index") as index: index.execute("CREATE TABLE IF NOT EXISTS Raised (id)")'
echo "E1129 12:00:00.000000 MAIN main.cpp:1] This stand-in does not work" >&2
exit 255
END
    chmod 755 made/usr/sbin/Orthanc
    sed -i '1a [ "$1" != upgrade ] || [ ! -e /run/slow ] || sleep 77' made/DEBIAN/prerm
fi
if [ $kind = foreign ]; then
    mkdir -p lists/partial && sed '/-\(updates\|security\)/d; s/trixie/bookworm/' /etc/apt/sources.list > bookworm.list
    set -- -o Dir::Etc::SourceList=$PWD/bookworm.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$PWD/lists
    set -- "$@" -o Dir::State::Status=/dev/null -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    apt-get "$@" update -q && apt-get "$@" download -q orthanc-dicomweb
    rm -rf plugin && dpkg-deb --raw-extract orthanc-dicomweb_*.deb plugin
    sed -i 's/^Version: .*/Version: 2+standin-1/; s/^Depends: .*/Depends: orthanc/' plugin/DEBIAN/control
    dpkg-deb --build -Znone plugin /srv/repository > /dev/null
    sed -i 's/^Depends: /&orthanc-dicomweb (>= 2), /' made/DEBIAN/control
fi
dpkg-deb --build -Znone made /srv/repository > /dev/null
cd /srv/repository
for file in *.deb; do
    dpkg-deb --field $file
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' $file $(stat -c %s $file) $(sha256sum < $file | cut -c 1-64)
done > Packages
echo 'deb [trusted=yes] file:/srv/repository ./' > /etc/apt/sources.list.d/local.list
apt-get update -q
"""
