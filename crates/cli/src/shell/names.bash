
# Names of VMs, images and snapshots, behind what is generated above.
_mother_names() {
    local word command="" second="" cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$word" in
            -*) ;;
            *) if [[ -z "$command" ]]; then command="$word"; else second="$word"; break; fi ;;
        esac
    done
    if [[ "$cur" != -* ]]; then
        case "$command" in
            OF_RUNNING) COMPREPLY=($(compgen -W "$(mother ps -q 2>/dev/null)" -- "$cur")); return ;;
            OF_ALL) COMPREPLY=($(compgen -W "$(mother ps -aq 2>/dev/null)" -- "$cur")); return ;;
            images) if [[ "$second" == rm ]]; then
                COMPREPLY=($(compgen -W "$(mother images -q 2>/dev/null)" -- "$cur")); return
            fi ;;
            snapshots) case "$second" in
                inspect | verify)
                    COMPREPLY=($(compgen -W "$(mother snapshots -q 2>/dev/null)" -- "$cur")
                        $(compgen -d -- "$cur")); return ;;
                rm) COMPREPLY=($(compgen -W "$(mother snapshots -q 2>/dev/null)" -- "$cur")); return ;;
            esac ;;
            # Behind an option that takes a value stands its value.
            run) case "$prev" in
                run | -d | --detach | --debug-exit | --no-reboot | --huge-pages | --profile | --print-config)
                    COMPREPLY=($(compgen -W "RELEASES $(mother images -q 2>/dev/null)" -- "$cur")
                        $(compgen -f -- "$cur"))
                    __ltrim_colon_completions "$cur" 2>/dev/null
                    return ;;
            esac ;;
        esac
    fi
    _mother "$@"
}
complete -F _mother_names -o nosort -o bashdefault -o default mother
