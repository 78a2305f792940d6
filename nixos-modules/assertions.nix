# Contradictions between options. A message names the options and the remedy.
{
  config,
  lib,
  nanoSnapshotMirror,
  ...
}:
let
  cfg = config.services.nano-snapshot-mirror;
  inherit (nanoSnapshotMirror) derived;
  dataDirectory = cfg.settings.data-dir;
  hidden = [
    "/home/"
    "/root/"
    "/run/user/"
  ];
  users = config.users.users;
  urls =
    (cfg.settings.trackers.urls or [ ])
    ++ (cfg.settings.web-seeds.urls or [ ])
    ++ lib.optional (cfg.settings ? hooks.webhook) cfg.settings.hooks.webhook;
  # Services that systemd would refuse for lack of a command. A drop-in of a packaged unit needs none.
  withoutCommand = lib.filter (
    name:
    let
      service = config.systemd.services.${lib.removeSuffix ".service" name};
    in
    lib.hasSuffix ".service" name
    && !(service.serviceConfig ? ExecStart)
    && service.overrideStrategy != "asDropin"
  ) cfg.fetch.before;
  withPassword = lib.filter (
    url: lib.isString url && builtins.match "[a-z]+://[^/]*@.*" url != null
  ) urls;
in
{
  config = lib.mkMerge [
    (lib.mkIf (cfg.enable || cfg.fetch.enable) {
      warnings = lib.optional (withPassword != [ ]) ''
        services.nano-snapshot-mirror.settings has a URL with a password, which all users of this machine can read in the Nix store. Put
        that key into a file of its own, and set services.nano-snapshot-mirror.secretSettingsFile to its path.
      '';
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
          assertion = lib.mutuallyExclusive derived.allPeerPorts derived.allHttpPorts;
          message = ''
            services.nano-snapshot-mirror.settings.peer.listen and settings.http.listen have the same port,
            ${toString derived.allHttpPorts}: give one of them another port.
          '';
        }
        {
          assertion =
            cfg.settings.peer.listen != [ ] && !lib.elem 0 (derived.allPeerPorts ++ derived.allHttpPorts);
          message = ''
            services.nano-snapshot-mirror.settings.peer.listen and settings.http.listen must name a port: sockets and firewall need
            it. Omit the key for the default.
          '';
        }
        {
          assertion = cfg.openFirewall -> derived.peerPorts != [ ];
          message = ''
            services.nano-snapshot-mirror.openFirewall is true, and settings.peer.listen has addresses of this machine only
            (${toString cfg.settings.peer.listen}): set settings.peer.listen = [ "[::]:6881" ] or openFirewall = false.
          '';
        }
        {
          assertion = cfg.openFirewall -> cfg.settings.dht.port != 0;
          message = ''
            services.nano-snapshot-mirror.openFirewall is true, and settings.dht.port is 0: the firewall cannot open a port that is chosen
            at random at each start. Omit settings.dht.port for the default, or set openFirewall = false and open ports yourself.
          '';
        }
        {
          assertion = cfg.http.openFirewall -> derived.httpPorts != [ ];
          message = ''
            services.nano-snapshot-mirror.http.openFirewall is true, and settings.http.listen is ${cfg.settings.http.listen}, which
            others cannot reach: set settings.http.listen = "[::]:9109" or http.openFirewall = false.
          '';
        }
      ];
    })

    (lib.mkIf cfg.producer.enable {
      assertions = [
        {
          assertion = cfg.enable;
          message = ''
            services.nano-snapshot-mirror.producer.enable needs services.nano-snapshot-mirror.enable = true as well: the producer has no
            network, and the mirror beside it publishes and seeds what it makes.
          '';
        }
        {
          assertion = derived.controlSocket != null;
          message = ''
            services.nano-snapshot-mirror.settings.control.socket is "off", and producer.enable is true: the producer reaches the mirror
            over this socket. Omit the key for the default.
          '';
        }
        {
          assertion = cfg.producer.signingKeyFile != null || cfg.producer.signingKeyEncryptedFile != null;
          message = ''
            services.nano-snapshot-mirror.producer.signingKeyFile is not set: make a key with `nano-snapshot-mirror keygen
            /var/lib/secrets/nano-snapshot-producer.key` and name it here.
          '';
        }
        {
          assertion = cfg.producer.signingKeyFile == null || cfg.producer.signingKeyEncryptedFile == null;
          message = ''
            services.nano-snapshot-mirror.producer.signingKeyFile and producer.signingKeyEncryptedFile are both set: keep one of them.
          '';
        }
        {
          assertion = cfg.producer.user != "nano-snapshot-mirror";
          message = ''
            services.nano-snapshot-mirror.producer.user must not be the mirror's own user, which is exposed to the network: name the user who owns
            ${cfg.producer.ledgerPath}.
          '';
        }
        {
          assertion = users ? ${cfg.producer.user};
          message = ''
            services.nano-snapshot-mirror.producer.user is ${cfg.producer.user}, whom this system does not have: name the user who owns
            ${cfg.producer.ledgerPath}.
          '';
        }
      ];
    })

    (lib.mkIf cfg.fetch.enable {
      assertions = [
        {
          assertion = users ? ${cfg.fetch.user};
          message = ''
            services.nano-snapshot-mirror.fetch.user is ${cfg.fetch.user}, whom this system does not have: name the user of the node that will own
            ${cfg.fetch.installTo}.
          '';
        }
        {
          assertion = lib.all (lib.hasSuffix ".service") cfg.fetch.before;
          message = ''
            services.nano-snapshot-mirror.fetch.before has ${toString cfg.fetch.before}: only services can wait for the ledger. Name
            the service of the node.
          '';
        }
      ];
      warnings =
        lib.optional (cfg.fetch.before == [ ]) ''
          services.nano-snapshot-mirror.fetch.before is empty: the node may start before its ledger is there. Name its unit, for example
          [ "nano-node.service" ].
        ''
        ++ lib.optional (withoutCommand != [ ]) ''
          services.nano-snapshot-mirror.fetch.before names ${toString withoutCommand}, and no option defines what that service runs: correct
          the name. If the unit comes from a package in systemd.packages, set
          systemd.services."${lib.removeSuffix ".service" (lib.head withoutCommand)}".overrideStrategy = "asDropin".
        '';
    })
  ];
}
