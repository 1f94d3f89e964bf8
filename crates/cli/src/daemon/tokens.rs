//! `mother token`: who may come in over TLS.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::through::ask_daemon;
use crate::answers;
use crate::failure::Failure;
use crate::output::say;

/// `mother token`.
#[derive(Clone, Debug, Args)]
pub struct TokenArguments {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum TokenCommand {
    /// Let somebody in: prints a token, which is nowhere else
    Add {
        /// What they are called in the audit log
        name: String,
        /// What they may do: read-only, operator or administrator
        #[arg(
            long,
            value_name = "ROLE",
            default_value = "read-only",
            hide_possible_values = true
        )]
        role: Role,
        /// As JSON: an object
        #[arg(long)]
        json: bool,
    },
    /// Let somebody in no more
    Rm {
        /// Who
        name: String,
    },
    /// List who may come in
    List {
        /// As JSON: an array
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    ReadOnly,
    Operator,
    Administrator,
}

/// Does it; the exit status.
pub fn token(arguments: &TokenArguments) -> Result<u8, Failure> {
    match &arguments.command {
        TokenCommand::Add { name, role, json } => {
            let role = match role {
                Role::ReadOnly => "ReadOnly",
                Role::Operator => "Operator",
                Role::Administrator => "Administrator",
            };
            let body = json!({ "name": name, "role": role });
            let made = ask_daemon("POST", "/v1/tokens", Some(&body), None)?.body;
            let token = made["token"].as_str().unwrap_or_default();
            say(&if *json {
                answers::text(&made)
            } else {
                format!("{token}\n")
            })?;
        }
        TokenCommand::Rm { name } => {
            let word = plain(name)?;
            ask_daemon("DELETE", &format!("/v1/tokens/{word}"), None, None)?;
        }
        TokenCommand::List { json } => {
            let all = ask_daemon("GET", "/v1/tokens", None, None)?.body;
            let tokens = &all["tokens"];
            if *json {
                say(&answers::text(tokens))?;
            } else {
                let line = |token: &Value| {
                    let text = |key: &str| token[key].as_str().unwrap_or_default().to_owned();
                    format!("{:<13}  {}\n", text("role"), text("name"))
                };
                let tokens = tokens.as_array().map(Vec::as_slice).unwrap_or_default();
                say(&tokens.iter().map(line).collect::<String>())?;
            }
        }
    }
    Ok(0)
}

/// A name as it stands in a path; what the daemon would never have taken needs no question.
fn plain(name: &str) -> Result<&str, Failure> {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.' | '@');
    if name.chars().all(is_plain) && !name.is_empty() {
        Ok(name)
    } else {
        Err(Failure::NoSuchToken(name.to_owned()))
    }
}
