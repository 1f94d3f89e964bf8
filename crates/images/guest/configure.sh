# Sourced by process 1 of the guest that builds an image: has the packages configure themselves.
for folder in dev proc sys; do
    mount --bind "/$folder" "/root/$folder"
done
mount -t tmpfs -o mode=755 tmpfs /root/run
mount -t tmpfs tmpfs /root/tmp
mkdir -p /root/dev/pts
mount -t devpts devpts /root/dev/pts
cat >/root/run/configure <<'END'
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
# No service starts while the machine is being put together.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
# `base-files` wants awk before mawk has set up its alternatives.
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
# dpkg runs these before it unpacks; users and groups come first.
export DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_ARCH=amd64 DPKG_ADMINDIR=/var/lib/dpkg
for script in /var/lib/dpkg/info/base-passwd.preinst /var/lib/dpkg/info/*.preinst; do
    package=${script##*/}
    DPKG_MAINTSCRIPT_PACKAGE=${package%.preinst} "$script" install || echo "mother: $package failed"
done
unset DPKG_MAINTSCRIPT_NAME DPKG_MAINTSCRIPT_ARCH DPKG_ADMINDIR
# dpkg closes the descriptor of its status for the scripts, so that must not be their output.
dpkg --status-fd 3 --force-unsafe-io --force-confnew --configure -a 3>&1
depmod -a "$(uname -r)"
systemctl enable systemd-networkd systemd-resolved >/dev/null 2>&1 || true
passwd -d root >/dev/null
rm -f /usr/sbin/policy-rc.d /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log
: >/etc/machine-id
END
if chroot /root /bin/sh /run/configure </dev/null; then
    sync
    umount /root/dev/pts /root/tmp /root/run /root/sys /root/proc /root/dev
    umount /root && echo "mother: configured"
fi
poweroff -f
sleep 100
