#!/bin/sh
# openapi-python-client 0.29.1 makes a client that cannot read what it was made for, where an alternative holds an object.
#
# Expected: for a schema with `oneOf` one of whose alternatives is an object with an object in it, a class for each; or, if that
# cannot be done, no code that needs them, and an exit status that is not 0.
# Seen: "Attempted to generate duplicate models with name ...", a warning among others; the class of the alternative is left out, what
# refers to it is written all the same, and the exit status is 0. The client can be imported, and the first answer
# with such a value raises ModuleNotFoundError. With the inner object as a component of its own, everything is there.
#
# It is the shape in which serde and schemars write every enumeration that is tagged from outside: {"seen": {...}} or {"why": {...}}.
# Who offers such a document to makers of clients names inner objects.
#
# Versions: openapi-python-client 0.29.1, Python 3.11. Source: openapi_python_client/parser/properties, where models are processed
# again until nothing is left, and names of inner ones are taken already the second time.
# Output seen: "within: status 0, ModuleNotFoundError; with a name: status 0, reads it"
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install openapi-python-client==0.29.1
document() {
    cat <<END
{"openapi": "3.1.0", "info": {"title": "A", "version": "1"},
 "paths": {"/a": {"get": {"operationId": "a", "responses": {"200": {"description": "b",
    "content": {"application/json": {"schema": {"\$ref": "#/components/schemas/Answer"}}}}}}}},
 "components": {"schemas": {
    "Answer": {"type": "object", "required": ["value"], "properties": {"value": {"\$ref": "#/components/schemas/Observed"}}},
    "Observed": {"oneOf": [
        {"type": "object", "required": ["seen"], "properties": {"seen": $1}},
        {"type": "object", "required": ["why"], "properties": {"why": {"type": "string"}}}]},
    "Seen": {"type": "object", "required": ["value"], "properties": {"value": {"type": "integer"}}}}}}
END
}
reads() {
    document "$2" > "$1.json"
    status=0
    venv/bin/openapi-python-client generate --path "$1.json" --output-path "$1" --meta none > "$1.said" 2>&1 || status=$?
    said=$(venv/bin/python -c "
from $1.models.answer import Answer
assert Answer.from_dict({'value': {'seen': {'value': 7}}}).value.seen.value == 7
print('reads it')" 2>&1 | tail -n 1 | cut -d : -f 1)
    echo "status $status, $said"
}
within=$(reads within '{"type": "object", "required": ["value"], "properties": {"value": {"type": "integer"}}}')
named=$(reads named '{"$ref": "#/components/schemas/Seen"}')
echo "within: $within; with a name: $named"
[ "$within" = 'status 0, ModuleNotFoundError' ] && [ "$named" = 'status 0, reads it' ]
