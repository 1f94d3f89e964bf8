# Sourced: puts Debian 12's passt into a new folder $W and sets PASST; W may be entered by the user that passt becomes.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
apt-get download -qq passt=0.0~git20230309.7c7625d-1 2> /dev/null || { echo "needs Debian 12's packages"; exit 2; }
dpkg -x passt_*.deb . && chmod 777 .
PASST=$W/usr/bin/passt
export PYTHONPATH=$HERE/lib
export PYTHONDONTWRITEBYTECODE=1
