# A stand-in for the parts of NixOS that the module sets, so that nixpkgs' lib alone can evaluate and render it.
#
# `options` declares those parts with the types of NixOS: a name of a unit that NixOS would refuse is refused here too, lists of
# several definitions are joined, different scalars of one priority conflict, and an option that is not listed does not exist.
# `render` returns the text that NixOS writes for the units, for tmpfiles and for users.
{ lib }:
let
  inherit (lib) mkOption types;
  inherit (import ./store.nix) package hashed;

  list =
    type:
    mkOption {
      type = types.listOf type;
      default = [ ];
    };
  attributes =
    type:
    mkOption {
      type = types.attrsOf type;
      default = { };
    };
  yes = mkOption {
    type = types.bool;
    default = true;
  };
  string =
    default:
    mkOption {
      type = types.str;
      inherit default;
    };
  kinds = "service|socket|device|mount|automount|swap|target|path|timer|scope|slice";
  unitNames = list (types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](${kinds})");
  scalar = types.oneOf [
    types.bool
    types.int
    types.str
    types.package
  ];
  section = attributes (types.either (types.listOf scalar) scalar);

  unit =
    extra:
    attributes (
      types.submodule {
        options = {
          enable = yes;
          description = mkOption {
            type = types.singleLineStr;
            default = "";
          };
          documentation = list types.str;
          requires = unitNames;
          wants = unitNames;
          after = unitNames;
          before = unitNames;
          bindsTo = unitNames;
          partOf = unitNames;
          conflicts = unitNames;
          onFailure = unitNames;
          onSuccess = unitNames;
          wantedBy = unitNames;
          requiredBy = unitNames;
          restartTriggers = list types.unspecified;
          reloadTriggers = list types.unspecified;
          startLimitIntervalSec = mkOption { type = types.int; };
          startLimitBurst = mkOption { type = types.int; };
          overrideStrategy = mkOption {
            type = types.enum [
              "asDropinIfExists"
              "asDropin"
            ];
            default = "asDropinIfExists";
          };
          unitConfig = section;
        }
        // extra;
      }
    );

  # What NixOS puts into the PATH of every service.
  defaultPath = map package [
    "coreutils"
    "findutils"
    "gnugrep"
    "gnused"
    "systemd"
  ];

  text = value: if lib.isBool value then lib.boolToString value else toString value;
  lines =
    attributes:
    lib.concatStrings (
      lib.concatLists (
        lib.mapAttrsToList (name: value: map (one: "${name}=${text one}\n") (lib.toList value)) attributes
      )
    );
  triggers =
    kind: name: given:
    lib.optionalAttrs (given != [ ]) {
      "X-${kind}-Triggers" = hashed (toString (lib.flatten given)) "X-${kind}-Triggers-${name}";
    };
  # The part of a unit that all kinds have.
  general =
    name: unit:
    let
      joined = lib.mapAttrs (_: toString) (
        lib.filterAttrs (_: given: given != [ ] && given != "") {
          Description = unit.description;
          Documentation = unit.documentation;
          Requires = unit.requires;
          Wants = unit.wants;
          After = unit.after;
          Before = unit.before;
          BindsTo = unit.bindsTo;
          PartOf = unit.partOf;
          Conflicts = unit.conflicts;
          OnFailure = unit.onFailure;
          OnSuccess = unit.onSuccess;
        }
      );
      # These have no default: whether one is set is seen by evaluating it.
      limit =
        key: option:
        lib.optionalAttrs (builtins.tryEval unit.${option}).success { ${key} = unit.${option}; };
    in
    joined
    // triggers "Restart" name unit.restartTriggers
    // triggers "Reload" name unit.reloadTriggers
    // limit "StartLimitIntervalSec" "startLimitIntervalSec"
    // limit "StartLimitBurst" "startLimitBurst"
    // unit.unitConfig;
  unitText =
    title: name: unit: own:
    "[Unit]\n${lines (general name unit)}\n[${title}]\n${own}"
    + lib.optionalString (unit.wantedBy != [ ]) "\n[Install]\nWantedBy=${toString unit.wantedBy}\n";

  serviceText =
    name: unit:
    let
      path = unit.path ++ defaultPath;
      environment = {
        LOCALE_ARCHIVE = "/run/current-system/sw/lib/locale/locale-archive";
        TZDIR = "/etc/zoneinfo";
        PATH = "${lib.makeBinPath path}:${lib.makeSearchPathOutput "bin" "sbin" path}";
      }
      // unit.environment;
      assignments = lib.concatStrings (
        lib.mapAttrsToList (
          key: value: lib.optionalString (value != null) "Environment=${builtins.toJSON "${key}=${value}"}\n"
        ) environment
      );
    in
    unitText "Service" name unit (
      assignments
      + lib.optionalString (!unit.restartIfChanged) "X-RestartIfChanged=false\n"
      + lib.optionalString (!unit.stopIfChanged) "X-StopIfChanged=false\n"
      + lines unit.serviceConfig
    );
  socketText =
    name: unit:
    unitText "Socket" name unit (
      lines unit.socketConfig
      + lib.concatMapStrings (one: "ListenStream=${one}\n") unit.listenStreams
      + lib.concatMapStrings (one: "ListenDatagram=${one}\n") unit.listenDatagrams
    );
  timerText = name: unit: unitText "Timer" name unit (lines unit.timerConfig);

  rule =
    path: type: given:
    "'${type}' '${path}' '${given.mode}' '${given.user}' '${given.group}' '${given.age}' ${given.argument}\n";
in
{
  options = {
    assertions = list types.unspecified;
    warnings = list types.str;
    meta.maintainers = list types.unspecified;
    environment.etc = attributes types.anything;
    environment.systemPackages = list types.unspecified;
    networking.firewall = {
      allowedTCPPorts = list types.port;
      allowedUDPPorts = list types.port;
    };
    users.users = attributes (
      types.submodule {
        options = {
          isSystemUser = yes;
          group = string "";
          description = string "";
          home = string "/var/empty";
          extraGroups = list types.str;
        };
      }
    );
    users.groups = attributes (types.submodule { options.members = list types.str; });
    systemd.package = mkOption {
      type = types.package;
      default = package "systemd";
    };
    systemd.services = unit {
      path = list (types.either types.package types.str);
      environment = attributes (
        types.nullOr (
          types.oneOf [
            types.str
            types.path
            types.package
          ]
        )
      );
      restartIfChanged = yes;
      stopIfChanged = yes;
      serviceConfig = section;
    };
    systemd.sockets = unit {
      listenStreams = list types.str;
      listenDatagrams = list types.str;
      socketConfig = section;
    };
    systemd.timers = unit { timerConfig = section; };
    systemd.tmpfiles.settings = attributes (
      types.attrsOf (
        types.attrsOf (
          types.submodule {
            options = lib.genAttrs [ "mode" "user" "group" "age" ] (_: string "-") // {
              argument = string "";
            };
          }
        )
      )
    );
  };

  render = config: rec {
    # File name to text.
    units =
      lib.mapAttrs' (
        name: one: lib.nameValuePair "${name}.service" (serviceText name one)
      ) config.systemd.services
      // lib.mapAttrs' (
        name: one: lib.nameValuePair "${name}.socket" (socketText name one)
      ) config.systemd.sockets
      // lib.mapAttrs' (
        name: one: lib.nameValuePair "${name}.timer" (timerText name one)
      ) config.systemd.timers;
    # Pairs of a directory of links and the unit that it links.
    links =
      let
        of =
          kind: group:
          lib.concatLists (
            lib.mapAttrsToList (
              name: one:
              map (target: [
                "${target}.wants"
                "${name}.${kind}"
              ]) one.wantedBy
              ++ map (target: [
                "${target}.requires"
                "${name}.${kind}"
              ]) one.requiredBy
            ) group
          );
      in
      of "service" config.systemd.services
      ++ of "socket" config.systemd.sockets
      ++ of "timer" config.systemd.timers;
    tmpfiles = lib.mapAttrs (
      _: paths:
      lib.concatStrings (
        lib.concatLists (lib.mapAttrsToList (path: lib.mapAttrsToList (rule path)) paths)
      )
    ) config.systemd.tmpfiles.settings;
    sysusers =
      lib.concatStrings (lib.mapAttrsToList (name: _: "g ${name} -\n") config.users.groups)
      + lib.concatStrings (
        lib.mapAttrsToList (
          name: user:
          "u ${name} -:${user.group} ${builtins.toJSON user.description} ${user.home}\n"
          + lib.concatMapStrings (group: "m ${name} ${group}\n") user.extraGroups
        ) config.users.users
      )
      + lib.concatStrings (
        lib.mapAttrsToList (
          name: group: lib.concatMapStrings (user: "m ${user} ${name}\n") group.members
        ) config.users.groups
      );
  };
}
