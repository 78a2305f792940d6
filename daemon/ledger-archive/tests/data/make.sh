#!/bin/sh
# Makes the archives in this directory. Needs 7-Zip's `7zz` (Debian: package 7zip) and Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
cd "$work"
mkdir Nano old
python3 - <<'PYTHON'
def noise(length, seed):
    """The bytes that `ledger` of tests/support makes."""
    out = bytearray()
    while len(out) < length:
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        out += (seed >> 20).to_bytes(8, "little")[:4] + bytes([0, 1, 2, 3])
    return bytes(out[:length])

part = noise(3000, 7)
open("data.ldb", "wb").write(part)
open("300k", "wb").write(part * 100)
open("5m", "wb").write(part * 1700)
PYTHON
pack() { 7zz a -bd -bso0 -mtm- "$@"; }
cp data.ldb Nano/data.ldb
cp data.ldb old/data.ldb
echo "read me" >Nano/a-readme
echo "z" >Nano/z
: >Nano/empty

rm -f "$here"/*.7z
pack -ms=on "$here/nested.7z" Nano
pack -ms=off "$here/separate.7z" Nano
pack -ms=on -mhc=off "$here/plain-header.7z" Nano
pack -mx=0 -mhc=off "$here/stored.7z" data.ldb
pack -m0=lzma "$here/lzma.7z" data.ldb
pack "$here/two.7z" data.ldb old
pack "$here/none.7z" Nano/z
pack -m0=bzip2 "$here/bzip2.7z" data.ldb
pack -psecret "$here/encrypted.7z" data.ldb
pack -psecret -mhe=on "$here/encrypted-header.7z" data.ldb
pack -m0=BCJ -m1=LZMA2 "$here/filtered.7z" data.ldb
ln -s /etc/passwd link
pack -snl "$here/link.7z" link data.ldb
cat data.ldb | pack -sidata.ldb "$here/pipe.7z"
mkdir empty && cd empty && pack "$here/empty.7z" && cd ..
mkdir big && mv 300k big/data.ldb && (cd big && pack "$here/solid.7z" data.ldb)
# Its dictionary is reset every 128 KiB, as threads make 7-Zip do.
mv 5m big/data.ldb && (cd big && pack -mmt=2 -m0=lzma2:d=64k:c=128k "$here/reset.7z" data.ldb)
rm -r "$work"
