# Names of VMs.
_mother_vms() {
    local -a names
    case "${words[1]}" in
        OF_RUNNING) names=(${(f)"$(mother ps -q 2>/dev/null)"}) ;;
        *) names=(${(f)"$(mother ps -aq 2>/dev/null)"}) ;;
    esac
    compadd -a names
}
