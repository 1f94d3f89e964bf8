# Makes of an archive of a Debian tree ($1) a disk ($2) with one partition (its table is there) that starts as vendors'
# cloud images do: GRUB's menu, no name, no keys, no id of a machine. $3 is a folder for the tree, which goes again.
tree=$3
rm -rf "$tree"
mkdir "$tree"
trap 'rm -rf "$tree"' EXIT
tar -xpf "$1" -C "$tree" --exclude='./dev/*'
cd "$tree"
rm -f etc/hostname etc/resolv.conf etc/ssh/ssh_host_*
: >etc/machine-id
echo 'LABEL=root / ext4 defaults 0 1' >etc/fstab
mkdir -p boot/grub
cat >boot/grub/grub.cfg <<'MENU'
menuentry 'Debian GNU/Linux' {
    linux /vmlinuz root=LABEL=root ro console=ttyS0
    initrd /initrd.img
}
MENU
# What tells of the guest when cloud-init is through, and ends it.
cp "$4" usr/local/sbin/proof
cat >etc/systemd/system/proof.service <<'UNIT'
[Unit]
After=cloud-final.service
[Service]
Type=oneshot
ExecStart=/bin/sh /usr/local/sbin/proof
StandardOutput=tty
TTYPath=/dev/console
[Install]
WantedBy=cloud-init.target
UNIT
mkdir -p etc/systemd/system/cloud-init.target.wants
ln -s ../proof.service etc/systemd/system/cloud-init.target.wants/
cd /
mke2fs -q -t ext4 -L root -d "$tree" -E offset=$((1 << 20)) "$2" "$5"
