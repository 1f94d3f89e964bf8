e2fsck -fp /dev/vdb; echo "repaired $?"; e2fsck -fn /dev/vdb; echo "clean $?"
mount -o ro /dev/vdb /mnt && cd /mnt/root && cat d*/*.sum | sha256sum -c --quiet; echo "whole $?"
echo "files $(ls d*/*.sum | wc -l)"
