# services.nano-snapshot-mirror.producer
{
  config,
  lib,
  nanoSnapshotMirror,
  utils,
  ...
}:
let
  cfg = config.services.nano-snapshot-mirror;
  inherit (nanoSnapshotMirror) unit units;
  name = "nano-snapshot-mirror-producer";
  service = units.services.${name};
  timer = units.timers.${name};
  arguments =
    lib.optionals (cfg.producer.layout != "plain") [
      "--layout"
      cfg.producer.layout
    ]
    ++ cfg.producer.extraArgs;
in
{
  config = lib.mkIf cfg.producer.enable {
    systemd.services.${name} = lib.mkMerge [
      (unit "serviceConfig" (
        service
        // {
          serviceConfig = service.serviceConfig // {
            User = cfg.producer.user;
            ExecStart = lib.concatStringsSep " " (
              [ service.serviceConfig.ExecStart ]
              ++ lib.optional (arguments != [ ]) (utils.escapeSystemdExecArgs arguments)
            );
          };
        }
      ))
      # A new configuration does not abort a copy of hours.
      { restartIfChanged = false; }
    ];

    systemd.timers.${name} = unit "timerConfig" (
      timer
      // {
        timerConfig = timer.timerConfig // {
          OnCalendar = cfg.producer.startAt;
          RandomizedDelaySec = cfg.producer.randomizedDelaySec;
        };
      }
    );
  };
}
