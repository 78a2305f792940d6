# Store paths in renderings: deterministic, so that a rendering can be checked in and booted elsewhere.
{
  # A package: the same path for every version.
  package = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/00000000000000000000000000000000-${name}";
    meta.mainProgram = name;
  };
  # A file whose content matters: another path for another content, as units are restarted when the path changes.
  hashed =
    content: name:
    "/nix/store/${builtins.substring 0 32 (builtins.hashString "sha256" content)}-${name}";
}
