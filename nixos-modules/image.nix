# A container image: the program, certificates, nothing else; not even a shell.
{
  lib,
  dockerTools,
  cacert,
  nano-snapshot-mirror,
}:
let
  program = lib.getExe nano-snapshot-mirror;
  user = "65532:65532";
in
dockerTools.buildLayeredImage {
  name = "nano-snapshot-mirror";
  tag = nano-snapshot-mirror.version;
  contents = [
    cacert
    dockerTools.fakeNss
  ];
  fakeRootCommands = ''
    mkdir -p data
    chown ${user} data
  '';
  config = {
    Entrypoint = [ program ];
    User = user;
    WorkingDir = "/data";
    Env = [
      "NANO_SNAPSHOT_MIRROR_DATA_DIR=/data"
      "NANO_SNAPSHOT_MIRROR_HTTP__LISTEN=0.0.0.0:9109"
    ];
    ExposedPorts = {
      "6881/tcp" = { };
      "6881/udp" = { };
      "6882/udp" = { };
      "9109/tcp" = { };
    };
    Volumes."/data" = { };
    StopSignal = "SIGTERM";
    Healthcheck = {
      Test = [
        "CMD"
        program
        "status"
        "--alive"
      ];
      # Nanoseconds.
      Interval = 60000000000;
      Timeout = 10000000000;
      StartPeriod = 120000000000;
      Retries = 3;
    };
  };
}
