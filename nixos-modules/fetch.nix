# services.nano-snapshot-mirror.fetch
#
# The node is held back by a condition, not by a dependency: its start is skipped while there is no ledger, and the fetch starts it when
# the ledger is in place. So no switch and no boot waits for the download, and a failed attempt, which systemd repeats, leaves nothing
# behind that stays off. With Requires= and After= both would happen.
{
  config,
  lib,
  nanoSnapshotMirror,
  ...
}:
let
  cfg = config.services.nano-snapshot-mirror;
  inherit (nanoSnapshotMirror)
    asDefaults
    makeDirectories
    secrets
    unit
    units
    ;
  escape = import ./escape.nix;
  name = "nano-snapshot-fetch";
  directory = builtins.dirOf cfg.fetch.installTo;
  ledgers = [ cfg.fetch.installTo ] ++ cfg.fetch.unless;
  node = {
    wants = [ "${name}.service" ];
    # `|`: one of them suffices.
    unitConfig.ConditionPathExists = map (path: "|${escape.path path}") ledgers;
  };
in
{
  config = lib.mkIf cfg.fetch.enable {
    # Only made when it is missing; what is there stays as it is.
    systemd.tmpfiles.settings.nano-snapshot-fetch.${escape.path directory}.d = {
      user = ":${cfg.fetch.user}";
      group = ":${(config.users.users.${cfg.fetch.user} or { group = "root"; }).group}";
      mode = ":0750";
    };

    systemd.services = lib.mkMerge [
      (lib.genAttrs (map (lib.removeSuffix ".service") cfg.fetch.before) (_: node))
      {
        ${name} = lib.mkMerge [
          (unit "serviceConfig" units.services.${name})
          (lib.mkIf (cfg.fetch.before == [ ]) {
            wantedBy = [ "multi-user.target" ];
            # A target waits for what it wants unless that comes after it.
            after = [ "multi-user.target" ];
          })
          {
            onSuccess = cfg.fetch.before;
            unitConfig.ConditionPathExists = map (path: "!${escape.path path}") cfg.fetch.unless;
            # It is done once, and a download of hours is not thrown away for a new configuration.
            restartIfChanged = false;
            serviceConfig = {
              User = lib.mkDefault cfg.fetch.user;
              # What requires this unit, besides the node, does not fail with the first attempt.
              RestartMode = lib.mkDefault "direct";
              ExecStartPre = lib.mkBefore [ (makeDirectories name) ];
            }
            // asDefaults secrets;
          }
        ];
      }
    ];
  };
}
