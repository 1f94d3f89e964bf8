//! Everything that can be asked for, as one type: what a path means, what can be done there, and who may.

use crate::words::Role;

/// A resource, or something beside resources that has a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Versions,
    Root,
    ServiceDocument,
    Metadata,
    Systems,
    System(String),
    Reset(String),
    Drives(String),
    ManagersDrives,
    Drive(Drive),
    Insert(Drive),
    Eject(Drive),
    OperatingSystem(String),
    Managers,
    Manager,
    NetworkProtocol,
    LogServices,
    Log,
    LogEntries,
    LogEntry(u64),
    AllChassis,
    Chassis,
    AccountService,
    Accounts,
    Account(String),
    Roles,
    RoleOf(String),
    SessionService,
    Sessions,
    Session(String),
    TaskService,
    Tasks,
    Task(u64),
    TaskMonitor(u64),
    EventService,
    Subscriptions,
    Subscription(String),
    Stream,
    TelemetryService,
    Definitions,
    Definition(String),
    Reports,
    Report(String),
    Registries,
    Registry(String),
    OwnRegistry,
}

/// The drive of a VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Drive {
    /// The VM.
    pub(super) vm: String,
    /// Whether it is meant by the VM's name among the manager's, and not below its system.
    pub(super) is_managers: bool,
}

/// The one manager's and the one chassis's name.
pub(super) const MANAGER: &str = "mother";
/// The chassis is the host.
pub(super) const CHASSIS: &str = "host";

impl Place {
    /// What a path means; none if nothing is there.
    pub(super) fn of(path: &str) -> Option<Place> {
        let path = decoded(path);
        // Only the service root has a slash at its end, and clients add it where they like.
        let path = path.strip_suffix('/').unwrap_or(&path);
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let place = match parts.as_slice() {
            ["redfish"] => Place::Versions,
            ["redfish", "v1", rest @ ..] => Place::in_version_1(rest)?,
            _ => return None,
        };
        Some(place)
    }

    fn in_version_1(parts: &[&str]) -> Option<Place> {
        if let [rest @ .., "Members"] = parts {
            return Place::in_version_1(rest).filter(Place::is_collection);
        }
        Some(match parts {
            [] => Place::Root,
            ["odata"] => Place::ServiceDocument,
            ["$metadata"] => Place::Metadata,
            ["Systems", rest @ ..] => Place::of_systems(rest)?,
            ["Managers", rest @ ..] => Place::of_managers(rest)?,
            ["Chassis"] => Place::AllChassis,
            ["Chassis", CHASSIS] => Place::Chassis,
            ["AccountService"] => Place::AccountService,
            ["AccountService", "Accounts"] => Place::Accounts,
            ["AccountService", "Accounts", name] => Place::Account((*name).to_owned()),
            ["AccountService", "Roles"] => Place::Roles,
            ["AccountService", "Roles", name] => Place::RoleOf((*name).to_owned()),
            ["SessionService"] => Place::SessionService,
            ["SessionService", "Sessions"] => Place::Sessions,
            ["SessionService", "Sessions", id] => Place::Session((*id).to_owned()),
            ["TaskService", rest @ ..] => Place::of_tasks(rest)?,
            ["EventService", rest @ ..] => Place::of_events(rest)?,
            ["TelemetryService", rest @ ..] => Place::of_telemetry(rest)?,
            ["Registries"] => Place::Registries,
            ["Registries", name] => Place::Registry((*name).to_owned()),
            ["Registries", "Mother", "Mother.json"] => Place::OwnRegistry,
            _ => return None,
        })
    }

    fn of_systems(parts: &[&str]) -> Option<Place> {
        Some(match parts {
            [] => Place::Systems,
            [name] => Place::System((*name).to_owned()),
            [name, "Actions", "ComputerSystem.Reset"] => Place::Reset((*name).to_owned()),
            [name, "VirtualMedia"] => Place::Drives((*name).to_owned()),
            [name, "VirtualMedia", "Cd", rest @ ..] => Place::of_drive(name, false, rest)?,
            [name, "OperatingSystem"] => Place::OperatingSystem((*name).to_owned()),
            _ => return None,
        })
    }

    fn of_drive(vm: &str, is_managers: bool, parts: &[&str]) -> Option<Place> {
        let drive = Drive {
            vm: vm.to_owned(),
            is_managers,
        };
        Some(match parts {
            [] => Place::Drive(drive),
            ["Actions", "VirtualMedia.InsertMedia"] => Place::Insert(drive),
            ["Actions", "VirtualMedia.EjectMedia"] => Place::Eject(drive),
            _ => return None,
        })
    }

    fn of_managers(parts: &[&str]) -> Option<Place> {
        Some(match parts {
            [] => Place::Managers,
            [MANAGER] => Place::Manager,
            [MANAGER, "NetworkProtocol"] => Place::NetworkProtocol,
            [MANAGER, "VirtualMedia"] => Place::ManagersDrives,
            [MANAGER, "VirtualMedia", name, rest @ ..] => Place::of_drive(name, true, rest)?,
            [MANAGER, "LogServices"] => Place::LogServices,
            [MANAGER, "LogServices", "Events"] => Place::Log,
            [MANAGER, "LogServices", "Events", "Entries"] => Place::LogEntries,
            [MANAGER, "LogServices", "Events", "Entries", id] => Place::LogEntry(id.parse().ok()?),
            _ => return None,
        })
    }

    fn of_tasks(parts: &[&str]) -> Option<Place> {
        Some(match parts {
            [] => Place::TaskService,
            ["Tasks"] => Place::Tasks,
            ["Tasks", id] => Place::Task(id.parse().ok()?),
            ["TaskMonitors", id] => Place::TaskMonitor(id.parse().ok()?),
            _ => return None,
        })
    }

    fn of_events(parts: &[&str]) -> Option<Place> {
        Some(match parts {
            [] => Place::EventService,
            ["SSE"] => Place::Stream,
            ["Subscriptions"] => Place::Subscriptions,
            ["Subscriptions", id] => Place::Subscription((*id).to_owned()),
            _ => return None,
        })
    }

    fn of_telemetry(parts: &[&str]) -> Option<Place> {
        Some(match parts {
            [] => Place::TelemetryService,
            ["MetricDefinitions"] => Place::Definitions,
            ["MetricDefinitions", id] => Place::Definition((*id).to_owned()),
            ["MetricReports"] => Place::Reports,
            ["MetricReports", id] => Place::Report((*id).to_owned()),
            _ => return None,
        })
    }

    /// Whether it has members.
    pub(super) fn is_collection(&self) -> bool {
        matches!(
            self,
            Place::Systems
                | Place::Drives(_)
                | Place::ManagersDrives
                | Place::Managers
                | Place::LogServices
                | Place::LogEntries
                | Place::AllChassis
                | Place::Accounts
                | Place::Roles
                | Place::Sessions
                | Place::Tasks
                | Place::Subscriptions
                | Place::Definitions
                | Place::Reports
                | Place::Registries
        )
    }

    /// Whether anybody may read it.
    pub(super) fn is_open(&self) -> bool {
        matches!(
            self,
            Place::Versions | Place::Root | Place::ServiceDocument | Place::Metadata
        )
    }

    /// What can be done to it, as `Allow` says it.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Place::Reset(_) | Place::Insert(_) | Place::Eject(_) => "POST",
            Place::System(_) | Place::Drive(_) => "GET, HEAD, PATCH",
            Place::Accounts | Place::Sessions | Place::Subscriptions => "GET, HEAD, POST",
            Place::Account(_) => "GET, HEAD, PATCH, DELETE",
            Place::Session(_) | Place::Subscription(_) | Place::Task(_) | Place::TaskMonitor(_) => {
                "GET, HEAD, DELETE"
            }
            Place::Stream => "GET",
            _ => "GET, HEAD",
        }
    }

    /// Whether this method is one of them.
    pub(super) fn allows(&self, method: &str) -> bool {
        self.allow().split(", ").any(|one| one == method)
    }

    /// The least that may do this. Accounts and sessions ask further: whoever may come in may change what is their own.
    pub(super) fn least(&self, method: &str) -> Role {
        match self {
            Place::Accounts if method == "POST" => Role::Administrator,
            Place::Account(_) if method == "DELETE" => Role::Administrator,
            Place::Account(_) | Place::Session(_) => Role::ReadOnly,
            _ if matches!(method, "GET" | "HEAD") => Role::ReadOnly,
            _ => Role::Operator,
        }
    }
}

/// A path without percent-encoding; one that is no text stays as it is, and means nothing.
fn decoded(path: &str) -> String {
    super::query::decoded(path, false).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_one_thing_or_nothing() {
        let check =
            |path: &str, expected: Option<Place>| assert_eq!(Place::of(path), expected, "{path}");
        check("/redfish", Some(Place::Versions));
        check("/redfish/", Some(Place::Versions));
        check("/redfish/v1", Some(Place::Root));
        check("/redfish/v1/", Some(Place::Root));
        check("/redfish/v1/%24metadata", Some(Place::Metadata));
        check(
            "/redfish/v1/Systems/web",
            Some(Place::System("web".to_owned())),
        );
        check(
            "/redfish/v1/Systems/web/",
            Some(Place::System("web".to_owned())),
        );
        check(
            "/redfish/v1/SessionService/Sessions/Members",
            Some(Place::Sessions),
        );
        check("/redfish/v1/SessionService/Members", None);
        check("/redfish/v1/TaskService/Tasks/7", Some(Place::Task(7)));
        check("/redfish/v1/TaskService/Tasks/x", None);
        check("/redfish/v1//Systems", None);
        check("/redfish/v2", None);
        check("/redfish/v1/Managers/other", None);
    }

    #[test]
    fn nobody_changes_anything_with_less_than_operator_but_their_own() {
        let check = |path: &str, method: &str, expected: Option<Role>| {
            let place = Place::of(path).unwrap();
            let found = place.allows(method).then(|| place.least(method));
            assert_eq!(found, expected, "{method} {path}");
        };
        let reset = "/redfish/v1/Systems/a/Actions/ComputerSystem.Reset";
        check(reset, "POST", Some(Role::Operator));
        check(reset, "GET", None);
        check("/redfish/v1/Systems/a", "GET", Some(Role::ReadOnly));
        check("/redfish/v1/Systems/a", "DELETE", None);
        check("/redfish/v1/Systems/a", "PATCH", Some(Role::Operator));
        let drive = "/redfish/v1/Managers/mother/VirtualMedia/a";
        check(drive, "PATCH", Some(Role::Operator));
        let eject = "/redfish/v1/Systems/a/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia";
        check(eject, "POST", Some(Role::Operator));
        check(
            "/redfish/v1/AccountService/Accounts",
            "POST",
            Some(Role::Administrator),
        );
        check(
            "/redfish/v1/AccountService/Accounts/a",
            "PATCH",
            Some(Role::ReadOnly),
        );
        check(
            "/redfish/v1/AccountService/Accounts/a",
            "DELETE",
            Some(Role::Administrator),
        );
        check(
            "/redfish/v1/EventService/Subscriptions",
            "POST",
            Some(Role::Operator),
        );
        check(
            "/redfish/v1/TaskService/Tasks/1",
            "DELETE",
            Some(Role::Operator),
        );
    }
}
