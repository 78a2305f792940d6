"""Machines for scenarios: systemd-nspawn containers of a plain Debian root, with the verbs of NixOS tests."""
