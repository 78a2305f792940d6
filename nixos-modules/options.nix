{
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) types;
  inherit
    (import ./settings.nix {
      inherit lib;
      settings = { };
    })
    defaults
    ;
  address = types.strMatching "([0-9.]+|\\[[0-9a-fA-F:.%]+])(:[0-9]+)" // {
    description = "address with a port, such as [::]:6881 or 192.0.2.1:6881";
  };
  # A unit name; a bare name is that of a service.
  unitName =
    let
      name = types.strMatching "[a-zA-Z0-9@%:_.\\-]+";
      kinds = "service|socket|device|mount|automount|swap|target|path|timer|scope|slice";
      whole = given: if builtins.match ".*[.](${kinds})" given == null then "${given}.service" else given;
    in
    types.coercedTo name whole name // { description = "name of a unit"; };
in
{
  options.services.nano-snapshot-mirror = {
    enable = lib.mkEnableOption "the Nano snapshot mirror, which finds each new snapshot of the Nano ledger, fetches what changed and seeds it";

    package = lib.mkPackageOption pkgs "nano-snapshot-mirror" {
      example = "inputs.nano-snapshot-mirror.packages.\${pkgs.stdenv.hostPlatform.system}.default";
    };

    settings = lib.mkOption {
      description = ''
        Settings of the mirror, written to {file}`/etc/nano-snapshot-mirror/config.toml` and checked when the system is built.
        Keys are those of the [configuration reference](https://github.com/nano-snapshot-mirror/nano-snapshot-mirror/blob/main/docs/configuration.md).
        All users of this machine can read the file. Put URLs with a password or key into {option}`secretSettingsFile`.
        Ports are set only here; socket units and firewall follow. A change of settings that the mirror can apply at run time reloads it,
        any other change restarts it and its sockets.
      '';
      default = { };
      example = {
        poll-interval = "300s";
        limits.upload = "20MiB/s";
        seed-peers = [ "seed.example.org:6881" ];
      };
      type = types.submodule {
        freeformType = (pkgs.formats.toml { }).type;
        options = {
          data-dir = lib.mkOption {
            type = types.path;
            default = "/var/lib/nano-snapshot-mirror";
            example = "/srv/nano-snapshots";
            description = ''
              The directory of snapshots. An update needs space for two of them, on btrfs and XFS only for what changed. The mirror waits for
              the file system of the directory, and creates the directory there.
            '';
          };
          peer.listen = lib.mkOption {
            type = types.listOf address;
            default = defaults.peer.listen;
            example = [ "[::]:51413" ];
            description = "Addresses on which to accept peers (TCP). `[::]` includes IPv4.";
          };
          peer.local-discovery = lib.mkOption {
            type = types.bool;
            default = defaults.peer.local-discovery;
            example = false;
            description = "Whether to look for peers in the local network (BEP 14, UDP port 6771).";
          };
          dht.port = lib.mkOption {
            type = types.port;
            default = defaults.dht.port;
            example = 51414;
            description = "UDP port of the DHT node; 0 means any free one, which cannot be combined with {option}`openFirewall`.";
          };
          http.listen = lib.mkOption {
            type = types.either (types.enum [ "off" ]) address;
            default = defaults.http.listen;
            example = "[::]:8080";
            description = "Address of the status page, `/metrics`, `/healthz` and `/readyz`; `off` for none.";
          };
          control.socket = lib.mkOption {
            type = types.either (types.enum [ "off" ]) types.path;
            default = "/run/nano-snapshot-mirror/control.sock";
            example = "off";
            description = "Unix socket for commands to the running mirror; `off` for none.";
          };
        };
      };
    };

    secretSettingsFile = lib.mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/nano-snapshot-mirror.toml";
      description = ''
        File with further settings in TOML, which override {option}`settings`. Use it for URLs of trackers, file servers and webhooks that
        contain a password or key: systemd passes the file to the mirror and the fetch as a credential, so only root needs to be able to
        read it. After a change: {command}`systemctl restart nano-snapshot-mirror`.
      '';
    };

    environmentFile = lib.mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/nano-snapshot-mirror.env";
      description = ''
        File with variables, read by systemd before the mirror and the fetch start, in the form of {manpage}`systemd.exec(5)`. Each key of
        {option}`settings` has a variable, which overrides it: `NANO_SNAPSHOT_MIRROR_TRACKERS__URLS` is `trackers.urls`. An alternative to
        {option}`secretSettingsFile`. Only root needs to be able to read the file. After a change:
        {command}`systemctl restart nano-snapshot-mirror`.
      '';
    };

    openFirewall = lib.mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to open the ports of `settings.peer.listen` (TCP), `settings.dht.port` (UDP) and, for mirrors of the same network,
        local discovery (UDP 6771) in the firewall. Without it other mirrors cannot connect to this one.
      '';
    };

    http.openFirewall = lib.mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to open the port of the status page and metrics in the firewall. `settings.http.listen` must be an address that other
        machines can reach. The port is read-only.
      '';
    };

    producer = {
      enable = lib.mkEnableOption "publishing snapshots of the ledger of a Nano node on this machine";

      ledgerPath = lib.mkOption {
        type = types.externalPath;
        default = "/var/lib/nano/Nano/data.ldb";
        example = "/home/nano/Nano/data.ldb";
        description = "The ledger of the node. The node may run.";
      };

      user = lib.mkOption {
        type = types.str;
        default = "nano";
        example = "nanonode";
        description = ''
          The owner of the ledger. The producer runs as this user, because a copy of a live ledger registers itself in the node's lock file,
          and with the group `nano-snapshot-mirror`.
        '';
      };

      signingKeyFile = lib.mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/var/lib/secrets/nano-snapshot-producer.key";
        description = ''
          The key that signs the pointer, made by {command}`nano-snapshot-mirror keygen`. Only root needs to be able to read it: systemd
          passes it as a credential to the producer, which has no network.
        '';
      };

      signingKeyEncryptedFile = lib.mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/var/lib/secrets/nano-snapshot-producer.key.cred";
        description = ''
          The same key, encrypted for this machine by
          {command}`systemd-creds encrypt --name=signing-key KEY FILE`; instead of {option}`signingKeyFile`.
        '';
      };

      startAt = lib.mkOption {
        type = types.str;
        default = "daily";
        example = "*-*-* 03:00:00";
        description = "When to publish, in the form of {manpage}`systemd.time(7)`. A missed run is made up for.";
      };

      randomizedDelaySec = lib.mkOption {
        type = types.str;
        default = "1h";
        example = "0";
        description = "The maximum random delay of each run, so that producers do not all publish at the same time.";
      };

      layout = lib.mkOption {
        type = types.enum [
          "plain"
          "tar.zst"
        ];
        default = "plain";
        example = "tar.zst";
        description = ''
          The form of a snapshot: the ledger itself, with updates of the size of the changes; or an archive of some two thirds of the size,
          with updates several times larger.
        '';
      };

      extraArgs = lib.mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [
          "--salt"
          "weekly"
        ];
        description = "Further arguments of {command}`nano-snapshot-mirror produce`.";
      };
    };

    fetch = {
      enable = lib.mkEnableOption "fetching a ledger before a node starts for the first time";

      installTo = lib.mkOption {
        type = types.externalPath;
        default = "/var/lib/nano/Nano/data.ldb";
        example = "/srv/nano/Nano/data.ldb";
        description = "The path at which the node expects its ledger. While a file exists there, nothing is fetched.";
      };

      unless = lib.mkOption {
        type = types.listOf types.externalPath;
        default = [ ];
        example = [ "/var/lib/nano/Nano/rocksdb" ];
        description = ''
          While one of these paths exists, nothing is fetched: a ledger in another form, or a marker of yours that the node builds its own.
        '';
      };

      before = lib.mkOption {
        type = types.listOf unitName;
        default = [ ];
        example = [ "nano-node.service" ];
        description = ''
          Services that start only after the ledger exists. Until then their start is skipped, and no switch or boot waits for the
          download; the fetch starts them when it is done.
        '';
      };

      user = lib.mkOption {
        type = types.str;
        default = "nano";
        example = "nanonode";
        description = "The user of the node. The fetch runs as this user, who then owns the ledger.";
      };
    };
  };
}
