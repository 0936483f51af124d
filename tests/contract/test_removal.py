"""Everything that the toolkit can remove on a host: plain files that are known by name, or lie in a marked folder.

No folder tree goes, whatever is asked of it: there may be images in it. What follows is all that there is; a line more
takes a reason here.
"""

import re

from tests.repository import ROOT, names

REMOVES = re.compile(
    r"rmtree|\bunlink\b|\brmdir\b|removedirs|\bos\.remove\b|\bremove\(|send2trash|TemporaryDirectory\(|shutil\.move"
    r"|state: absent|\brm -|\brm\b.*\{|find .*-delete|\bpurge\b|(?<!fail_on_)autoremove|\babsent\b|\bshred\b|mkfs"
)
# By file: each line, and why no image is in the way.
KNOWN = {
    "plugins/doc_fragments/files.py": {"purge:": "words", "absent:": "words"},
    "plugins/module_utils/files.py": {
        '"purge": {"type": "list", "elements": "path", "default": []},': "the option",
        '"absent": {"type": "list", "elements": "path", "default": []},': "the option",
        "def remove(path: str) -> None:": "the one place: a file or a link, since unlink refuses a folder",
        "os.unlink(path)": "the same",
        "remove(candidate)": "what it wrote a moment ago, or a call that was cut off, beside a file",
        "def purge(self, folder: str, wanted: set[str]) -> None:": "plain files of a folder with our mark",
        "self.absent(path)": "the same",
        "def absent(self, path: str) -> None:": "what a role names, below; refuses a folder",
        "remove(path)": "the same",
        'purged = [os.path.normpath(folder) for folder in params["purge"]]': "the option",
        "writer.purge(folder, wanted)": "the option",
        'for path in params["absent"]:': "the option",
        "writer.absent(path)": "the option",
    },
    "plugins/module_utils/kept.py": {
        "remove(path)": "a file or a link that was not there before: of a role, or of the configuration with our mark",
        "remove(self.path)": "what it kept of the files of before",
    },
    "plugins/module_utils/pacs_import/journal.py": {
        "os.unlink(beside)": "what lies in the report's folder where a file is written anew, such as a crash has left",
    },
    "plugins/module_utils/pacs_import/anonymize.py": {
        "os.unlink(file, dir_fd=number)": "copies of images that an import's own Orthanc has made, by their names",
        "os.rmdir(folder, dir_fd=number)": "refuses a folder with something in it",
        "os.rmdir(self._folder)": "the same",
    },
    "plugins/module_utils/pacs_import/export.py": {
        "self._packed.unlink(missing_ok=True)": "the ZIP archive that it has downloaded, on whoever's machine calls it",
    },
    "plugins/module_utils/orthanc_packages.py": {
        "remove(path)": "plain files of the toolkit's own folder of packages: of earlier ones, or of a cut-off call",
        "os.rmdir(folder)": "below that, of a dpkg-repack that was killed; refuses a folder with something in it",
    },
    "plugins/module_utils/probe/packages.py": {
        "remove(path)": "a policy-rc.d that Ansible has put aside, in a folder of root's below /tmp",
        "os.rmdir(os.path.dirname(path))": "that folder; refuses one with something in it",
    },
    "plugins/module_utils/releases.py": {
        "remove(path)": "the files of a release, in a folder with our mark, or of one that is being put there",
        "os.rmdir(folder)": "refuses a folder with something in it",
    },
    "plugins/modules/source_build.py": {
        "remove(came)": "a file of its own: a tarball with a wrong checksum, or what a build has left and was taken",
        "remove(path)": "plain files of the toolkit's own folder of tarballs",
    },
    "plugins/module_utils/orthanc_index.py": {
        "remove(path)": "SQLite's log of an index that is about to be what its dump is; Orthanc is stopped",
    },
    "plugins/module_utils/orthanc_upgrade.py": {
        "remove(path)": "the files of a dump, in a folder with our mark, once there is a newer one or it has failed",
        "os.rmdir(folder)": "refuses a folder with something in it",
    },
    "plugins/module_utils/orthanc_scripts.py": {
        "remove(path)": "plain files of its own folder in memory, of a trial",
        "os.rmdir(folder)": "refuses a folder with something in it",
    },
    "plugins/modules/archive_remove.py": {
        "remove(path)": "the index of SQLite by its names, with the operator's exact words, once Orthanc is gone",
        "os.unlink(name, dir_fd=opened)": "a file that Orthanc has named as it names an image, with the same words",
        "os.rmdir(folder)": "refuses a folder with something in it",
    },
    "plugins/modules/archive_reconcile.py": {
        "os.unlink(uuid, dir_fd=folder)": "an orphan that bears a name of Orthanc's, with the operator's exact words",
    },
    "plugins/module_utils/archive_files.py": {
        "with tempfile.TemporaryDirectory(dir=TEMPORARY) as private:": "its own, for a copy of the index",
        'os.remove(f"{copy}-wal")': "in that copy",
    },
    "plugins/modules/apt_offer.py": {
        "with tempfile.TemporaryDirectory() as folder:": "its own, in the system's folder for such",
    },
    "plugins/modules/docker_daemon.py": {
        'module.params |= {"folders": [], "files": files, "purge": [], "absent": [], "restart": {}}': "nothing is",
    },
    "plugins/modules/lsb_lock.py": {
        "with tempfile.TemporaryDirectory() as folder:": "its own, in the system's folder for such",
    },
    "plugins/modules/nginx_service.py": {
        'with tempfile.TemporaryDirectory(prefix="pacs-nginx-", dir=MEMORY) as top:': "a copy of nginx's files, to try",
        'tried, commands = [CONFIGURATION, *params["purge"]], []': "the option",
        'for path in [*params["absent"], *without]:': "in that copy",
        'module.params["absent"] += spare': "what its own role writes anew, where nginx refuses all with it",
        "remove(top + path)": "in that copy",
    },
    "plugins/modules/python_environment.py": {
        "remove(os.path.join(folder, name))": "files of a virtual environment: of its list, or of half of one",
        "os.rmdir(path)": "refuses a folder with something in it",
        "remove(os.path.join(path, MARK))": "the mark of a folder in which nothing else is",
    },
    "plugins/modules/ohif_release.py": {
        "remove(beside)": "half of a file of its own, which a call that was cut off has left",
        "remove(path)": "files of the viewer, by the list that a release was written with",
        "remove(os.path.join(folder, SUMS))": "that list, at the end",
        "os.rmdir(os.path.join(folder, name))": "refuses a folder with something in it",
        "remove(os.path.join(path, MARK))": "the mark of a folder in which nothing else is",
        "os.rmdir(path)": "the same folder",
    },
    "plugins/action/ohif_release.py": {
        "with tempfile.TemporaryDirectory(dir=kept.parent) as folder:": "its own, on the control node",
    },
    "plugins/modules/orthanc_service.py": {
        'units = {item["path"] for item in params["files"]} | set(params["absent"])': "no removal: what may go back",
    },
    "plugins/doc_fragments/entries.py": {"choices: [present, absent]": "of an entry of a running Orthanc"},
    "plugins/module_utils/orthanc_entries.py": {
        '"state": {"type": "str", "choices": ["present", "absent"], "default": "present"},': "the same",
        'if params["state"] == "absent":': "the same",
    },
    "plugins/modules/orthanc_modality.py": {"state: absent": "an example"},
    "plugins/modules/orthanc_peer.py": {"state: absent": "an example"},
    "plugins/modules/orthanc_dicomweb_server.py": {"state: absent": "an example"},
    "plugins/modules/remove_files.py": {
        "remove(path)": "what a role names, and plain files of a folder with our mark",
        "remove(os.path.join(folder, MARK))": "the mark of a folder in which nothing else is",
        "os.rmdir(folder)": "refuses a folder with something in it",
    },
    "plugins/modules/write_files.py": {"purge: [/etc/pacs/orthanc]": "an example"},
    "roles/backup/files/pacs_backup/backup.py": {
        "(folder / ARCHIVE).unlink(missing_ok=True)": "the name of the archive, for another one",
        "(self.holding / name).unlink()": "a second name of a file that Orthanc has, or has deleted, in our folder",
        "self.copy.with_name(name).unlink(missing_ok=True)": "the copy of the index, in the same folder",
    },
    "roles/backup/files/pacs_backup/beside.py": {
        "os.rmdir(name, dir_fd=at)": "refuses a folder with something in it",
        "os.rmdir(self.folder)": "the same",
        "os.unlink(name, dir_fd=at)": "what is in a folder that root has made for a drill or a restore; links there",
    },
    "roles/backup/files/pacs_backup/cluster.py": {
        '(KEPT / "dropped").unlink(missing_ok=True)': "what was told of the log until this backup",
        "os.rmdir(name, dir_fd=at)": "in a folder of our own, where a server for a try or a restore was",
        "os.rmdir(self.folder)": "refuses a folder with something in it",
        "os.unlink(name, dir_fd=at)": "in the same folder",
        "self._made.rmdir()": "refuses a folder with something in it",
    },
    "roles/backup/files/pacs_backup/common.py": {
        "candidate.unlink(missing_ok=True)": "half of a file of ours, of a run that was cut off",
    },
    "roles/backup/files/pacs_backup/index.py": {
        "copy.unlink(missing_ok=True)": "the log of an earlier copy of the index, beside that copy",
        "target.unlink(missing_ok=True)": "an earlier copy of what is to be sent on, or half of one",
    },
    "roles/backup/files/pacs_backup/restore.py": {
        "os.rmdir(pathlib.Path(os.path.dirname(self.backup.index), self.NAME))": "refuses one with something in it",
        "(folder / DUMP).unlink(missing_ok=True)": "half of a dump that was to be kept",
        "os.rmdir(pathlib.Path(self.backup.storage, aside))": "refuses a folder with something in it",
        "place(storage, name).unlink(missing_ok=True)": "what was deleted since, where a restore has put it",
        "os.rmdir(path)": "the same, where nothing was begun",
        "self.begun.unlink(missing_ok=True)": "the number of the backup that a restore has in its folder",
        "copied.unlink(missing_ok=True)": "a copy of what was restored, of a run that was cut off",
        "target.unlink(missing_ok=True)": "a restored file that is not as it was, where the archive has it",
        "self.moves.unlink()": "the list of what a restore moves, once that is done, or before it has begun",
        "known.unlink()": "a list of what was loaded, once it is held against that of the backup",
    },
    "roles/backup/files/pacs_backup/database.py": {
        "target.unlink(missing_ok=True)": "an earlier list of an index, where a copy of it is made",
    },
    "roles/backup/files/pacs_backup/mariadb.py": {
        "os.rmdir(self.folder)": "refuses a folder with something in it",
        "self.sockets.rmdir()": "refuses a folder with something in it",
    },
    "roles/backup/files/pacs_backup/missing.py": {
        "os.unlink(new, dir_fd=folder)": "half of a file of ours, of a run that was cut off",
    },
    "roles/backup/tasks/configure.yml": {
        'purge: "{{ [__backup_dir, __backup_package] + ([__backup_database_dir] if __backup_postgresql else []) }}"': (
            "/etc/pacs/backup, /etc/pacs/pgbackrest"
        ),
    },
    "roles/nginx/tasks/main.yml": {
        'purge: ["{{ __nginx_dir }}"]': "/etc/pacs/nginx",
        "absent: __nginx_unwanted": "our own files, and the package's example",
    },
    "roles/nginx/tasks/relay_serve.yml": {
        'purge: ["{{ __nginx_dir }}"]': "/etc/pacs/nginx",
        "absent: >-": "our own files, and the package's example",
    },
    "roles/nginx/files/make_certificate.sh": {'rm -f "$pair.crt"': "a certificate that is made again at once"},
    "roles/orthanc/files/storage_watch.py": {'os.unlink(self._settings["socket"])': "its own socket, in /run"},
    "roles/orthanc/tasks/configure.yml": {
        'purge: ["{{ orthanc_config_dir }}"]': "which may not hold, nor be in, a folder of images",
        "absent: __orthanc_unwanted": "our own files",
    },
    "roles/orthanc/vars/main/files.yml": {
        "if [ $$free -lt 32 ]; then rm -f .pacs-reserve;": "a file of our own, which makes room on a full disk",
    },
    "roles/orthanc/tasks/install_apt.yml": {"state: absent": "the source of packages that the role wrote"},
    "templates/etc/pacs/nginx/acme-renewed.j2": {
        'rm -f "$site.crt.old" "$site.key.old"': "links that it made: certificate and key of before",
    },
    "roles/ohif/tasks/serve.yml": {'purge: ["{{ __ohif_dir }}"]': "/etc/pacs/ohif"},
    "roles/verification/tasks/prove.yml": {"state: absent": "a new temporary folder on the control node"},
}


# Lines that stand there more than once.
TWICE = {
    "plugins/module_utils/files.py": ["remove(candidate)"] * 2,
    "plugins/module_utils/orthanc_packages.py": ["remove(path)"],
    "plugins/modules/python_environment.py": ["os.rmdir(path)"],
    "plugins/modules/source_build.py": ["remove(came)"],
    "roles/backup/files/pacs_backup/beside.py": ["os.unlink(name, dir_fd=at)"],
    "roles/backup/files/pacs_backup/cluster.py": ["os.unlink(name, dir_fd=at)"],
    "roles/backup/files/pacs_backup/index.py": ["target.unlink(missing_ok=True)"],
    "roles/backup/files/pacs_backup/restore.py": [
        "place(storage, name).unlink(missing_ok=True)",
        "self.begun.unlink(missing_ok=True)",
        "self.moves.unlink()",
    ],
    "templates/etc/pacs/nginx/acme-renewed.j2": ['rm -f "$site.crt.old" "$site.key.old"'],
}


def test_every_removal_is_known() -> None:
    found: dict[str, list[str]] = {}
    for name in names("plugins/", "roles/", "playbooks/", "templates/"):
        text = (ROOT / name).read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines() if REMOVES.search(line)]
        lines = [line for line in lines if not re.match(r"#|- [A-Z]|- name:|\"\"\"|:|description:", line)]
        if lines:
            found[name] = sorted(lines)
    assert found == {path: sorted([*lines, *TWICE.get(path, [])]) for path, lines in KNOWN.items()}


def test_no_folder_tree_is_removed() -> None:
    assert not [(path, line) for path, lines in KNOWN.items() for line in lines if "rmtree" in line or "rm -r" in line]
