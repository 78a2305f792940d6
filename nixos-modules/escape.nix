# Paths and arguments as systemd reads them in unit files; see systemd.syntax(7). Plain ones are not changed.
rec {
  plain = text: builtins.match "[A-Za-z0-9/._+=@,:-]+" text != null;
  # A value that is one path to the end of the line: only specifiers need care.
  path = builtins.replaceStrings [ "%" ] [ "%%" ];
  # One word of a list of paths.
  word = text: if plain text then text else builtins.toJSON (path text);
  # A path in BindPaths=, where a colon separates source and destination.
  bind = text: builtins.replaceStrings [ ":" ] [ "\\:" ] (word text);
  # One argument of a command line.
  argument =
    text:
    if plain text then
      text
    else
      builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON text);
}
