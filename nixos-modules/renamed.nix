# Options of earlier versions. They still work, with a warning that names the new ones.
{ lib, ... }:
let
  here = [
    "services"
    "nano-snapshot-mirror"
  ];
  value = path: config: lib.getAttrFromPath (here ++ path) config;
  moved =
    from: to: change:
    lib.mkChangedOptionModule (here ++ from) (here ++ to) (config: change (value from config));
  renamed = from: to: lib.mkRenamedOptionModule (here ++ from) (here ++ to);
  # The value that mkMergedOptionModule passes for an option that is not set.
  orDefault = given: default: if given == "_mkMergedOptionModule" then default else given;
in
{
  imports = [
    (moved [ "peerPort" ] [ "settings" "peer" "listen" ] (port: [ "[::]:${toString port}" ]))
    (moved [ "dhtPort" ] [ "settings" "dht" "port" ] lib.id)
    (moved [ "maxUploadSpeed" ] [ "settings" "limits" "upload" ] (
      speed: lib.mkIf (speed != null) speed
    ))
    (lib.mkMergedOptionModule
      [
        (
          here
          ++ [
            "http"
            "address"
          ]
        )
        (
          here
          ++ [
            "http"
            "port"
          ]
        )
      ]
      (
        here
        ++ [
          "settings"
          "http"
          "listen"
        ]
      )
      (
        config:
        let
          address = orDefault (value [ "http" "address" ] config) "127.0.0.1";
          port = orDefault (value [ "http" "port" ] config) 9109;
        in
        "${address}:${toString port}"
      )
    )
    (renamed [ "producer" "schedule" ] [ "producer" "startAt" ])
    (renamed [ "producer" "randomizedDelay" ] [ "producer" "randomizedDelaySec" ])
    (renamed [ "producer" "extraArguments" ] [ "producer" "extraArgs" ])
  ];
}
