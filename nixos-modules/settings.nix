# Values that the module derives from `settings`: the file, the effect of a change, and the ports.
{ lib, settings }:
let
  defaults = {
    peer.listen = [ "[::]:6881" ];
    peer.local-discovery = true;
    dht.port = 6882;
    http.listen = "127.0.0.1:9109";
    limits = { };
  };

  # `settings` without the values for which `drop` is true; `mask` has the same structure. Sections that become empty are removed.
  without =
    drop: mask: settings:
    lib.filterAttrs (name: value: value != { } || !(mask ? ${name})) (
      lib.mapAttrs (
        name: value:
        if lib.isAttrs value && lib.isAttrs (mask.${name} or null) then
          without drop mask.${name} value
        else
          value
      ) (lib.filterAttrs (name: value: !(mask ? ${name} && drop mask.${name} value)) settings)
    );

  portOf = address: lib.toIntBase10 (lib.last (lib.splitString ":" address));
  hostOf = address: lib.concatStringsSep ":" (lib.init (lib.splitString ":" address));
  isLocal = address: lib.hasPrefix "127." address || lib.hasPrefix "[::1]" address;
  isAny =
    address:
    lib.elem (hostOf address) [
      "[::]"
      "0.0.0.0"
    ];
  isIPv4 = address: !lib.hasPrefix "[" address;

  # Addresses in the form of a socket unit. A port alone means every address, also on a host without IPv6.
  socketOf =
    addresses:
    let
      dual = !lib.any isIPv4 addresses;
    in
    {
      ListenStream = map (
        address: if dual && hostOf address == "[::]" then toString (portOf address) else address
      ) addresses;
      BindIPv6Only = if dual then "both" else "ipv6-only";
    }
    # The socket is bound before the network has its addresses.
    // lib.optionalAttrs (!lib.all (address: isAny address || isLocal address) addresses) {
      FreeBind = true;
    };

  peers = settings.peer.listen;
  http = lib.optional (settings.http.listen != "off") settings.http.listen;
in
{
  inherit defaults portOf isLocal;
  # Only values that differ from the program's defaults: the program keeps a configured port, and replaces a default one that is in
  # use.
  file = without (default: value: !lib.isAttrs default && default == value) defaults settings;
  # Settings that a running mirror cannot apply.
  needRestart = without (live: _: live == true) (import ./reloadable.nix) settings;

  peerSocket = socketOf peers;
  httpSocket = if http == [ ] then null else removeAttrs (socketOf http) [ "BindIPv6Only" ];
  controlSocket = if settings.control.socket == "off" then null else settings.control.socket;

  # Ports that other machines can reach.
  peerPorts = map portOf (lib.filter (address: !isLocal address) peers);
  httpPorts = map portOf (lib.filter (address: !isLocal address) http);
  allHttpPorts = map portOf http;
  allPeerPorts = map portOf peers;
  # 0 is a random port, which a firewall cannot name.
  dhtPorts = lib.filter (port: port != 0) [ settings.dht.port ];
  # The port of local discovery (BEP 14).
  discoveryPorts = lib.optional settings.peer.local-discovery 6771;
}
