#!/bin/sh
# Copyright the dicom.orthanc authors
# SPDX-License-Identifier: GPL-3.0-or-later
# PostgreSQL calls it with each piece of its log, and keeps that until it ends well. A disk that is full of them would stop
# the server, and Orthanc with it: then they are given up, which is told.
piece=$1
read -r total free <<END
$(df --output=size,avail --block-size=1M pg_wal/ | tail -n 1)
END
most=
# A quarter of a small disk, which may never have 1 GiB of them.
waits=$((total / 4)); [ "$waits" -lt 1024 ] || waits=1024
[ "$free" -gt $((total / 20)) ] || [ "$free" -gt 20480 ] || most=--archive-push-queue-max=${waits}MiB
# PostgreSQL waits for it, and a folder of a NAS that is gone may hang: it has to be tried again, by how full the disk is then.
said=$(timeout --kill-after=10 300 pgbackrest --config=/etc/pacs/pgbackrest/pgbackrest.conf --stanza=pacs --pg1-path="$PWD" $most \
  archive-push "$piece" 2>&1)
ended=$?
[ -z "$said" ] || echo "$said" >&2
# Above 125 it would be no failure to PostgreSQL, but the end of the process that calls.
[ "$ended" -eq 0 ] || exit 1
case $said in *"dropped WAL file"*) echo "$piece" >> /var/lib/pacs/pgbackrest/dropped ;; esac
