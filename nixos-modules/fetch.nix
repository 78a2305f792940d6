# services.nano-snapshot-mirror.fetch
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  cfg = config.services.nano-snapshot-mirror;
  program = lib.getExe cfg.package;
  directory = builtins.dirOf cfg.fetch.installTo;
  # Beside the ledger's place, so that the last step is a rename.
  work = "${directory}/.nano-snapshot-fetch";
  escape = utils.escapeSystemdExecArgs;
in
{
  config = lib.mkIf cfg.fetch.enable {
    assertions = [
      {
        assertion = config.users.users ? ${cfg.fetch.user};
        message = ''
          services.nano-snapshot-mirror.fetch.user is ${cfg.fetch.user}, whom this system does not have: name the user of the node that will own
          ${cfg.fetch.installTo}.
        '';
      }
    ];
    warnings = lib.optional (cfg.fetch.before == [ ]) ''
      services.nano-snapshot-mirror.fetch.before is empty: the node may start before its ledger is there. Name its unit, for example
      [ "nano-node.service" ].
    '';

    # Only made when it is missing; what is there stays as it is.
    systemd.tmpfiles.settings.nano-snapshot-fetch.${directory}.d = {
      user = ":${cfg.fetch.user}";
      group = ":${(config.users.users.${cfg.fetch.user} or { group = "root"; }).group}";
      mode = ":0750";
    };

    systemd.services.nano-snapshot-fetch = {
      description = "Fetch a Nano ledger before the node's first start";
      documentation = [ "https://github.com/nano-snapshot-mirror/nano-snapshot-mirror" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      wantedBy = lib.mkIf (cfg.fetch.before == [ ]) [ "multi-user.target" ];
      inherit (cfg.fetch) before;
      requiredBy = cfg.fetch.before;
      unitConfig = {
        ConditionPathExists = "!${cfg.fetch.installTo}";
        RequiresMountsFor = [ directory ];
      };
      # It is done once, and a download of hours is not thrown away for a new configuration.
      restartIfChanged = false;
      serviceConfig = lib.mapAttrs (_: lib.mkDefault) (
        import ./hardening.nix
        // {
          Type = "oneshot";
          User = cfg.fetch.user;
          ExecStart = escape [
            program
            "--once"
            "--extract"
            "--discard-archive"
            "--data-dir"
            work
          ];
          ExecStartPost = [
            (escape [
              "${pkgs.coreutils}/bin/mv"
              "--no-clobber"
              "--no-target-directory"
              "${work}/data.ldb"
              cfg.fetch.installTo
            ])
            (escape [
              "${pkgs.coreutils}/bin/rm"
              "--recursive"
              work
            ])
          ];
          UMask = "0027";
          Restart = "on-failure";
          RestartSec = "60s";

          # Exceptions to the hardening: peers and the DHT are on the network, and the ledger is written where the node will look for it.
          RestrictAddressFamilies = [ "AF_INET AF_INET6 AF_UNIX" ];
          ProtectHome = "tmpfs";
          BindPaths = [ directory ];
        }
      );
    };
  };
}
