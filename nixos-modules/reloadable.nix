# The settings that a running mirror applies on a reload; `true` means a key or a whole section. Plain data, which checks/nix/run compares with
# docs/configuration.md.
{
  poll-interval = true;
  seed-peers = true;
  stream = true;
  peer = {
    max-connections = true;
    max-connections-per-torrent = true;
    max-connections-per-ip = true;
  };
  limits = true;
  retention = true;
  scrub.interval = true;
  hooks = true;
  log.level = true;
}
