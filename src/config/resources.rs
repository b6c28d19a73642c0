//! `[[resource]]`: protected resources (RFC 9728).

use super::auth0::is_host_and_port;
use super::reader::{Problems, Section};
use super::schema::Form;
use crate::headers::AllowedHost;
use crate::policy::{Area, Pattern, PatternError, Route};
use crate::resource::{PathPrefix, ResourceSettings, ResourceUrl, WELL_KNOWN};

/// How a URL looks in the schema; what else is asked of it is checked where it is read.
const URL: &str = r"^\s*https?://[^/?#@\s]+(/[^?#%\s]*)?\s*$";

/// How a path looks there.
const PREFIX: &str = r"^\s*$|^\s*/[^?#%\s]*[^/?#%\s]\s*$";

/// Reads `path_prefix`.
pub(super) fn path_prefix(root: &mut Section, problems: &mut Problems) -> Option<PathPrefix> {
    let text = root.string_of("path_prefix", Form::Pattern(PREFIX), problems)?;
    let why = if !text.starts_with('/') {
        Some("does not begin with a slash".to_owned())
    } else if text.ends_with('/') {
        Some("ends in a slash".to_owned())
    } else {
        wrong_path(&text)
    };
    if let Some(why) = why {
        problems.error(
            "path_prefix",
            format!("{text:?} {why}; write what the ingress strips, such as \"/team-a\""),
        );
        return None;
    }
    PathPrefix::new(&text)
}

/// Reads every `[[resource]]`; `accepted` is `auth0.audience`.
pub(super) fn read(
    sections: Vec<Section>,
    prefix: Option<&PathPrefix>,
    accepted: &[String],
    problems: &mut Problems,
) -> Vec<ResourceSettings> {
    let mut resources: Vec<(String, ResourceSettings)> = Vec::new();
    for section in sections {
        let path = section.path_of("url");
        let Some(resource) = resource(section, prefix, accepted, problems) else {
            continue;
        };
        let area = |resource: &ResourceSettings| Area::new(&resource.url.path, Vec::new());
        let same = |(_, known): &&(String, ResourceSettings)| area(known).is_same(&area(&resource));
        if let Some((other, _)) = resources.iter().find(same) {
            problems.error(&path, format!("has the same path as {other}, so nobody could say which of them a request belongs to: give each a path of its own"));
        }
        resources.push((path, resource));
    }
    resources
        .into_iter()
        .map(|(_, resource)| resource)
        .collect()
}

/// Warns of routes at paths where metadata is answered before any route is looked at.
pub(super) fn warn_of_hidden_routes(routes: &[Route], problems: &mut Problems) {
    for (place, route) in routes.iter().enumerate() {
        if Area::new(WELL_KNOWN, Vec::new()).holds_path(route.pattern.source()) {
            problems.warning(
                format!("route[{place}].path"),
                format!("{:?} is never asked: with a [[resource]], authgate answers whatever is below {WELL_KNOWN} itself; remove the route", route.pattern.source()),
            );
        }
    }
}

fn resource(
    mut section: Section,
    prefix: Option<&PathPrefix>,
    accepted: &[String],
    problems: &mut Problems,
) -> Option<ResourceSettings> {
    let path = section.path_of("url");
    section.has_required("url");
    let is_set = section.is_set("url");
    let url = match section.string_of("url", Form::Pattern(URL), problems) {
        None if is_set => None,
        None => {
            problems.error(&path, "is missing: a resource is known by its URL, as clients use it, such as \"https://api.example.com/mcp\"");
            None
        }
        Some(text) => parse_url(&path, &text, prefix, problems),
    };
    let audiences = audiences(&mut section, problems);
    let scopes = scopes(&mut section, problems);
    let name = section.string("name", problems);
    let documentation = documentation(&mut section, problems);
    section.finish(problems);
    let url = url?;
    warn_of_slashes(&path, &url, problems);
    let audiences = if audiences.is_empty() {
        vec![url.text.clone()]
    } else {
        audiences
    };
    if !audiences.contains(&url.text) && !accepted.contains(&url.text) {
        problems.warning(&path, format!("{:?} is no audience that is accepted here, and clients that read the metadata ask Auth0 for a token for it (RFC 8707): make it the identifier of the API in Auth0, and add it to audience or to auth0.audience", url.text));
    }
    Some(ResourceSettings {
        url,
        audiences,
        scopes,
        name,
        documentation,
    })
}

fn audiences(section: &mut Section, problems: &mut Problems) -> Vec<String> {
    let path = section.path_of("audience");
    let list = section.strings("audience", problems).unwrap_or_default();
    let mut audiences = Vec::new();
    for audience in list {
        if audience.is_empty() || audience.trim() != audience {
            problems.error(&path, format!("{audience:?} is empty or has spaces around it: write the identifier of an API, letter for letter"));
        } else if !audiences.contains(&audience) {
            audiences.push(audience);
        }
    }
    audiences
}

/// RFC 6749 §3.3.
fn scopes(section: &mut Section, problems: &mut Problems) -> Vec<String> {
    let path = section.path_of("scopes");
    let list = section.strings("scopes", problems).unwrap_or_default();
    let is_fine = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    for scope in &list {
        if scope.is_empty() || !scope.bytes().all(is_fine) {
            problems.error(&path, format!("{scope:?} is not a scope: write one scope per string, in visible ASCII without quotation marks and backslashes"));
        }
    }
    list
}

fn documentation(section: &mut Section, problems: &mut Problems) -> Option<String> {
    let path = section.path_of("documentation");
    let text = section.string_of(
        "documentation",
        Form::Pattern(r"^\s*(https?://\S+\s*)?$"),
        problems,
    )?;
    let is_url = text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
    });
    if !is_url {
        problems.error(path, format!("{text:?} is not a URL: write that of a page for people, such as \"https://docs.example.com/mcp\""));
    }
    Some(text)
}

/// Clients compare the URL with the one they use, so there is one right spelling, and it must be the one
/// that their URL parsers make of it.
fn parse_url(
    path: &str,
    text: &str,
    prefix: Option<&PathPrefix>,
    problems: &mut Problems,
) -> Option<ResourceUrl> {
    let refuse = |problems: &mut Problems, why: &str| {
        problems.error(path, format!("{text:?} {why}; write the URL as clients use it, such as \"https://api.example.com/mcp\""));
        None
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        return refuse(problems, "has no scheme");
    };
    if rest.contains('#') {
        return refuse(
            problems,
            "holds a fragment: remove everything from \"#\" on",
        );
    }
    if rest.contains('?') {
        return refuse(problems, "holds a query: remove everything from \"?\" on");
    }
    let (authority, below) = rest.find('/').map_or((rest, ""), |end| rest.split_at(end));
    if let Some((_, bare)) = authority.rsplit_once('@') {
        return refuse(
            problems,
            &format!("holds user information: write {bare:?} for the host"),
        );
    }
    let lower = format!("{scheme}://{authority}").to_ascii_lowercase();
    if !text.starts_with(&lower) {
        return refuse(
            problems,
            &format!("has capitals where clients write small letters: write \"{lower}{below}\""),
        );
    }
    let host = AllowedHost::parse(authority).filter(|_| is_host_and_port(authority));
    let Some(host) = host else {
        return refuse(problems, "has no host name with an optional port");
    };
    match scheme {
        "https" => {}
        "http" if host.is_loopback() => {}
        "http" => {
            return refuse(
                problems,
                "begins with http://, which is for loopback hosts only: a token would pass in clear text",
            );
        }
        _ => return refuse(problems, "is not an https:// URL"),
    }
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    if let Some(bare) = authority.strip_suffix(default_port) {
        return refuse(
            problems,
            &format!(
                "names the default port, which clients leave out: write \"{scheme}://{bare}{below}\""
            ),
        );
    }
    if let Some(why) = wrong_path(below) {
        return refuse(problems, &why);
    }
    let local = match prefix {
        None => below,
        Some(prefix) => {
            let Some(local) = prefix.strip(below) else {
                let origin = &lower;
                return refuse(
                    problems,
                    &format!(
                        "does not lie below path_prefix, which is stripped from every path: \"{origin}{prefix}{below}\" would"
                    ),
                );
            };
            local
        }
    };
    let well_known = Area::new(WELL_KNOWN, Vec::new());
    if [below, local]
        .iter()
        .any(|path| well_known.holds_path(path))
    {
        return refuse(problems, "lies where the metadata of resources is");
    }
    Some(ResourceUrl {
        text: text.to_owned(),
        origin: lower,
        host,
        path: below.to_owned(),
        local_path: local.to_owned(),
    })
}

/// Why this cannot be a resource's path. Where routes are literal, so is this; what clients or backends
/// could read in two ways is no name for a resource.
fn wrong_path(below: &str) -> Option<String> {
    let bare = below.strip_suffix('/').unwrap_or(below);
    if bare.ends_with('/') {
        return Some(format!(
            "has a path that cannot be one: {}",
            PatternError::DotOrEmptySegment
        ));
    }
    if bare.contains('%') {
        return Some("has percent-encoding in its path, which can be read in more than one way: choose a path without".to_owned());
    }
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()+,=:@/".contains(c);
    if let Some(bad) = bare.chars().find(|c| !is_fine(*c)) {
        return Some(format!("has {bad:?} in its path: choose a path without"));
    }
    if !bare.is_empty()
        && let Err(error) = Pattern::parse(bare)
    {
        return Some(format!("has a path that cannot be one: {error}"));
    }
    None
}

/// The TypeScript SDK of MCP, for one, adds the slash of the root where there is no path, and takes
/// everything else as it is.
fn warn_of_slashes(path: &str, url: &ResourceUrl, problems: &mut Problems) {
    let text = &url.text;
    if url.path.is_empty() {
        problems.warning(path, format!("{text:?}: clients make \"{text}/\" of it, and ask Auth0 for a token for that: write it so here, and as the identifier of the API"));
    } else if url.path.len() > 1
        && let Some(bare) = text.strip_suffix('/')
    {
        problems.warning(path, format!("{text:?} ends in a slash, and the form without is the usual one: unless clients use it so, write {bare:?} here, and as the identifier of the API"));
    }
}
