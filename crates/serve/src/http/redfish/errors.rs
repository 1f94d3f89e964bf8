//! What is wrong, in Redfish's form (DSP0266, "Error responses"), with messages of the Base registry (DSP8011).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::kinds::odata_type;
use crate::doors::Closed;
use crate::http::answer::Refusal;
use crate::store::StoreError;
use crate::words::Problem;

/// The registry that messages are of, with its version.
pub(super) const BASE: &str = "Base.1.18";

/// A message of the registry: its name, its text, how much it matters, and what to do.
type Entry = (&'static str, &'static str, &'static str, &'static str);

/// Those messages of the Base registry that are said here.
const MESSAGES: &[Entry] = &[
    (
        "GeneralError",
        "A general error has occurred.  See Resolution for information on how to resolve the error, or @Message.ExtendedInfo if Resolution is not provided.",
        "Critical",
        "See the message.",
    ),
    (
        "Success",
        "The request completed successfully.",
        "OK",
        "None.",
    ),
    (
        "ResetRequired",
        "In order to complete the operation, a component reset is required with the Reset action URI '%1' and ResetType '%2'.",
        "Warning",
        "Perform the required reset action on the specified component.",
    ),
    (
        "ResourceMissingAtURI",
        "The resource at the URI '%1' was not found.",
        "Critical",
        "Place a valid resource at the URI or correct the URI and resubmit the request.",
    ),
    (
        "ResourceNotFound",
        "The requested resource of type '%1' named '%2' was not found.",
        "Critical",
        "Provide a valid resource identifier and resubmit the request.",
    ),
    (
        "OperationNotAllowed",
        "The HTTP method is not allowed on this resource.",
        "Critical",
        "None.",
    ),
    (
        "PreconditionFailed",
        "The ETag supplied did not match the ETag required to change this resource.",
        "Critical",
        "Try the operation again using the appropriate ETag.",
    ),
    (
        "HeaderInvalid",
        "Header '%1' is invalid.",
        "Critical",
        "Resubmit the request with a valid request header.",
    ),
    (
        "ResourceAtUriUnauthorized",
        "While accessing the resource at '%1', the service received an authorization error '%2'.",
        "Critical",
        "Ensure that the appropriate access is provided for the service in order for it to access the URI.",
    ),
    (
        "NoValidSession",
        "There is no valid session established with the implementation.",
        "Critical",
        "Establish a session before attempting any operations.",
    ),
    (
        "InsufficientPrivilege",
        "There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation.",
        "Critical",
        "Either abandon the operation or change the associated access rights and resubmit the request if the operation failed.",
    ),
    (
        "SessionLimitExceeded",
        "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.",
        "Critical",
        "Reduce the number of other sessions before trying to establish the session or increase the limit of simultaneous sessions, if supported.",
    ),
    (
        "ServiceTemporarilyUnavailable",
        "The service is temporarily unavailable.  Retry in %1 seconds.",
        "Critical",
        "Wait for the indicated retry duration and retry the operation.",
    ),
    (
        "MalformedJSON",
        "The request body submitted was malformed JSON and could not be parsed by the receiving service.",
        "Critical",
        "Ensure that the request body is valid JSON and resubmit the request.",
    ),
    (
        "UnrecognizedRequestBody",
        "The service detected a malformed request body that it was unable to interpret.",
        "Warning",
        "Correct the request body and resubmit the request if it failed.",
    ),
    (
        "PropertyUnknown",
        "The property %1 is not in the list of valid properties for the resource.",
        "Warning",
        "Remove the unknown property from the request body and resubmit the request if the operation failed.",
    ),
    (
        "PropertyNotWritable",
        "The property %1 is a read-only property and cannot be assigned a value.",
        "Warning",
        "Remove the property from the request body and resubmit the request if the operation failed.",
    ),
    (
        "PropertyMissing",
        "The property %1 is a required property and must be included in the request.",
        "Warning",
        "Ensure that the property is in the request body and has a valid value and resubmit the request if the operation failed.",
    ),
    (
        "PropertyValueTypeError",
        "The value '%1' for the property %2 is not a type that the property can accept.",
        "Warning",
        "Correct the value for the property in the request body and resubmit the request if the operation failed.",
    ),
    (
        "PropertyValueNotInList",
        "The value '%1' for the property %2 is not in the list of acceptable values.",
        "Warning",
        "Choose a value from the enumeration list that the implementation can support and resubmit the request if the operation failed.",
    ),
    (
        "PropertyValueFormatError",
        "The value '%1' for the property %2 is not a format that the property can accept.",
        "Warning",
        "Correct the value for the property in the request body and resubmit the request if the operation failed.",
    ),
    (
        "PropertyValueError",
        "The value provided for the property %1 is not valid.",
        "Warning",
        "Correct the value for the property in the request body and resubmit the request if the operation failed.",
    ),
    (
        "ActionParameterMissing",
        "The action %1 requires the parameter %2 to be present in the request body.",
        "Critical",
        "Supply the action with the required parameter in the request body when the request is resubmitted.",
    ),
    (
        "ActionParameterUnknown",
        "The action %1 was submitted with the invalid parameter %2.",
        "Warning",
        "Correct the invalid parameter and resubmit the request if the operation failed.",
    ),
    (
        "ActionParameterValueNotInList",
        "The value '%1' for the parameter %2 in the action %3 is not in the list of acceptable values.",
        "Warning",
        "Choose a value from the enumeration list that the implementation can support and resubmit the request if the operation failed.",
    ),
    (
        "NoOperation",
        "The request body submitted contain no data to act upon and no changes to the resource took place.",
        "Warning",
        "Add properties in the JSON object and resubmit the request.",
    ),
    (
        "ResourceAlreadyExists",
        "The requested resource of type %1 with the property %2 with the value '%3' already exists.",
        "Critical",
        "Do not repeat the create operation as the resource has already been created.",
    ),
    (
        "CreateLimitReachedForResource",
        "The create operation failed because the resource has reached the limit of possible resources.",
        "Critical",
        "Either delete resources and resubmit the request if the operation failed or do not resubmit the request.",
    ),
    (
        "ResourceCannotBeDeleted",
        "The delete request failed because the resource requested cannot be deleted.",
        "Critical",
        "Do not attempt to delete a non-deletable resource.",
    ),
    (
        "QueryNotSupported",
        "Querying is not supported by the implementation.",
        "Warning",
        "Remove the query parameters and resubmit the request if the operation failed.",
    ),
    (
        "QueryNotSupportedOnResource",
        "Querying is not supported on the requested resource.",
        "Warning",
        "Remove the query parameters and resubmit the request if the operation failed.",
    ),
    (
        "QueryParameterValueFormatError",
        "The value '%1' for the parameter %2 is not a format that the parameter can accept.",
        "Warning",
        "Correct the value for the query parameter in the request and resubmit the request if the operation failed.",
    ),
    (
        "QueryParameterOutOfRange",
        "The value '%1' for the query parameter %2 is out of range %3.",
        "Warning",
        "Reduce the value for the query parameter to a value that is within range, such as a start or count value that is within bounds of the number of resources in a collection or a page that is within the range of valid pages.",
    ),
    (
        "InternalError",
        "The request failed due to an internal service error.  The service is still operational.",
        "Critical",
        "Resubmit the request.  If the problem persists, consider resetting the service.",
    ),
];

/// What is wrong, and with which status it is told.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    pub(super) status: StatusCode,
    pub(super) messages: Vec<Value>,
    /// What can be done to a resource, for who tried something else.
    pub(super) allow: Option<&'static str>,
}

/// A message of the Base registry.
pub(super) fn message(name: &str, args: &[&str]) -> Value {
    let entry = MESSAGES.iter().find(|(known, ..)| *known == name);
    let (name, text, severity, resolution) = entry.unwrap_or(&MESSAGES[0]);
    let mut text = (*text).to_owned();
    for (index, arg) in args.iter().enumerate() {
        text = text.replace(&format!("%{}", index + 1), arg);
    }
    json!({
        "@odata.type": odata_type("Message"),
        "MessageId": format!("{BASE}.{name}"),
        "Message": text,
        "MessageArgs": args,
        "MessageSeverity": severity,
        "Resolution": resolution,
    })
}

/// A general error in our own words.
pub(super) fn said(text: &str, help: Option<&str>) -> Value {
    let mut message = message("GeneralError", &[]);
    message["Message"] = text.into();
    if let Some(help) = help {
        message["Resolution"] = help.into();
    }
    message
}

/// What came of a command, in our own words: the problem and all its causes.
pub(super) fn of_problem(problem: &Problem) -> Value {
    said(&crate::daemon::whole(problem), problem.help.as_deref())
}

impl Wrong {
    /// One message of the Base registry.
    pub(super) fn new(status: StatusCode, name: &str, args: &[&str]) -> Wrong {
        Wrong {
            status,
            messages: vec![message(name, args)],
            allow: None,
        }
    }

    /// Something in what was asked is wrong.
    pub(super) fn bad(name: &str, args: &[&str]) -> Wrong {
        Wrong::new(StatusCode::BAD_REQUEST, name, args)
    }

    /// There is nothing.
    pub(super) fn missing(path: &str) -> Wrong {
        let path: String = path.chars().take(200).collect();
        Wrong::new(StatusCode::NOT_FOUND, "ResourceMissingAtURI", &[&path])
    }

    /// They may not.
    pub(super) fn forbidden() -> Wrong {
        Wrong::new(StatusCode::FORBIDDEN, "InsufficientPrivilege", &[])
    }

    /// It has another ETag.
    pub(super) fn changed() -> Wrong {
        Wrong::new(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", &[])
    }

    /// It cannot be done as things are.
    pub(super) fn conflict(text: &str, help: Option<&str>) -> Wrong {
        Wrong {
            status: StatusCode::CONFLICT,
            messages: vec![said(text, help)],
            allow: None,
        }
    }

    /// Our own fault.
    pub(super) fn internal(error: impl std::fmt::Display) -> Wrong {
        tracing::error!("redfish: {error}");
        Wrong::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &[])
    }

    /// The body.
    fn body(&self) -> Value {
        let (code, text) = match &self.messages[..] {
            [one] => (one["MessageId"].clone(), one["Message"].clone()),
            _ => {
                let general = message("GeneralError", &[]);
                (general["MessageId"].clone(), general["Message"].clone())
            }
        };
        json!({ "error": {
            "code": code,
            "message": text,
            "@Message.ExtendedInfo": self.messages,
        } })
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Basic realm=\"mother\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Wrong {
        Wrong {
            status: refusal.status,
            messages: vec![of_problem(&refusal.problem)],
            allow: None,
        }
    }
}

impl From<StoreError> for Wrong {
    fn from(error: StoreError) -> Wrong {
        Refusal::from(error).into()
    }
}

impl From<&Closed> for Wrong {
    fn from(closed: &Closed) -> Wrong {
        match closed {
            Closed::Unknown => Wrong::new(StatusCode::UNAUTHORIZED, "NoValidSession", &[]),
            Closed::Wait => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                Wrong::new(status, "ServiceTemporarilyUnavailable", &["60"])
            }
            Closed::Foreign => Wrong::forbidden(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_redfishs_form() {
        let check = |wrong: Wrong, code: &str, text: &str, count: usize| {
            let error = &wrong.body()["error"];
            assert_eq!(error["code"], format!("{BASE}.{code}"));
            assert!(error["message"].as_str().unwrap().contains(text), "{error}");
            let info = error["@Message.ExtendedInfo"].as_array().unwrap();
            assert_eq!(info.len(), count);
            assert!(
                info.iter()
                    .all(|one| one["MessageId"].is_string() && one["Resolution"].is_string())
            );
        };
        check(
            Wrong::missing("/redfish/v1/x"),
            "ResourceMissingAtURI",
            "'/redfish/v1/x'",
            1,
        );
        check(
            Wrong::bad("PropertyValueNotInList", &["a", "B"]),
            "PropertyValueNotInList",
            "The value 'a' for the property B is",
            1,
        );
        let mut two = Wrong::bad("PropertyUnknown", &["A"]);
        two.messages.push(message("PropertyUnknown", &["B"]));
        check(two, "GeneralError", "ExtendedInfo", 2);
        check(
            Wrong::conflict("it runs", None),
            "GeneralError",
            "it runs",
            1,
        );
    }
}
