"""Stands in for the script that ansible-test downloads to bring pip into an environment: the pip of Python itself."""

import ensurepip
import pathlib
import sys

ensurepip.bootstrap()
# ansible-test takes the environment's variables away, and with them which authorities pip is told to trust.
AUTHORITIES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
if AUTHORITIES.exists():
    pathlib.Path(sys.prefix, "pip.conf").write_text(f"[global]\ncert = {AUTHORITIES}\n", encoding="utf-8")
