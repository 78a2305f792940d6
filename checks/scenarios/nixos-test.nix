# One scenario as a NixOS test: the machines of stories/NAME.toml with the module, and the script of stories/NAME.py.
name:
{
  self,
  lib,
  pkgs,
  ...
}:
let
  story = lib.importTOML (./stories + "/${name}.toml");
  merge = lib.recursiveUpdate;
  ledgers = ../../daemon/nano-ledger/tests/data;
  hosts = import ../nix/hosts.nix;

  machine =
    {
      dht ? false,
      mirror ? false,
      producer ? null,
      node ? false,
      libtorrent ? false,
      open-firewall ? true,
      host ? null,
      switches ? [ ],
      disk ? null,
      settings ? { },
    }:
    { pkgs, ... }:
    let
      python = pkgs.python3.withPackages (
        packages:
        lib.optional libtorrent packages.libtorrent-rasterbar
        ++ lib.optional (producer != null) packages.lmdb
      );
    in
    {
      imports = [ self.nixosModules.default ] ++ lib.optional (host != null) hosts.${host};
      specialisation = lib.genAttrs switches (other: {
        configuration = hosts.${other};
      });
      environment.systemPackages = [
        # Also where no option of the module is enabled: a client runs the program by hand.
        self.packages.${pkgs.stdenv.hostPlatform.system}.default
        python
        pkgs.curl
        pkgs.nftables
      ];
      environment.etc = {
        "scenario/before.ldb".source = "${ledgers}/before.ldb";
        "scenario/after.ldb".source = "${ledgers}/after.ldb";
        "scenario/dht.py".source = ./dht.py;
        "scenario/knock.py".source = ./knock.py;
        "scenario/node.py".source = ./node.py;
        "scenario/store-0.1".source = ./stories/store-0.1;
        "scenario/libtorrent_peer.py".source = ../interop/libtorrent_peer.py;
      }
      // lib.optionalAttrs (switches != [ ]) {
        "scenario/switch" = {
          mode = "0755";
          text = ''
            #!${pkgs.runtimeShell}
            exec /run/booted-system/specialisation/"$1"/bin/switch-to-configuration test
          '';
        };
      }
      // lib.optionalAttrs (!mirror && !node) {
        "nano-snapshot-mirror/config.toml".source = (pkgs.formats.toml { }).generate "config.toml" (
          merge (story.settings or { }) settings
        );
      }
      // lib.optionalAttrs (producer != null) {
        "nano-snapshot-mirror/producer.key" = {
          source = ./stories/producer.key;
          mode = "0600";
        };
      };
      services.nano-snapshot-mirror = lib.mkIf (mirror || node) {
        enable = mirror;
        fetch = lib.mkIf node {
          enable = true;
          before = [ "nano-node.service" ];
        };
        openFirewall = open-firewall;
        settings = merge (story.settings or { }) settings;
        producer = lib.mkIf (producer != null) {
          enable = true;
          signingKeyFile = lib.mkDefault "/etc/nano-snapshot-mirror/producer.key";
          startAt = lib.mkIf (producer ? schedule) producer.schedule;
          randomizedDelaySec = "0";
          extraArgs = producer.arguments or [ ];
        };
      };
      users = lib.mkIf (producer != null || node) {
        users.nano = {
          isSystemUser = true;
          group = "nano";
        };
        groups.nano = { };
      };
      systemd.tmpfiles.settings.ledger = lib.mkIf (producer != null) {
        "/var/lib/nano/Nano".d = {
          user = "nano";
          group = "nano";
        };
        "/var/lib/nano/Nano/data.ldb".C = {
          user = "nano";
          group = "nano";
          mode = "0644";
          argument = "${ledgers}/before.ldb";
        };
      };
      # Starts only if the ledger exists and belongs to the node, as a node would.
      systemd.services.nano-node = lib.mkIf node {
        description = "A node";
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          User = "nano";
          ExecStart = lib.mkDefault "${pkgs.runtimeShell} -c 'test -w /var/lib/nano/Nano/data.ldb'";
        };
      };
      # As checks/scenarios/lab/install.py has it: a disk that appears only when the boot is well under way.
      systemd.services.slow-disk = lib.mkIf (disk != null) {
        description = "The disk is slow to appear";
        unitConfig.DefaultDependencies = false;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${pkgs.coreutils}/bin/sleep 2";
        };
      };
      systemd.mounts = lib.optional (disk != null) {
        what = "tmpfs";
        where = disk;
        type = "tmpfs";
        options = "size=64m,mode=0755,_netdev";
        requires = [ "slow-disk.service" ];
        after = [ "slow-disk.service" ];
        wantedBy = [ "multi-user.target" ];
      };
      systemd.services.scenario-dht = lib.mkIf dht {
        description = "A DHT of this test's own";
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "${lib.getExe python} /etc/scenario/dht.py serve";
      };
      networking.firewall = {
        allowedTCPPorts = lib.optional libtorrent 6891;
        allowedUDPPortRanges = lib.optional dht {
          from = 7000;
          to = 7007;
        };
      };
    };
in
pkgs.testers.runNixOSTest {
  inherit name;
  globalTimeout = 600;
  nodes = lib.mapAttrs (_: machine) story.machines;
  testScript = builtins.readFile ./stories/prelude.py + builtins.readFile (./stories + "/${name}.py");
}
