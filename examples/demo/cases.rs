//! The requests that the demo offers, each with what it should show.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::issuer::Issuer;

/// The claim that carries the roles, under a namespace because Auth0 drops a bare `roles`.
pub(crate) const ROLES_CLAIM: &str = "https://your-app.com/roles";

/// One curl line with its expected answer.
pub(crate) struct Case {
    pub(crate) title: &'static str,
    pub(crate) command: String,
    pub(crate) status: u16,
    /// Occurs in the body, or in a response header.
    pub(crate) word: &'static str,
    /// What a person has just seen.
    pub(crate) lesson: &'static str,
}

/// Writes the fields that the lines send into files, which `curl -H @FILE` reads: a token is too long for a line
/// that one reads.
pub(crate) fn write_fields(issuer: &Issuer, directory: &Path) -> io::Result<()> {
    let user = || issuer.user("auth0|alice").claim(ROLES_CLAIM, vec!["user"]);
    let admin = issuer.user("auth0|grace").claim(ROLES_CLAIM, vec!["admin"]);
    for (name, token) in [
        ("user", user()),
        ("admin", admin),
        ("expired", user().issued_ago(7200).expires_in(-3600)),
        ("other-api", user().claim("aud", "https://another-api.com")),
    ] {
        let field = format!("Authorization: Bearer {}\n", token.mint());
        std::fs::write(directory.join(name), field)?;
    }
    let grace = "X-Forwarded-User: auth0|grace\nX_Forwarded_User: auth0|grace\n";
    std::fs::write(directory.join("pretend"), grace)
}

/// Every request worth trying, against the proxy at `address`.
#[rustfmt::skip]
pub(crate) fn all(address: SocketAddr) -> Vec<Case> {
    let rows = [
        ("no token", "", "/api/agents", 401, "token_missing",
            "Nobody gets in without a token."),
        ("a user", "-H @user ", "/api/agents", 200, "\"user\":\"auth0|alice\"",
            "The agent is told who calls."),
        ("a user, streaming", "-N -X POST -H @user ", "/api/agents/weather/stream", 200, "data: [DONE]",
            "Each event passes as the agent sends it."),
        ("a user among admins", "-H @user ", "/admin/users", 403, "rule_denied",
            "The rule for /admin asks for a role that alice has not."),
        ("an admin", "-H @admin ", "/admin/users", 200, "\"user\":\"auth0|grace\"",
            "Grace has it."),
        ("an expired token", "-H @expired ", "/api/agents", 401, "token_expired",
            "The answer says what is wrong with a token."),
        ("a token for another API", "-H @other-api ", "/api/agents", 401, "token_wrong_audience",
            "A good token of another API is none here."),
        ("a public route", "", "/health", 200, "\"success\":true",
            "A route can be for everybody."),
        ("a user who claims to be another", "-H @user -H @pretend ", "/api/agents", 200, "\"user\":\"auth0|alice\"",
            "Who pretends to be grace is alice still."),
        ("the same on a public route", "-H @pretend ", "/health", 200, "\"user\":null",
            "Without a token there is no user."),
    ];
    let case = |(title, options, target, status, word, lesson)| Case {
        title,
        command: format!("curl -i {options}{address}{target}"),
        status,
        word,
        lesson,
    };
    rows.map(case).into()
}

/// What became of a case that was run.
pub(crate) enum Outcome {
    AsPrinted,
    Otherwise(String),
}

impl Outcome {
    pub(crate) fn is_as_printed(&self) -> bool {
        matches!(self, Self::AsPrinted)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsPrinted => formatter.write_str("ok"),
            Self::Otherwise(found) => write!(formatter, "FAILED: {found}"),
        }
    }
}

impl Case {
    /// Runs the line exactly as it is printed, in the directory of the demo.
    pub(crate) fn run(&self, directory: &Path) -> Outcome {
        let output = match Command::new("/bin/sh")
            .current_dir(directory)
            .arg("-c")
            .arg(&self.command)
            .output()
        {
            Ok(output) => output,
            Err(error) => return Outcome::Otherwise(format!("/bin/sh: {error}")),
        };
        let answer = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        let status = answer
            .lines()
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|status| status.parse().ok());
        if status == Some(self.status) && answer.contains(self.word) && output.status.success() {
            return Outcome::AsPrinted;
        }
        Outcome::Otherwise(format!("{} {}", complaint.trim(), answer.trim()))
    }
}
