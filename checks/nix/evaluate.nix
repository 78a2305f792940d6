# Evaluates the module with nixpkgs' lib alone: the options of NixOS that it sets are declared here, without meaning.
#
#   nix-instantiate --eval --strict --json checks/nix/evaluate.nix --arg lib 'import NIXPKGS/lib' --arg configuration FILE
#
# Gives what is left after merging: assertions that fail, warnings, units, firewall, users, the settings as TOML would have them.
{
  lib,
  configuration ? { },
}:
let
  inherit (lib) mkOption types;
  anything = mkOption {
    type = types.attrsOf types.anything;
    default = { };
  };
  list =
    type:
    mkOption {
      type = types.listOf type;
      default = [ ];
    };
  # Settings of units as NixOS has them: equal values of one priority merge, lists are joined, everything else conflicts.
  section = mkOption {
    type = types.attrsOf (
      types.oneOf [
        (types.listOf types.str)
        types.bool
        types.int
        types.str
      ]
    );
    default = { };
  };
  string = mkOption {
    type = types.str;
    default = "";
  };
  units = mkOption {
    default = { };
    type = types.attrsOf (
      types.submodule {
        options = {
          description = string;
          documentation = list types.str;
          wants = list types.str;
          after = list types.str;
          before = list types.str;
          wantedBy = list types.str;
          requiredBy = list types.str;
          restartTriggers = list types.unspecified;
          restartIfChanged = mkOption {
            type = types.bool;
            default = true;
          };
          stopIfChanged = mkOption {
            type = types.bool;
            default = true;
          };
          environment = mkOption {
            type = types.attrsOf types.str;
            default = { };
          };
          unitConfig = section;
          serviceConfig = section;
          socketConfig = section;
          timerConfig = section;
        };
      }
    );
  };
  stubs = {
    options = {
      assertions = list types.unspecified;
      warnings = list types.str;
      meta.maintainers = list types.unspecified;
      environment.etc = anything;
      environment.systemPackages = list types.unspecified;
      networking.firewall.allowedTCPPorts = list types.port;
      networking.firewall.allowedUDPPorts = list types.port;
      users.users = mkOption {
        default = { };
        type = types.attrsOf (
          types.submodule {
            freeformType = types.attrsOf types.anything;
            options.group = string;
          }
        );
      };
      users.groups = anything;
      systemd.services = units;
      systemd.sockets = units;
      systemd.timers = units;
      systemd.tmpfiles.settings = anything;
    };
  };
  # As much of nixpkgs as the module asks for. Files are named, not made.
  pkgs = {
    coreutils = "/coreutils";
    nano-snapshot-mirror = {
      type = "derivation";
      name = "nano-snapshot-mirror";
      outPath = "/nano-snapshot-mirror";
      meta.mainProgram = "nano-snapshot-mirror";
    };
    stdenv.buildPlatform.canExecute = _: true;
    stdenv.hostPlatform = { };
    runCommand =
      name: _: _:
      "/checked/${name}";
    formats.toml = _: {
      type =
        let
          value =
            types.oneOf [
              types.bool
              types.int
              types.float
              types.str
              types.path
              (types.attrsOf value)
              (types.listOf value)
            ]
            // {
              description = "TOML value";
            };
        in
        value;
      generate = name: _: "/written/${name}";
    };
  };
  evaluated = lib.evalModules {
    modules = [
      ../../nixos-modules
      stubs
      configuration
    ];
    specialArgs = {
      inherit pkgs;
      utils.escapeSystemdExecArgs = lib.concatMapStringsSep " " (one: "\"${one}\"");
    };
  };
  inherit (evaluated) config;
in
{
  failed = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
  inherit (config) warnings;
  inherit (config.services.nano-snapshot-mirror) settings producer fetch;
  inherit (config.users) users groups;
  services = lib.mapAttrs (
    _: unit: builtins.removeAttrs unit [ "restartTriggers" ]
  ) config.systemd.services;
  inherit (config.systemd) sockets timers;
  tmpfiles = config.systemd.tmpfiles.settings;
  inherit (config.networking) firewall;
  options = map (option: builtins.removeAttrs option [ "declarations" ]) (
    lib.filter (
      option:
      lib.hasPrefix "services.nano-snapshot-mirror" option.name
      && !option.internal
      && option.visible == true
    ) (lib.optionAttrSetToDocList evaluated.options)
  );
}
