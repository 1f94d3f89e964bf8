# Names of VMs.
_mother_vms() {
    local -a names
    # `mother images rm` takes images.
    if [[ "$curcontext" == *mother-images* ]]; then
        names=(${(f)"$(mother images -q 2>/dev/null)"})
        compadd -a names
        return
    fi
    # `mother snapshots rm`, `verify` and `inspect` take snapshots.
    if [[ "$curcontext" == *mother-snapshots* ]]; then
        names=(${(f)"$(mother snapshots -q 2>/dev/null)"})
        compadd -a names
        return
    fi
    case "${words[1]}" in
        OF_RUNNING) names=(${(f)"$(mother ps -q 2>/dev/null)"}) ;;
        *) names=(${(f)"$(mother ps -aq 2>/dev/null)"}) ;;
    esac
    compadd -a names
}
# Names of images, and files.
_mother_images() {
    local -a names
    names=(RELEASES ${(f)"$(mother images -q 2>/dev/null)"})
    compadd -a names
    _files
}
