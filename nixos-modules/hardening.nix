# The restrictions of all our units. Plain data, so that checks/nix/units.py can compare it with packaging/systemd/ without nixpkgs.
# Exceptions of a unit are in units.nix, with their reasons.
{
  # No capability, no device, no new privileges.
  AmbientCapabilities = "";
  CapabilityBoundingSet = "";
  DeviceAllow = "";
  DevicePolicy = "closed";
  NoNewPrivileges = true;
  PrivateDevices = true;
  PrivateUsers = true;
  RestrictSUIDSGID = true;

  # Access only to the parts of the machine that the unit names.
  PrivateMounts = true;
  PrivateTmp = true;
  ProcSubset = "pid";
  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHome = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectProc = "invisible";
  ProtectSystem = "strict";
  RemoveIPC = true;

  # No execution of other code.
  KeyringMode = "private";
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  RestrictNamespaces = true;
  RestrictRealtime = true;
  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = [
    "@system-service"
    "~@privileged @resources"
  ];
}
