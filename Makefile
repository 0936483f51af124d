# The front door: each target is what a person could type.
INVENTORY ?= inventories/quickstart
PYTHON ?= python3
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

# What `make test` has no time for; each takes less than an hour. tests/shards.yml has what each of them tests.
SHARDS := test-sanity test-scenarios test-later test-releases test-import test-backup test-backup-stores test-drills test-viewer test-mysql test-neighbours test-matrix test-many test-cut-off test-cut-inside test-cut-first test-crashes test-full test-power test-requests test-as-they-are test-values test-mutants test-broken test-source test-cluster test-cluster-backup test-mount

.PHONY: help setup demo lab test test-quick test-all test-sanity test-scenarios test-later test-releases test-import test-backup test-backup-stores test-drills test-viewer test-mysql test-neighbours test-matrix test-many test-cut-off test-cut-inside test-cut-first test-crashes test-full test-power test-requests test-as-they-are test-values test-mutants test-broken test-source test-cluster test-cluster-backup test-mount due lint check picture verify secrets certificates lsb-lock docs bench bench-methods bench-database bench-index bench-nodes bench-size bench-import bench-backup bench-viewer viewer-pictures lock release clean
help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/done .cache/collections/ansible_collections/dicom/orthanc ## the Python environment in .venv, and the collection's link

demo: setup ## a throw-away host in a container with a verified Orthanc on it
	tools/demo

# What the hosts of the tests need of this machine.
lab: setup .venv/done-test
	@echo "Installs docker.io, mmdebstrap and openssh-client where they are missing, and starts a Docker engine if none runs."
	ansible-playbook -i localhost, lab/create.yml -e '{"lab_name": "test", "lab_hosts": []}'

test: lab ## lint, unit tests, and what each change has to pass on hosts, in under thirty minutes
	pytest tests -m "not later" -n 3 --dist loadfile --durations 25

test-quick: setup .venv/done-test ## what needs no host: lint, unit and contract tests
	pytest tests/unit tests/contract

test-all: test $(SHARDS) ## `make test`, and every shard of what takes longer

test-sanity: setup ## ansible-test's sanity tests
	tools/sanity

test-scenarios: lab ## the scenarios of molecule, each step of each
	pytest tests/hosts/test_scenarios.py -n 2 --dist loadfile -rA --tb=short

test-later: lab ## the other tests on hosts that `make test` leaves out
	pytest tests/hosts -m later -n 2 --dist loadfile -rA --tb=short $(foreach name,scenarios apt backup backup_mariadb backup_postgresql backup_stores chain schema import,--ignore tests/hosts/test_$(name).py)

test-releases: lab ## another release by packages, by binaries and in a container, with each database, and the ways back
	pytest tests/hosts/test_apt.py tests/hosts/test_chain.py tests/hosts/test_schema.py -n 2 --dist loadfile -rA --tb=short

test-import: lab ## existing images into a real Orthanc of each release, out of files and of other archives
	pytest tests/hosts/test_import.py -rA --tb=short

test-backup: lab ## backups while images come and go, drills, restores, and what is damaged, killed, gone or lost
	pytest tests/hosts/test_backup.py tests/hosts/test_backup_mariadb.py tests/hosts/test_backup_postgresql.py -n 2 --dist loadfile -rA --tb=short

test-backup-stores: lab ## backups to a store that speaks S3 and to SFTP: what is had again, and what is away, full or not the one
	pytest tests/hosts/test_backup_stores.py -rA --tb=short

test-drills: lab ## ten backups while images arrive, drilled and restored, three of them after a crash, with each database
	pytest tests/hosts/drills.py -rA --tb=short

test-viewer: lab ## the viewer OHIF in a real browser, on both releases; fetches it by npm, and Chromium by apt
	pytest tests/hosts/viewer.py tests/hosts/viewer_images.py -rA --tb=short

viewer-pictures: lab ## those in docs/viewers.md, as its tests see it
	PACS_PICTURES=docs/pictures pytest tests/hosts/viewer.py tests/hosts/viewer_images.py -k "accession or test_tools_work" -rA --tb=short

test-mysql: lab ## a real MySQL 9.7, which only Debian unstable has, as a server run by others
	pytest tests/hosts/mysql_server.py

test-neighbours: lab ## hosts where others have databases, an engine and web servers, on both releases
	pytest tests/hosts/neighbours.py -rA --tb=short

test-matrix: lab ## every inventory with every install method on every release, and attacks and leaks on Debian 12
	PACS_RELEASE=bookworm pytest tests/hosts/matrix.py tests/hosts/test_attacks.py tests/hosts/test_closed.py -n 2 --dist loadfile -rA --tb=short

test-many: lab ## twenty Orthancs, proved side by side in under a minute
	pytest tests/hosts/many.py -rA --tb=short

test-cut-off: lab ## deployments that are cut off after each of their tasks, or killed, and two at once
	pytest tests/hosts/cut_off.py -rA --tb=short

test-cut-inside: lab ## modules that are killed on the host before each of their steps, in changes of five kinds
	pytest tests/hosts/cut_inside.py -k "not first" -n 2 -rA --tb=short

test-cut-first: lab ## the same in a first run, the host restarted after each
	pytest tests/hosts/cut_inside.py -k first -n 2 -rA --tb=short

test-crashes: lab ## Orthanc, its database, the proxy and the whole host killed while images arrive, with each database
	pytest tests/hosts/crashes.py -rA --tb=short

test-full: lab ## the disks of images, of the index and of the database full while images arrive, with each database
	pytest tests/hosts/full.py -rA --tb=short

test-cluster: lab ## two Orthancs at one address, on a database of three servers, all of which are killed one by one while images arrive
	pytest tests/hosts/cluster.py tests/hosts/balancer.py -rA --tb=short

test-cluster-backup: lab ## backups, drills and restores of two Orthancs on a database of three servers, whichever is primary
	pytest tests/hosts/cluster_backup.py -rA --tb=short

test-mount: lab ## two Orthancs with their files on a file system of others, which goes and hangs while images arrive
	pytest tests/hosts/storage_mount.py -rA --tb=short

test-power: lab ## the disk cut off from all that the kernel has not written yet while images arrive, with each database
	pytest tests/hosts/power.py -rA --tb=short

test-requests: lab ## thousands of raw requests to every topology, and all that a reader could ask for
	pytest tests/hosts/requests.py -rA --tb=short

test-as-they-are: lab ## hosts as they are in hospitals: banners, sudo of many kinds, other languages, locks, names, IPv6
	pytest tests/hosts/as_they_are.py tests/hosts/addresses.py -rA --tb=short

test-values: setup .venv/done-test ## thousands of wrong values, for every variable out of its argument spec
	pytest tests/unit/values.py -n 2 --tb=short

test-mutants: setup .venv/done-test .cache/mutation/done ## how many of 200 changes to the plugins' code no unit test notices
	PYTHONPATH=.cache/mutation python tools/mutants

test-broken: setup .venv/done-test ## every check of the verification broken once on purpose, which has to notice
	ansible-playbook -i localhost, lab/create.yml -e '{"lab_name": "test", "lab_hosts": []}'
	pytest tests/hosts/broken.py -rA --tb=short

test-source: lab ## Orthanc and its plugins built from their tarballs, and a host taken from one install method to another
	pytest tests/hosts/source.py -rA --tb=short

due: setup ## which shards a change makes due SINCE the commit at which they were green
	python tools/due.py $(SINCE)

lint: setup .venv/done-test ## ansible-lint, yamllint, ruff, mypy
	pytest tests/contract/test_lint.py

check: setup ## tell what is wrong with INVENTORY, without reaching for any of its hosts
	ansible-playbook -i $(INVENTORY) playbooks/check.yml

picture: setup ## draw the site of INVENTORY, with a list of all connections, as INVENTORY.html
	ansible-playbook -i $(INVENTORY) playbooks/picture.yml

verify: setup ## prove that the site of INVENTORY works
	ansible-playbook -i $(INVENTORY) playbooks/verify.yml

secrets: setup ## write the secrets that INVENTORY names and does not have
	python tools/make_secrets.py $(INVENTORY)

certificates: secrets ## make the certificates of INVENTORY, by an authority of its own, or new ones before they end
	ansible-playbook -i $(INVENTORY) playbooks/certificates.yml

lsb-lock: setup ## write the checksums of LSB binaries that INVENTORY needs and does not have
	ansible-playbook -i $(INVENTORY) playbooks/lsb_lock.yml

docs: setup ## what the documents have out of argument specs and inventories
	python tools/variables.py > docs/variables.md
	python tools/pictures.py docs/pictures

bench: setup .venv/done-test ## how fast a deployment is, beside a shell script that does the same
	python -m benchmarks.deploy

bench-methods: setup .venv/done-test ## the install methods side by side, and how long a switch of release is felt
	python -m benchmarks.methods $(BENCH)

bench-index: setup .venv/done-test ## how long the dump of an index takes before another release, and its way back
	python -m benchmarks.index $(BENCH)

bench-nodes: setup .venv/done-test ## what two and four Orthancs on one database bring, and what a cluster costs ingest
	python -m benchmarks.nodes $(BENCH)

bench-size: setup .venv/done-test ## what an image costs a database beside its file, and what archives need by that
	python -m benchmarks.size $(BENCH)

bench-database: setup .venv/done-test ## how fast images go into which database, and by which settings
	python -m benchmarks.database $(BENCH)

bench-import: setup .venv/done-test ## how fast images are imported beside other ways, and what a modality feels of it
	python -m benchmarks.imports $(BENCH)

bench-backup: setup .venv/done-test ## how long a backup and a restore take, and what images that come feel of a backup
	python -m benchmarks.backup $(BENCH)

bench-viewer: lab ## the viewer and the proxy beside a minimal site that is written by hand
	python -m benchmarks.viewer $(BENCH)

lock: ## requirements*.txt out of requirements*.in
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header requirements.in -o requirements.txt
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header requirements-test.in -o requirements-test.txt
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header requirements-mutation.in -o requirements-mutation.txt

release: setup ## what a release consists of, from the version in galaxy.yml: the collection, its checksum, what changed
	tools/release

clean: ## remove the lab's hosts, images and network, and .venv and .cache
	tools/clean

.venv/done: requirements.txt
	@echo "Set-up: installs the packages of requirements.txt into .venv, and python3-venv if it is missing."
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q python3-venv; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.txt
	ln -sf ../../tools/pacs-import ../../tools/pacs-export .venv/bin/
	touch $@

.venv/done-test: requirements-test.txt .venv/done
	@echo "Set-up: adds the packages of requirements-test.txt to .venv."
	.venv/bin/pip install --quiet --requirement requirements-test.txt
	touch $@

# Apart from .venv, whose tests have to pass without it.
.cache/mutation/done: requirements-mutation.txt .venv/done
	.venv/bin/pip install --quiet --requirement requirements-mutation.txt --target $(@D) --upgrade
	touch $@

.cache/collections/ansible_collections/dicom/orthanc:
	mkdir -p $(@D) && ln -s $(CURDIR) $@
