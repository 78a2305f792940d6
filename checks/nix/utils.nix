# As much of NixOS' utils as the module asks for.
{ lib }:
{
  escapeSystemdExecArgs = lib.concatMapStringsSep " " (
    argument: lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON argument)
  );
}
