# What every unit of ours gives up. Plain data, so that checks/units.py can compare it with packaging/systemd/ without nixpkgs.
# A unit that needs something back says so, with its reason, in units.nix.
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

  # Nothing of the machine but what the unit names.
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

  # No way to run what is not the program.
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
