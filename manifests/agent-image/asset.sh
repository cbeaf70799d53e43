#!/bin/sh
# Print how upstream names the Linux program of a release: asset.sh VERSION ARCHITECTURE, the latter as in `--platform linux/…`.
# Used by download.sh and, for the checksum's address, by docs/how-to/build-an-agent-image.md. Upstream's names stand only here.
set -eu

version=${1:?Name a version, such as 5.1.15}
architecture=${2:?Name an architecture: amd64 or arm64}

fail() {
  echo "$1" >&2
  exit 1
}

# Whether there is one program for each architecture: from 4.2.2 on.
named_by_architecture() {
  case $version in
  *[!0-9A-Za-z.-]* | [!0-9]*) fail "$version is no version; use one such as 5.1.15." ;;
  [0-9]*.[0-9]*.[0-9]*) ;;
  *) fail "$version is no version; use one such as 5.1.15." ;;
  esac
  release=${version%%-*} # 4.1.12-2 is a later build of 4.1.12
  major=${release%%.*} minor=${release#*.} patch=${release##*.}
  minor=${minor%%.*}
  [ "$major" -gt 4 ] || { [ "$major" -eq 4 ] && { [ "$minor" -gt 2 ] || { [ "$minor" -eq 2 ] && [ "$patch" -ge 2 ]; }; }; }
}

case $architecture in
amd64) suffix=-x64 ;;
arm64) suffix=-arm64 ;;
*) fail "Medplum publishes no agent for $architecture, only for amd64 and arm64." ;;
esac
if ! named_by_architecture; then
  [ "$architecture" = amd64 ] || fail "Medplum publishes agents before 4.2.2 for amd64 only."
  suffix=
fi
echo "medplum-agent-$version-linux$suffix"
