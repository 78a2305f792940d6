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
        Everyone on this machine can read the file. URLs with a password or key belong into {option}`secretSettingsFile`.
        Ports are here alone: socket units and firewall follow. A change of what the mirror can take over while it runs reloads it, any
        other restarts it and its sockets.
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
              Where snapshots are kept. An update needs room for two of them beside each other, on btrfs and XFS only for what changed.
              The mirror waits for the file system that the directory is on, and creates the directory there.
            '';
          };
          peer.listen = lib.mkOption {
            type = types.listOf address;
            default = defaults.peer.listen;
            example = [ "[::]:51413" ];
            description = "Where to accept peers (TCP). `[::]` takes IPv4 as well.";
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
            description = "UDP port of the DHT node; 0 takes any free one, which the firewall does not open.";
          };
          http.listen = lib.mkOption {
            type = types.either (types.enum [ "off" ]) address;
            default = defaults.http.listen;
            example = "[::]:8080";
            description = "Where the status page, `/metrics`, `/healthz` and `/readyz` are; `off` for none.";
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
        File with further settings in TOML, which override {option}`settings`. This is the way for URLs of trackers, file servers and webhooks
        that have a password or key in them: systemd hands the file to the mirror and the fetch as a credential, and only root need be
        able to read it. After a change of it: {command}`systemctl restart nano-snapshot-mirror`.
      '';
    };

    environmentFile = lib.mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/nano-snapshot-mirror.env";
      description = ''
        File with variables, read by systemd before the mirror and the fetch start, in the form of {manpage}`systemd.exec(5)`. Each key of
        {option}`settings` has a variable, which overrides it: `NANO_SNAPSHOT_MIRROR_TRACKERS__URLS` is `trackers.urls`. Another way for
        secrets, where variables are at hand. Only root need be able to read the file. After a change of it:
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
        Whether to open the port of the status page and metrics in the firewall. `settings.http.listen` must be an address that others
        reach. Nothing can be changed through it.
      '';
    };

    producer = {
      enable = lib.mkEnableOption "publishing snapshots of the ledger of a Nano node on this machine";

      ledgerPath = lib.mkOption {
        type = types.externalPath;
        default = "/var/lib/nano/Nano/data.ldb";
        example = "/home/nano/Nano/data.ldb";
        description = "The ledger of the node, which may run.";
      };

      user = lib.mkOption {
        type = types.str;
        default = "nano";
        example = "nanonode";
        description = ''
          The owner of the ledger, as whom the producer runs: a copy of a live ledger enters itself in the node's lock file. It is made a
          member of the group `nano-snapshot-mirror` while it runs.
        '';
      };

      signingKeyFile = lib.mkOption {
        type = types.nullOr types.externalPath;
        default = null;
        example = "/var/lib/secrets/nano-snapshot-producer.key";
        description = ''
          The key that signs the pointer, made by {command}`nano-snapshot-mirror keygen`. Only root need be able to read it: systemd
          hands it to the producer, which has no network, as a credential.
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
        description = "When to publish, in the form of {manpage}`systemd.time(7)`. A run that was missed is made up for.";
      };

      randomizedDelaySec = lib.mkOption {
        type = types.str;
        default = "1h";
        example = "0";
        description = "By how much at most to delay each run, so that producers do not all publish at the same moment.";
      };

      layout = lib.mkOption {
        type = types.enum [
          "plain"
          "tar.zst"
        ];
        default = "plain";
        example = "tar.zst";
        description = ''
          The form of a snapshot: the ledger itself, of which an update costs what changed, or an archive of some two thirds of the size,
          of which an update costs several times that.
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
        description = "Where the node expects its ledger. While a file is there nothing is fetched.";
      };

      unless = lib.mkOption {
        type = types.listOf types.externalPath;
        default = [ ];
        example = [ "/var/lib/nano/Nano/rocksdb" ];
        description = ''
          While one of these is there nothing is fetched either: a ledger in another form, or a mark of yours that the node is to build its own.
        '';
      };

      before = lib.mkOption {
        type = types.listOf unitName;
        default = [ ];
        example = [ "nano-node.service" ];
        description = ''
          Services that start only once the ledger is in place. Until then their start is skipped, and no switch or boot waits for the
          download; the fetch starts them when it is done.
        '';
      };

      user = lib.mkOption {
        type = types.str;
        default = "nano";
        example = "nanonode";
        description = "The user of the node, who fetches and will own the ledger.";
      };
    };
  };
}
