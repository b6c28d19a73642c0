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
}

/// Mints the tokens of the demo into files, because a token is too long for a line that one reads.
pub(crate) fn write_tokens(issuer: &Issuer, directory: &Path) -> io::Result<()> {
    let user = || issuer.user("auth0|alice").claim(ROLES_CLAIM, vec!["user"]);
    let admin = issuer.user("auth0|grace").claim(ROLES_CLAIM, vec!["admin"]);
    for (name, token) in [
        ("user", user()),
        ("admin", admin),
        ("expired", user().issued_ago(7200).expires_in(-3600)),
        (
            "wrong-audience",
            user().claim("aud", "https://another-api.com"),
        ),
    ] {
        std::fs::write(directory.join(name), token.mint())?;
    }
    Ok(())
}

/// Every request worth trying, against the proxy at `address`.
pub(crate) fn all(address: SocketAddr, tokens: &Path) -> Vec<Case> {
    let bearer = |name: &str| {
        let file = tokens.join(name);
        format!("-H \"Authorization: Bearer $(cat '{}')\" ", file.display())
    };
    let spoofed = "-H 'X-Forwarded-User: auth0|grace' -H 'X_Forwarded_User: auth0|grace' ";
    let case = |title, options: String, target: &str, status, word| Case {
        title,
        command: format!("curl -sSi {options}http://{address}{target}"),
        status,
        word,
    };
    let none = String::new;
    vec![
        case("no token", none(), "/api/agents", 401, "token_missing"),
        case(
            "a user",
            bearer("user"),
            "/api/agents",
            200,
            "\"user\":\"auth0|alice\"",
        ),
        case(
            "a user, streaming",
            format!("-N -X POST {}", bearer("user")),
            "/api/agents/weather/stream",
            200,
            "data: [DONE]",
        ),
        case(
            "a user among admins",
            bearer("user"),
            "/admin/users",
            403,
            "rule_denied",
        ),
        case(
            "an admin",
            bearer("admin"),
            "/admin/users",
            200,
            "\"user\":\"auth0|grace\"",
        ),
        case(
            "an expired token",
            bearer("expired"),
            "/api/agents",
            401,
            "token_expired",
        ),
        case(
            "a token for another API",
            bearer("wrong-audience"),
            "/api/agents",
            401,
            "token_wrong_audience",
        ),
        case("a public route", none(), "/health", 200, "\"success\":true"),
        case(
            "a user who claims to be another",
            format!("{spoofed}{}", bearer("user")),
            "/api/agents",
            200,
            "\"user\":\"auth0|alice\"",
        ),
        case(
            "the same on a public route",
            spoofed.to_owned(),
            "/health",
            200,
            "\"user\":null",
        ),
    ]
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
    /// Runs the line exactly as it is printed.
    pub(crate) fn run(&self) -> Outcome {
        let output = match Command::new("/bin/sh")
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
