# services.nano-snapshot-mirror.fetch
{
  config,
  lib,
  nanoSnapshotMirrorUnits,
  ...
}:
let
  cfg = config.services.nano-snapshot-mirror;
  name = "nano-snapshot-fetch";
  service = nanoSnapshotMirrorUnits.services.${name};
  asDefaults = lib.mapAttrs (_: lib.mkDefault);
  directory = builtins.dirOf cfg.fetch.installTo;
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

    systemd.services.${name} = lib.mkMerge [
      (service // { serviceConfig = asDefaults service.serviceConfig; })
      {
        wantedBy = lib.mkIf (cfg.fetch.before == [ ]) [ "multi-user.target" ];
        inherit (cfg.fetch) before;
        requiredBy = cfg.fetch.before;
        unitConfig = {
          RequiresMountsFor = [ directory ];
          ConditionPathExists = map (path: "!${path}") cfg.fetch.unless;
        };
        # It is done once, and a download of hours is not thrown away for a new configuration.
        restartIfChanged = false;
        serviceConfig.User = lib.mkDefault cfg.fetch.user;
      }
    ];
  };
}
