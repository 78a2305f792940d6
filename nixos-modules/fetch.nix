# services.nano-snapshot-mirror.fetch
#
# The node waits by a condition, not by a dependency: its start is skipped while there is no ledger, and the fetch starts it when the
# ledger exists. So no switch and no boot waits for the download, and a failed attempt, which systemd repeats, does not leave the node
# off. With Requires= and After= both would happen.
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
    # Created only if it is missing; an existing one is not changed.
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
            # A target waits for the units that it wants unless they are ordered after it.
            after = [ "multi-user.target" ];
          })
          {
            onSuccess = cfg.fetch.before;
            unitConfig.ConditionPathExists = map (path: "!${escape.path path}") cfg.fetch.unless;
            # It runs once, and a new configuration does not abort a download of hours.
            restartIfChanged = false;
            serviceConfig = {
              User = lib.mkDefault cfg.fetch.user;
              # Units that require this one, besides the node, do not fail with the first attempt.
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
