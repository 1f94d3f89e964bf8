
# Names of VMs, behind what is generated above.
_mother_names() {
    local word command="" cur="${COMP_WORDS[COMP_CWORD]}"
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$word" in
            -*) ;;
            *) command="$word"; break ;;
        esac
    done
    if [[ "$cur" != -* ]]; then
        case "$command" in
            OF_RUNNING) COMPREPLY=($(compgen -W "$(mother ps -q 2>/dev/null)" -- "$cur")); return ;;
            OF_ALL) COMPREPLY=($(compgen -W "$(mother ps -aq 2>/dev/null)" -- "$cur")); return ;;
        esac
    fi
    _mother "$@"
}
complete -F _mother_names -o nosort -o bashdefault -o default mother
