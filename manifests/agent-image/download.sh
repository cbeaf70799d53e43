#!/bin/sh
# Put the agent's program of a release into this folder as medplum-agent, and check it. A program that is here already under
# upstream's name is not downloaded. Run by the Dockerfile; VERSION, SHA256, RELEASES and TARGETARCH are its arguments.
set -eu
cd "$(dirname "$0")"

: "${VERSION:?Say which agent: --build-arg VERSION=5.1.15}"
: "${SHA256:?Say what its checksum is: --build-arg SHA256=..., the first word of the .sha256 file of its release}"
if [ -z "${TARGETARCH:-}" ]; then # a builder that does not say
  case $(uname -m) in
  x86_64) TARGETARCH=amd64 ;;
  aarch64) TARGETARCH=arm64 ;;
  *) TARGETARCH=$(uname -m) ;;
  esac
fi
program=$(sh ./asset.sh "$VERSION" "$TARGETARCH")

if [ -f "$program" ]; then
  cp "$program" medplum-agent
else
  if ! command -v curl >/dev/null; then
    apt-get update
    apt-get install --yes --no-install-recommends ca-certificates curl
  fi
  curl --fail --silent --show-error --location --output medplum-agent "$RELEASES/v$VERSION/$program"
fi
# The release's own .sha256 file names the program without its architecture, so only the checksum is taken from it.
if ! echo "$SHA256  medplum-agent" | sha256sum --check --quiet; then
  echo "$program is not what SHA256 says: $(sha256sum medplum-agent | cut -d ' ' -f 1). Compare with the release's own .sha256 file." >&2
  exit 1
fi
chmod 0755 medplum-agent
