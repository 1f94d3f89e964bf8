# Sourced by every shell of the guest.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root PS1='guest:\w# '
cd /root

# The value of `mother.$1=` on the kernel's command line.
mother_option() {
    for word in $(cat /proc/cmdline); do
        case $word in
            mother.$1=*) echo "${word#*=}" ;;
        esac
    done
}
