#!/bin/bash
# volatility3's linux.malware.hidden_modules refuses every symbol file that dwarf2json did not write, for being of a dwarf2json that
# is too old.
#
# Expected: an Intermediate Symbol File is valid by its schema, whose `producer` is anybody; a check for a bug of old versions of one
# producer passes the files of others, as the check in linux.kmsg does.
# Seen: the plugin asks whether all tables pass "older than 0.8.0" and refuses if they do. Files of no dwarf2json are not looked at, so
# all of them pass, and are refused: "please ensure the ISF table produced by dwarf2json was created with version 0.8.0 or later".
# Where: volatility3 2.28.2 (PyPI), Python 3.11. Source: find_hidden_modules in plugins/linux/malware/hidden_modules.py,
# verify_table_versions in framework/symbols/__init__.py. A file that says it is of dwarf2json 0.9.0 is taken.
# Output seen: "producer dwarf2json 0.9.0: taken; producer mine 1.0.0: refused"
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv tools
tools/bin/pip install -q volatility3==2.28.2 2> /dev/null || { echo "needs PyPI"; exit 2; }
tools/bin/python - <<'P'
import json, pathlib, sys
from volatility3.framework import contexts, exceptions
from volatility3.framework.symbols import intermed
from volatility3.plugins.linux.malware import hidden_modules

def answer(producer, version):
    """Whether the plugin takes a symbol file of this producer; what it does afterwards needs a memory image."""
    isf = {
        "metadata": {"format": "6.2.0", "producer": {"name": producer, "version": version}},
        "base_types": {"pointer": {"kind": "int", "size": 8, "signed": False, "endian": "little"}},
        "user_types": {}, "enums": {}, "symbols": {},
    }
    path = f"{producer}.json"
    with open(path, "w") as file:
        json.dump(isf, file)
    context = contexts.Context()
    table = intermed.IntermediateSymbolTable(context, "table", "kernel", pathlib.Path(path).resolve().as_uri())
    context.symbol_space.append(table)
    try:
        next(iter(hidden_modules.Hidden_modules.find_hidden_modules(context, "kernel")), None)
    except exceptions.SymbolSpaceError as error:
        return "refused" if "dwarf2json" in str(error) else "taken"
    except Exception:
        return "taken"
    return "taken"

seen = [answer("dwarf2json", "0.9.0"), answer("mine", "1.0.0")]
print(f"producer dwarf2json 0.9.0: {seen[0]}; producer mine 1.0.0: {seen[1]}")
sys.exit(seen != ["taken", "refused"])
P
