# services.nano-snapshot-mirror
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nano-snapshot-mirror;
  program = lib.getExe cfg.package;
  user = "nano-snapshot-mirror";
  dataDirectory = cfg.settings.data-dir;
  ownDirectory = "/var/lib/nano-snapshot-mirror";

  units = import ./units.nix {
    inherit program dataDirectory;
    kill = "${pkgs.coreutils}/bin/kill";
    mv = "${pkgs.coreutils}/bin/mv";
    rm = "${pkgs.coreutils}/bin/rm";
    inherit (cfg) peerPort;
    http = "${cfg.http.address}:${toString cfg.http.port}";
    ledger = cfg.producer.ledgerPath;
    ledgerDirectory = builtins.dirOf cfg.producer.ledgerPath;
    signingKey = toString cfg.producer.signingKeyFile;
    fetchTo = cfg.fetch.installTo;
    fetchDirectory = builtins.dirOf cfg.fetch.installTo;
  };
  # What a unit says by itself gives way to what a user says.
  asDefaults = lib.mapAttrs (_: lib.mkDefault);
  unit =
    part: said:
    said
    // {
      ${part} = asDefaults said.${part};
    };

  format = pkgs.formats.toml { };
  written = format.generate "nano-snapshot-mirror.toml" cfg.settings;
  # A mistake in the settings fails the build, with the words of the program itself.
  checked = pkgs.runCommand "nano-snapshot-mirror-config.toml" { } ''
    cp ${written} "$out"
    ${lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
      HOME=$PWD ${program} check-config --config "$out"
    ''}
  '';
  hidden = [
    "/home/"
    "/root/"
    "/run/user/"
  ];
in
{
  imports = [
    ./options.nix
    ./producer.nix
    ./fetch.nix
  ];

  config = lib.mkMerge [
    { _module.args.nanoSnapshotMirrorUnits = units; }

    (lib.mkIf (cfg.enable || cfg.producer.enable || cfg.fetch.enable) {
      # Where the program looks by itself, so that an operator's commands see the same settings.
      environment.etc."nano-snapshot-mirror/config.toml".source = checked;
      environment.systemPackages = [ cfg.package ];
      services.nano-snapshot-mirror.settings = {
        peer.listen = lib.mkDefault [ "[::]:${toString cfg.peerPort}" ];
        dht.port = lib.mkDefault cfg.dhtPort;
        control.socket = lib.mkDefault units.controlSocket;
        http.listen = lib.mkDefault "${cfg.http.address}:${toString cfg.http.port}";
        limits = lib.mkIf (cfg.maxUploadSpeed != null) { upload = lib.mkDefault cfg.maxUploadSpeed; };
      };
    })

    (lib.mkIf cfg.enable {
      assertions = [
        {
          assertion = !(lib.any (directory: lib.hasPrefix directory "${dataDirectory}/") hidden);
          message = ''
            services.nano-snapshot-mirror.settings.data-dir is ${dataDirectory}, which the mirror cannot see: choose a directory outside
            /home, /root and /run/user, for example /srv/nano-snapshots.
          '';
        }
        {
          assertion = cfg.peerPort != cfg.http.port;
          message = ''
            services.nano-snapshot-mirror.peerPort and services.nano-snapshot-mirror.http.port are both ${toString cfg.peerPort}: give one of
            them another port.
          '';
        }
      ];

      # Static, so that a node's user can join the group to read the ledger.
      users.users.${user} = {
        isSystemUser = true;
        group = user;
        description = "Mirror of Nano ledger snapshots";
      };
      users.groups.${user} = { };

      systemd.sockets = lib.mapAttrs (_: unit "socketConfig") units.sockets // {
        nano-snapshot-mirror-control =
          lib.recursiveUpdate (unit "socketConfig" units.sockets.nano-snapshot-mirror-control)
            {
              socketConfig.SocketGroup = lib.mkDefault user;
            };
      };

      systemd.services.nano-snapshot-mirror = lib.mkMerge [
        (unit "serviceConfig" units.services.nano-snapshot-mirror)
        {
          restartTriggers = [ checked ];
          # A restart keeps the sockets; stopping and starting would close them in between.
          stopIfChanged = false;
          unitConfig.RequiresMountsFor = [ dataDirectory ];
          serviceConfig = asDefaults {
            User = user;
            Group = user;
            # New files and directories belong to the group, and the group may write: a producer shares them.
            StateDirectoryMode = "2770";
            UMask = "0007";
            ReadWritePaths = lib.optional (dataDirectory != ownDirectory) dataDirectory;
          };
        }
      ];

      systemd.tmpfiles.settings.nano-snapshot-mirror = lib.mkIf (dataDirectory != ownDirectory) {
        ${dataDirectory}.d = {
          inherit user;
          group = user;
          mode = "2770";
        };
      };

      networking.firewall = {
        allowedTCPPorts =
          lib.optional cfg.openFirewall cfg.peerPort ++ lib.optional cfg.http.openFirewall cfg.http.port;
        allowedUDPPorts = lib.optional cfg.openFirewall cfg.dhtPort;
      };
    })
  ];

  meta.maintainers = [ ];
}
