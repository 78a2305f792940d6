# What the module derives from `settings`: the file, what a change of it means, and the ports.
{ lib, settings }:
let
  defaults = {
    peer.listen = [ "[::]:6881" ];
    peer.local-discovery = true;
    dht.port = 6882;
    http.listen = "127.0.0.1:9109";
    limits = { };
  };

  # `settings` without what `drop` refuses; `mask` has the same structure, and sections that become empty by that go with it.
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

  # Addresses as a socket unit has them. A port alone is every address, also on a host without IPv6.
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
  # Only what differs from the program's defaults: a port that is written down counts as chosen, and a default one gives way to
  # another instance's.
  file = without (default: value: !lib.isAttrs default && default == value) defaults settings;
  # What a running mirror cannot take over.
  needRestart = without (live: _: live == true) (import ./reloadable.nix) settings;

  peerSocket = socketOf peers;
  httpSocket = if http == [ ] then null else removeAttrs (socketOf http) [ "BindIPv6Only" ];
  controlSocket = if settings.control.socket == "off" then null else settings.control.socket;

  # Ports that others reach.
  peerPorts = map portOf (lib.filter (address: !isLocal address) peers);
  httpPorts = map portOf (lib.filter (address: !isLocal address) http);
  allHttpPorts = map portOf http;
  allPeerPorts = map portOf peers;
  # 0 is any port, which no firewall can name.
  dhtPorts = lib.filter (port: port != 0) [ settings.dht.port ];
  # Where mirrors of a local network announce themselves (BEP 14).
  discoveryPorts = lib.optional settings.peer.local-discovery 6771;
}
