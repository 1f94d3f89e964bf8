//! Everything that can be asked, as one table: the router, who may, and the OpenAPI document are made of it.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};

use super::answer::{Part, Refusal};
use super::app::App;
use super::{command, console, host, people, several, streams, vms};
use crate::doors::{Closed, Who};
use crate::orders::problem;
use crate::words::Role;

/// What goes in or comes out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Nothing.
    Empty,
    /// One of [`super::openapi`]'s own schemas.
    Named(&'static str),
    /// What a command answers with `--json`, by the name of its schema.
    Command(&'static str),
    /// Server-sent events.
    Events,
    /// Something that is no JSON, by its media type.
    Other(&'static str),
}

/// One thing that can be asked.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// The least that may.
    pub(crate) role: Role,
    /// What it does, in a sentence.
    pub(crate) about: &'static str,
    /// Words behind `?`, with what they mean.
    pub(crate) query: &'static [(&'static str, &'static str)],
    pub(crate) body: Shape,
    /// The status when it is well, and what comes.
    pub(crate) status: u16,
    pub(crate) answer: Shape,
    handler: MethodRouter<App>,
}

impl Route {
    fn read(
        path: &'static str,
        about: &'static str,
        answer: Shape,
        handler: MethodRouter<App>,
    ) -> Route {
        Route {
            method: "get",
            path,
            role: Role::ReadOnly,
            about,
            query: &[],
            body: Shape::Empty,
            status: 200,
            answer,
            handler,
        }
    }

    fn change(
        (method, path): (&'static str, &'static str),
        about: &'static str,
        body: Shape,
        (status, answer): (u16, Shape),
        handler: MethodRouter<App>,
    ) -> Route {
        Route {
            method,
            path,
            role: Role::Operator,
            about,
            query: &[],
            body,
            status,
            answer,
            handler,
        }
    }

    fn of(self, role: Role) -> Route {
        Route { role, ..self }
    }

    fn with(self, query: &'static [(&'static str, &'static str)]) -> Route {
        Route { query, ..self }
    }
}

/// The table.
pub(crate) fn routes() -> Vec<Route> {
    let mut all = of_vms();
    all.extend(inside_vms());
    all.extend(of_several());
    all.extend(of_events());
    all.extend(of_the_host());
    all.extend(of_people());
    all
}

const WAIT: (&str, &str) = ("wait", "seconds to wait for the end of it, at most 300");

fn of_vms() -> Vec<Route> {
    use Shape::{Empty, Named};
    let operation = (202, Named("Operation"));
    vec![
        Route::read("/v1/vms", "Every VM by name", Named("Vms"), get(vms::list)).with(&[
            ("label", "only VMs with this label, KEY=VALUE"),
            ("state", "only VMs in this state"),
        ]),
        Route::change(
            ("post", "/v1/vms"),
            "Declares a VM",
            Named("Declaration"),
            (201, Named("VmView")),
            post(vms::create),
        ),
        Route::read("/v1/vms/{name}", "One VM", Named("VmView"), get(vms::one)),
        Route::change(
            ("put", "/v1/vms/{name}"),
            "Declares a VM anew; If-Match refuses what was changed meanwhile",
            Named("Declaration"),
            (200, Named("VmView")),
            put(vms::replace),
        ),
        Route::change(
            ("delete", "/v1/vms/{name}"),
            "Forgets the declaration, stops the VM and removes what it left",
            Empty,
            operation,
            delete(vms::remove),
        )
        .with(&[("kill", "true ends the guest at once"), WAIT]),
        Route::change(
            ("post", "/v1/vms/{name}/{action}"),
            "Does something to a VM: start, stop, restart, kill, pause, resume, nmi, limit, balloon, link or switch",
            Named("ActionBody"),
            operation,
            post(vms::act),
        )
        .with(&[WAIT]),
    ]
}

/// What goes on in a VM, as commands tell it, and its console.
fn inside_vms() -> Vec<Route> {
    use Shape::{Command, Other};
    let asked = |command: &'static str| {
        get(move |app: State<App>, name: Part<String>| vms::ask(app, name, command))
    };
    let mut all = Vec::new();
    for (path, command, about) in [
        (
            "/v1/vms/{name}/truth",
            "truth",
            "Claim, kernel and truth side by side",
        ),
        (
            "/v1/vms/{name}/processes",
            "processes",
            "The guest's processes, read from outside",
        ),
        (
            "/v1/vms/{name}/inspect",
            "inspect",
            "Everything that is known",
        ),
        (
            "/v1/vms/{name}/hooks",
            "hooks",
            "Where the guest's kernel calls others' code",
        ),
        (
            "/v1/vms/{name}/dmesg",
            "dmesg",
            "The log of the guest's kernel",
        ),
        ("/v1/vms/{name}/logs", "logs", "What the VM printed"),
    ] {
        all.push(Route::read(path, about, Command(command), asked(command)));
    }
    let console = Route::read(
        "/v1/vms/{name}/console",
        "The console as a WebSocket, both ways; with types=false one only looks",
        Other("application/octet-stream"),
        get(console::attach),
    );
    all.push(
        Route {
            status: 101,
            ..console
        }
        .with(&[("types", "false only looks, which ReadOnly may")]),
    );
    all
}

fn of_several() -> Vec<Route> {
    use Shape::{Empty, Named, Other};
    vec![
        Route::change(
            ("post", "/v1/apply"),
            "Declares several VMs at once, all or none; tells what differs",
            Named("Application"),
            (200, Named("Differences")),
            post(several::apply),
        )
        .with(&[
            ("dry_run", "true changes nothing"),
            (
                "prune",
                "true forgets, stops and removes declared VMs that are not there",
            ),
        ]),
        Route::read(
            "/v1/operations",
            "Long work, newest first",
            Named("Operations"),
            get(several::operations),
        ),
        Route::read(
            "/v1/operations/{id}",
            "One operation",
            Named("Operation"),
            get(several::operation),
        )
        .with(&[WAIT]),
        Route::change(
            ("delete", "/v1/operations/{id}"),
            "Cancels an operation",
            Empty,
            (202, Named("Operation")),
            delete(several::cancel),
        ),
        Route::change(
            ("post", "/v1/command"),
            "Runs a command of Mother's; lines of JSON with what it prints come as it prints it",
            Named("Asked"),
            (200, Other("application/x-ndjson")),
            post(command::run),
        )
        .of(Role::ReadOnly),
    ]
}

fn of_events() -> Vec<Route> {
    use Shape::{Events, Named};
    let limits: &[(&str, &str)] = &[
        ("after", "only events with greater numbers"),
        ("limit", "at most so many, 1000 without it"),
        ("vm", "only events of this VM"),
    ];
    vec![
        Route::read(
            "/v1/watch",
            "VMs as they change",
            Events,
            get(streams::watch),
        ),
        Route::read(
            "/v1/events",
            "What happened, oldest first",
            Named("Events"),
            get(streams::events),
        )
        .with(limits),
        Route::read(
            "/v1/events/stream",
            "What happens; Last-Event-ID goes on where it stopped",
            Events,
            get(streams::event_stream),
        )
        .with(&[("after", "begins behind this number")]),
    ]
}

fn of_the_host() -> Vec<Route> {
    use Shape::{Command, Empty, Named, Other};
    vec![
        Route::read(
            "/v1/images",
            "Root file systems that are kept",
            Command("images"),
            get(several::images),
        ),
        Route::change(
            ("delete", "/v1/images/{name}"),
            "Removes an image",
            Empty,
            (200, Command("freed")),
            delete(several::remove_image),
        ),
        Route::change(
            ("post", "/v1/images/prune"),
            "Removes leftovers and images that newer ones have replaced",
            Empty,
            (200, Command("freed")),
            post(several::prune_images),
        ),
        Route::read(
            "/v1/networks",
            "Networks between VMs, and who is on them",
            Command("networks"),
            get(several::networks),
        ),
        Route::read(
            "/v1/host",
            "The host, and what more fits",
            Named("HostView"),
            get(host::host),
        ),
        Route::read(
            "/v1/host/doctor",
            "What works on the host",
            Command("doctor"),
            get(host::doctor),
        ),
        Route::read(
            "/metrics",
            "Every number",
            Other("text/plain"),
            get(host::metrics),
        )
        .with(&[("libvirt", "true adds the names of libvirt's exporter")]),
    ]
}

fn of_people() -> Vec<Route> {
    use Shape::{Empty, Named};
    vec![
        Route::read(
            "/v1/session",
            "Who one is",
            Named("SessionView"),
            get(people::session),
        ),
        Route::change(
            ("delete", "/v1/session"),
            "Ends a browser's session",
            Empty,
            (204, Empty),
            delete(people::leave),
        )
        .of(Role::ReadOnly),
        Route::read(
            "/v1/sessions",
            "Sessions that are open",
            Named("Sessions"),
            get(people::sessions),
        )
        .of(Role::Administrator),
        Route::change(
            ("delete", "/v1/sessions/{name}"),
            "Ends a session",
            Empty,
            (204, Empty),
            delete(people::end_session),
        )
        .of(Role::Administrator),
        Route::read(
            "/v1/tokens",
            "Who may come in",
            Named("Tokens"),
            get(people::tokens),
        )
        .of(Role::Administrator),
        Route::change(
            ("post", "/v1/tokens"),
            "Lets somebody in; the token is in the answer and nowhere else",
            Named("NewToken"),
            (201, Named("MadeToken")),
            post(people::add_token),
        )
        .of(Role::Administrator),
        Route::change(
            ("delete", "/v1/tokens/{name}"),
            "Lets somebody in no more",
            Empty,
            (204, Empty),
            delete(people::remove_token),
        )
        .of(Role::Administrator),
        Route::read(
            "/v1/audit",
            "Who asked for what, newest first",
            Named("Audit"),
            get(people::audit),
        )
        .of(Role::Administrator)
        .with(&[
            ("limit", "at most so many, 1000 without it"),
            ("reads", "true for calls that only read"),
        ]),
    ]
}

/// The router of the table.
pub(crate) fn router() -> Router<App> {
    let mut router = Router::new();
    for route in routes() {
        let role = route.role;
        let handler = route
            .handler
            .layer(middleware::from_fn(move |request, next| {
                may(role, request, next)
            }));
        router = router.route(route.path, handler);
    }
    router
}

/// Lets those pass who may.
async fn may(role: Role, request: Request, next: Next) -> Response {
    match request.extensions().get::<Who>() {
        Some(who) if who.role >= role => next.run(request).await,
        Some(who) => Refusal::forbidden(who, role).into_response(),
        None => Refusal::closed(&Closed::Unknown).into_response(),
    }
}

/// There is nothing at this path.
pub(crate) async fn nothing(State(_): State<App>, request: Request) -> Refusal {
    let path = request.uri().path().escape_debug().to_string();
    Refusal::none(
        "no-such-path",
        format!("there is nothing at {path}"),
        "`/openapi.json` says what there is",
    )
}

/// There is something, and this is not done to it.
pub(crate) async fn not_that(request: Request) -> Refusal {
    let problem = problem("method", format!("{} is not done here", request.method()));
    Refusal::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, problem)
}
