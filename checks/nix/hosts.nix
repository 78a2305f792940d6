# The hosts whose renderings are in checks/scenarios/rendered/: name to NixOS module. README.md there describes them.
let
  node = {
    users.users.nano = {
      isSystemUser = true;
      group = "nano";
      home = "/var/lib/nano";
    };
    users.groups.nano = { };
  };
  # Starts only if the ledger exists and belongs to the node, as a node would.
  node-with = ledger: {
    inherit (node) users;
    systemd.services.nano-node = {
      description = "A node";
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        User = "nano";
        ExecStart = "/bin/sh -c 'test -w ${ledger}'";
      };
    };
  };
  waiting-node = node-with "/var/lib/nano/Nano/data.ldb";
  mirror = {
    enable = true;
    openFirewall = true;
  };
  fetch = {
    enable = true;
    before = [ "nano-node.service" ];
  };
in
{
  mirror.services.nano-snapshot-mirror = mirror;

  producer = node // {
    services.nano-snapshot-mirror = mirror // {
      producer = {
        enable = true;
        signingKeyFile = "/etc/nano-snapshot-mirror/producer.key";
      };
    };
  };

  node = waiting-node // {
    services.nano-snapshot-mirror = { inherit fetch; };
  };

  mirror-and-node = waiting-node // {
    services.nano-snapshot-mirror = mirror // {
      inherit fetch;
    };
  };

  other-ports.services.nano-snapshot-mirror = mirror // {
    http.openFirewall = true;
    settings = {
      peer.listen = [ "[::]:6991" ];
      dht.port = 6992;
      http.listen = "0.0.0.0:9119";
    };
  };

  other-disk.services.nano-snapshot-mirror = mirror // {
    settings.data-dir = "/srv/nano-snapshots";
  };

  additions = {
    services.nano-snapshot-mirror = mirror;
    users.groups.ledgers = { };
    systemd.services.nano-snapshot-mirror.serviceConfig = {
      ReadWritePaths = [ "/srv/hooks" ];
      SupplementaryGroups = [ "ledgers" ];
      SystemCallFilter = [ "@keyring" ];
      MemoryMax = "3G";
    };
    systemd.tmpfiles.settings.hooks."/srv/hooks".d = {
      user = "nano-snapshot-mirror";
      group = "ledgers";
      mode = "0770";
    };
  };

  # Every path that is an option, with characters that systemd would read in its own way.
  spaces = node-with "\"/srv/my node/new ledger: 100%%/data.ldb\"" // {
    services.nano-snapshot-mirror = mirror // {
      settings.data-dir = "/srv/nano snapshots (100%)";
      environmentFile = "/etc/my secrets/mirror 100%.env";
      secretSettingsFile = "/etc/my secrets/mirror 100%.toml";
      producer = {
        enable = true;
        ledgerPath = "/srv/my node/$ledger 100%/data.ldb";
        signingKeyFile = "/etc/my secrets/producer 100%.key";
      };
      fetch = fetch // {
        installTo = "/srv/my node/new ledger: 100%/data.ldb";
        unless = [ "/srv/my node/no fetch 100%" ];
      };
    };
  };
}
