"""The suite that proves a deployed site, run by ``playbooks/verify.yml``."""
