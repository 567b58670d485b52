#!/bin/sh
# The programs of Debian that the tests start, each on a port or socket of its own. Installs those that are missing as
# root; for anybody else it says which, and fails.
set -eu

missing=""
needs() {  # program, package
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" > /dev/null || missing="$missing $2"
}
needs lscpu util-linux            # vLLM asks it for the processor's layout; its unshare makes bare roots
needs haproxy haproxy             # in front of gateways, in tests of restarts and of odd HTTP
needs nginx nginx-light
needs redis-server redis-server   # what gateways share
needs prometheus prometheus       # scrapes what dashboards show; promtool tests the alerts
needs debootstrap debootstrap     # a bare Debian, in which the image's steps run
needs setpriv util-linux
needs ip iproute2                 # networks for a rehearsal of compose
needs faketime faketime           # a clock that jumps
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "these packages are missing:$missing; install them (apt-get install$missing), then try again" >&2
    exit 1
fi
# A package would start its service, which nothing here uses.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM    # else a signal ends the shell without the line above
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing > /dev/null
