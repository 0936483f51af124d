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
[ "$free" -gt $((total / 20)) ] || most=--archive-push-queue-max=1GiB
said=$(pgbackrest --config=/etc/pacs/pgbackrest/pgbackrest.conf --stanza=pacs --pg1-path="$PWD" $most archive-push "$piece" 2>&1)
ended=$?
[ -z "$said" ] || echo "$said" >&2
case $said in *"dropped WAL file"*) echo "$piece" >> /var/lib/pacs/pgbackrest/dropped ;; esac
exit $ended
