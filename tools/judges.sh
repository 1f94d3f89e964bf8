# For scripts that have other people's tools judge the daemon; read by them with `.`. It wants `mother`, the built command, and
# `folder`, where tools and what they say lie.

# The daemon's certificate is its own; where a bundle is named, Python's client would ask it all the same.
unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE SSL_CERT_FILE || :
export LC_ALL=C.UTF-8

# Starts a daemon of its own at `url`, with an administrator's `token`, and ends it with the script.
begin_daemon() {
    run=$(mktemp -d)
    mkdir -m 700 "$run/run"
    export XDG_RUNTIME_DIR="$run/run" XDG_STATE_HOME="$run/state" XDG_DATA_HOME="$run/data"
    "$mother" serve --listen "${url#https://}" 2> "$run/said" &
    daemon=$!
    trap end_daemon EXIT
    until grep -qs 'answers at' "$run/said"; do sleep 0.1; done
    token=$("$mother" token add ada --role administrator)
}

end_daemon() {
    kill "$daemon" 2> /dev/null && wait "$daemon" || :
    "$mother" rm --all --force > /dev/null 2>&1 || :
    rm -rf "$run"
}

# Runs a judge, whose words go to a file; `failed` is 1 if one was not content.
failed=0
judge() {
    what=$1
    shift
    if "$@" > "$folder/$what.log" 2>&1; then
        echo "$what: well"
    else
        echo "$what: FAILED, see $folder/$what.log"
        failed=1
    fi
}
