# services.nano-snapshot-mirror.producer
{
  config,
  lib,
  nanoSnapshotMirrorUnits,
  utils,
  ...
}:
let
  cfg = config.services.nano-snapshot-mirror;
  name = "nano-snapshot-mirror-producer";
  service = nanoSnapshotMirrorUnits.services.${name};
  timer = nanoSnapshotMirrorUnits.timers.${name};
  asDefaults = lib.mapAttrs (_: lib.mkDefault);
  arguments =
    lib.optionals (cfg.producer.layout != "plain") [
      "--layout"
      cfg.producer.layout
    ]
    ++ cfg.producer.extraArguments;
in
{
  config = lib.mkIf cfg.producer.enable {
    assertions = [
      {
        assertion = cfg.enable;
        message = ''
          services.nano-snapshot-mirror.producer.enable needs services.nano-snapshot-mirror.enable = true as well: the producer has no
          network, and the mirror beside it publishes and seeds what it makes.
        '';
      }
      {
        assertion = cfg.producer.signingKeyFile != null;
        message = ''
          services.nano-snapshot-mirror.producer.signingKeyFile is not set: make a key with `nano-snapshot-mirror keygen
          /var/lib/secrets/nano-snapshot-producer.key` and name it here.
        '';
      }
      {
        assertion = cfg.producer.user != "nano-snapshot-mirror";
        message = ''
          services.nano-snapshot-mirror.producer.user must not be the mirror's own user, which talks to strangers: name the user who owns
          ${cfg.producer.ledgerPath}.
        '';
      }
      {
        assertion = config.users.users ? ${cfg.producer.user};
        message = ''
          services.nano-snapshot-mirror.producer.user is ${cfg.producer.user}, whom this system does not have: name the user who owns
          ${cfg.producer.ledgerPath}.
        '';
      }
    ];

    systemd.services.${name} = lib.mkMerge [
      (service // { serviceConfig = asDefaults service.serviceConfig; })
      {
        # A running copy of hours is not thrown away for a new configuration.
        restartIfChanged = false;
        serviceConfig = {
          User = lib.mkDefault cfg.producer.user;
          ExecStart = lib.mkIf (arguments != [ ]) (
            "${service.serviceConfig.ExecStart} ${utils.escapeSystemdExecArgs arguments}"
          );
        };
      }
    ];

    systemd.timers.${name} = lib.mkMerge [
      (timer // { timerConfig = asDefaults timer.timerConfig; })
      {
        timerConfig = {
          OnCalendar = cfg.producer.schedule;
          RandomizedDelaySec = cfg.producer.randomizedDelay;
        };
      }
    ];
  };
}
