{
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) types;
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
        The file is readable by everybody; no key of it is a secret.
      '';
      default = { };
      example = {
        poll-interval = "300s";
        limits.upload = "20MiB/s";
        seed-peers = [ "seed.example.org:6881" ];
      };
      type = types.submodule {
        freeformType = (pkgs.formats.toml { }).type;
        options.data-dir = lib.mkOption {
          type = types.path;
          default = "/var/lib/nano-snapshot-mirror";
          example = "/srv/nano-snapshots";
          description = ''
            Where snapshots are kept. An update needs room for two of them beside each other, on btrfs and XFS only for what changed.
          '';
        };
      };
    };

    openFirewall = lib.mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to open {option}`services.nano-snapshot-mirror.peerPort` (TCP) and {option}`services.nano-snapshot-mirror.dhtPort`
        (UDP) in the firewall. Without it other mirrors cannot connect to this one.
      '';
    };

    peerPort = lib.mkOption {
      type = types.port;
      default = 6881;
      example = 51413;
      description = "TCP port on which peers connect, on all addresses.";
    };

    dhtPort = lib.mkOption {
      type = types.port;
      default = 6882;
      example = 51414;
      description = "UDP port of the DHT node.";
    };

    maxUploadSpeed = lib.mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "10MiB/s";
      description = "How much to upload to all peers together, in bytes a second with a unit; null for no limit.";
    };

    http = {
      address = lib.mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "[::1]";
        description = "Address of the status page, `/metrics`, `/healthz` and `/readyz`. IPv6 addresses stand in brackets.";
      };

      port = lib.mkOption {
        type = types.port;
        default = 9109;
        example = 8080;
        description = "TCP port of the status page and metrics.";
      };

      openFirewall = lib.mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether to open the port of the status page and metrics in the firewall. Nothing can be changed through it.";
      };
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

      schedule = lib.mkOption {
        type = types.str;
        default = "daily";
        example = "*-*-* 03:00:00";
        description = "When to publish, in the form of {manpage}`systemd.time(7)`. A run that was missed is made up for.";
      };

      randomizedDelay = lib.mkOption {
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

      extraArguments = lib.mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [
          "--salt"
          "weekly"
        ];
        description = "What else to tell {command}`nano-snapshot-mirror produce`.";
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
        type = types.listOf types.str;
        default = [ ];
        example = [ "nano-node.service" ];
        description = "Units that start only once the ledger is in place. They are made to require it.";
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
