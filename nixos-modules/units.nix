# The settings of our units, as plain data without nixpkgs: the attributes are those of `systemd.services` and so on. The module adds the
# settings that depend on the host. packaging/systemd/ has the same units for other systems, and checks/nix/units.py compares them.
{
  # Paths of the program and of tools that every system has.
  program,
  kill,
  mv,
  rm,
  # [Socket] settings for peers, and for status and metrics; the latter null for none.
  peerSocket,
  httpSocket,
  # Path of the control socket; null for none.
  controlSocket,
  # The node's ledger and its directory.
  ledger,
  ledgerDirectory,
  # The data directory that mirror and producer share.
  dataDirectory,
  # The setting that loads the signing key: LoadCredential or LoadCredentialEncrypted, with the file.
  signingKey,
  # The path of the ledger that a node needs before it starts, and its directory.
  fetchTo,
  fetchDirectory,
}:
let
  hardening = import ./hardening.nix;
  escape = import ./escape.nix;
  documentation = [ "https://github.com/nano-snapshot-mirror/nano-snapshot-mirror" ];
  socket = what: socketConfig: {
    description = "Nano snapshot mirror: ${what}";
    inherit documentation;
    wantedBy = [ "sockets.target" ];
    socketConfig = socketConfig // {
      Service = "nano-snapshot-mirror.service";
    };
  };
  given = present: units: if present then units else { };
  sockets = {
    nano-snapshot-mirror-peer = socket "peers" (peerSocket // { FileDescriptorName = "peer"; });
  }
  // given (httpSocket != null) {
    nano-snapshot-mirror-http = socket "status and metrics" (
      httpSocket // { FileDescriptorName = "http"; }
    );
  }
  // given (controlSocket != null) {
    # This unit creates the directory of the socket and outlives the service.
    nano-snapshot-mirror-control = socket "control" {
      FileDescriptorName = "control";
      ListenStream = escape.path controlSocket;
      # A user who may connect may send commands: root and the group of the mirror.
      SocketMode = "0660";
      DirectoryMode = "0755";
    };
  };
in
{
  inherit sockets;

  services.nano-snapshot-mirror = {
    description = "Mirror of Nano ledger snapshots";
    inherit documentation;
    wants = [ "network-online.target" ];
    after = [ "network-online.target" ];
    wantedBy = [ "multi-user.target" ];
    unitConfig.RequiresMountsFor = [ (escape.word dataDirectory) ];
    serviceConfig = hardening // {
      Type = "notify";
      ExecStart = program;
      ExecReload = "${kill} -HUP $MAINPID";
      # The service receives their descriptors by name, so a restart loses no connection attempt.
      Sockets = map (name: "${name}.socket") (builtins.attrNames sockets);
      Restart = "on-failure";
      RestartSec = "10s";
      TimeoutStopSec = "30s";
      # Notified by the loops that do the work, never by a timer of its own.
      WatchdogSec = "120s";
      StateDirectory = "nano-snapshot-mirror";

      # Exceptions to the hardening: the addresses of peers and DHT nodes are not known in advance, so neither
      # PrivateNetwork= nor IPAddressDeny= can be set. AF_UNIX is for the journal, the service manager and the control socket.
      RestrictAddressFamilies = [ "AF_INET AF_INET6 AF_UNIX" ];
      # @resources stays allowed: the scrub lowers its own priority, and the mirror limits the processes of hooks.
      SystemCallFilter = [
        "@system-service"
        "~@privileged"
      ];

      LimitNOFILE = 16384;
      MemoryMax = "2G";
      TasksMax = 512;
    };
  };

  services.nano-snapshot-mirror-producer = {
    description = "Publish a snapshot of this node's Nano ledger";
    inherit documentation;
    wants = [ "nano-snapshot-mirror.service" ];
    after = [ "nano-snapshot-mirror.service" ];
    unitConfig.RequiresMountsFor = map escape.word [
      ledgerDirectory
      dataDirectory
    ];
    serviceConfig =
      hardening
      // signingKey
      // {
        Type = "oneshot";
        ExecStart = "${program} produce --ledger ${escape.argument ledger} --key %d/signing-key --data-dir ${escape.argument dataDirectory}";
        # A killed copy leaves its reader in the node's lock file, and the node's ledger grows until the reader is cleared.
        ExecStopPost = "${program} clear-readers --ledger ${escape.argument ledger}";
        # The mirror must be able to seed and to remove what the producer writes into the store.
        SupplementaryGroups = [ "nano-snapshot-mirror" ];
        UMask = "0007";
        # The node has priority.
        Nice = 19;
        IOSchedulingClass = "idle";

        # The process with the key has no network: the mirror looks the pointer up and stores it in the DHT for it.
        PrivateNetwork = true;
        IPAddressDeny = "any";
        RestrictAddressFamilies = [ "AF_UNIX" ];

        # Exceptions to the hardening: a consistent copy of a live ledger registers itself in the node's lock file, so the ledger's directory is writable, and
        # visible even below /home.
        ProtectHome = "tmpfs";
        BindPaths = [ (escape.bind ledgerDirectory) ];
        ReadWritePaths = [ (escape.word dataDirectory) ];

        MemoryMax = "2G";
        TasksMax = 64;
      };
  };

  services.nano-snapshot-fetch =
    let
      # In the ledger's directory, so that the last step is a rename.
      work = "${fetchDirectory}/.nano-snapshot-fetch";
    in
    {
      description = "Fetch a Nano ledger before the node's first start";
      inherit documentation;
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      unitConfig = {
        RequiresMountsFor = [ (escape.word fetchDirectory) ];
        ConditionPathExists = [ "!${escape.path fetchTo}" ];
      };
      serviceConfig = hardening // {
        Type = "oneshot";
        ExecStart = "${program} --once --extract --discard-archive --data-dir ${escape.argument work}";
        ExecStartPost = [
          "${mv} --no-clobber --no-target-directory ${escape.argument "${work}/data.ldb"} ${escape.argument fetchTo}"
          "${rm} --recursive ${escape.argument work}"
        ];
        UMask = "0027";
        Restart = "on-failure";
        RestartSec = "60s";

        # Exceptions to the hardening: peers and the DHT are on the network, and the ledger is written to the node's directory.
        RestrictAddressFamilies = [ "AF_INET AF_INET6 AF_UNIX" ];
        ProtectHome = "tmpfs";
        BindPaths = [ (escape.bind fetchDirectory) ];

        MemoryMax = "2G";
        TasksMax = 512;
      };
    };

  timers.nano-snapshot-mirror-producer = {
    description = "Publish a snapshot of this node's Nano ledger every day";
    inherit documentation;
    wantedBy = [ "timers.target" ];
    timerConfig = {
      OnCalendar = "daily";
      Persistent = true;
      RandomizedDelaySec = "1h";
    };
  };
}
