# The program builds and its tests pass.
{ self, system, ... }:
self.packages.${system}.default
