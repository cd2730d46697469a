#!/bin/sh
# Notes for the postinst that the package was not there before: what dpkg tells that one is the same for an upgrade and for a
# package that comes back to the files that its removal left.
set -e
[ "$1" != install ] || touch /run/cloudathome-@ROLE@.installing
exit 0
