# The scenario of that name, in virtual machines.
import ./scenarios/nixos-test.nix "spaces"
