//! `authgate explain`: the right diagnosis, the proxy's own verdict, and no part of a token.

use std::path::PathBuf;
use std::process::Output;

use authgate::clock::UnixTime;
use authgate::config::{self, Config, Environment, Overrides};
use authgate::explain::{Decision, Outcome, Question, Report, Step, credential, explain as decide};
use authgate::jose::KeySet;
use authgate::token::{IssuerKeys, Keyring};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::issuer::Issuer;
use crate::issuer::keys::{Algorithm, SigningKey, base64url};
use crate::issuer::port::Port;
use crate::issuer::tokens::{AUDIENCE, CLIENT, Dialect, Mint, now};
use crate::support::proxy::{program, run_to_end};
use crate::support::{Findings, Proxy, Reply, Request, Setup, Upstream};

/// A tenant as the configuration names it, whose keys are those of the stand-in.
const TENANT: &str = "your-tenant.us.auth0.com";
const ROLES: &str = "https://your-app.com/roles";

/// A configuration on disk.
struct File {
    path: PathBuf,
    _directory: TempDir,
}

impl File {
    fn of(text: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("authgate.toml");
        std::fs::write(&path, text).expect("the configuration");
        Self {
            path,
            _directory: directory,
        }
    }

    fn load(&self) -> Config {
        let loaded = config::load(
            Some(&self.path),
            &Overrides::default(),
            &Environment::default(),
        );
        loaded.config.expect("a valid configuration")
    }

    /// `authgate explain` with this configuration; its output holds no part of what was pasted.
    async fn explain(&self, arguments: &[&str], pasted: &str) -> Output {
        let mut command = program();
        command.args(["explain", "--config", &self.path.display().to_string()]);
        command.args(arguments);
        let output = run_to_end(command, pasted).await;
        for text in [&output.stdout, &output.stderr] {
            assert_holds_no_part(&String::from_utf8_lossy(text), pasted);
        }
        output
    }

    async fn json(&self, arguments: &[&str], pasted: &str) -> (Option<i32>, Value) {
        let arguments = [&["--json"], arguments].concat();
        let output = self.explain(&arguments, pasted).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let report = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text} {output:?}"));
        (output.status.code(), report)
    }
}

/// Every run of a pasted text that only a credential has: its segments, and halves of long ones.
fn assert_holds_no_part(output: &str, pasted: &str) {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    for part in pasted.split(|c| !is_inside(c)) {
        let innocent = ["authorization", "access_token", "undefined"];
        if part.len() < 12 || innocent.contains(&part.to_ascii_lowercase().as_str()) {
            continue;
        }
        assert!(
            !output.contains(part),
            "a part of the token is in:\n{output}"
        );
        for piece in part.as_bytes().chunks(24).filter(|piece| piece.len() >= 20) {
            let piece = std::str::from_utf8(piece).expect("ASCII");
            assert!(
                !output.contains(piece),
                "a piece of the token is in:\n{output}"
            );
        }
    }
}

/// A configuration whose tenant is `domain` and whose keys are those of `issuer`.
fn configuration(issuer: &Issuer, domain: &str, auth0: &str, rest: &str) -> File {
    File::of(&format!(
        "[auth0]\ndomain = \"{domain}\"\naudience = \"{AUDIENCE}\"\n{auth0}\n\
         [auth0.keys]\nurl = \"{}\"\nca_file = \"{}\"\n{rest}\n",
        issuer.keys_url(),
        issuer.ca_file().display()
    ))
}

fn route(condition: &str) -> String {
    format!("[[route]]\npath = \"/api/**\"\nrequire = {{ {condition} }}")
}

/// A token of the tenant.
fn user(issuer: &Issuer) -> Mint {
    let iss = format!("https://{TENANT}/");
    issuer
        .user("auth0|alice")
        .claim("iss", iss.clone())
        .claim("aud", json!([AUDIENCE, format!("{iss}userinfo")]))
}

/// A mistake, the configuration and the token it shows in, and what must be said of it.
struct Mistake {
    name: &'static str,
    domain: &'static str,
    auth0: &'static str,
    rest: String,
    pasted: String,
    code: &'static str,
    says: &'static [&'static str],
}

fn mistake(
    name: &'static str,
    rest: &str,
    pasted: impl Into<String>,
    code: &'static str,
    says: &'static [&'static str],
) -> Mistake {
    Mistake {
        name,
        domain: TENANT,
        auth0: "",
        rest: rest.to_owned(),
        pasted: pasted.into(),
        code,
        says,
    }
}

impl Mistake {
    fn domain(self, domain: &'static str) -> Self {
        Self { domain, ..self }
    }

    fn auth0(self, auth0: &'static str) -> Self {
        Self { auth0, ..self }
    }
}

/// What is wrong with the token itself.
#[rustfmt::skip]
fn token_mistakes(issuer: &Issuer) -> Vec<Mistake> {
    let user = || user(issuer);
    let iss = format!("https://{TENANT}/");
    let whole = user().mint();
    let cut = &whole[..whole.rfind('.').expect("three parts")];
    let encrypted = format!(
        "{}.aaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbb.cccccccccccccccc.dddddddddddddddd",
        base64url(br#"{"alg":"dir","enc":"A256GCM","iss":"https://your-tenant.us.auth0.com/"}"#)
    );
    let id_token = user()
        .claim("aud", CLIENT)
        .without("scope").without("azp")
        .claim("nonce", "abc").claim("email", "alice@example.com").claim("sid", "s1");
    let other = std::sync::Arc::new(SigningKey::rsa(1));
    vec![
        // The first, as it is about the seconds since it was minted.
        mistake("a token that expires too early", "", user().expires_in(-10).mint(), "token_expired", &["clock of this machine is ahead", "NTP"]),
        mistake("the audience of another API", "", user().claim("aud", json!(["https://other-api.example.com", format!("{iss}userinfo")])).mint(),
            "token_wrong_audience", &["for https://other-api.example.com", "audience=https://your-api.com", "AUTH0_AUDIENCE"]),
        mistake("an audience with a slash too many", "", user().claim("aud", "https://your-api.com/").mint(),
            "token_wrong_audience", &["https://your-api.com/", "slash", "letter for letter"]),
        mistake("a token for the Management API", "", user().claim("aud", format!("{iss}api/v2/")).mint(),
            "token_wrong_audience", &["Management API", "audience=https://your-api.com"]),
        mistake("a token for userinfo only", "", user().claim("aud", format!("{iss}userinfo")).mint(),
            "token_wrong_audience", &["userinfo only", "audience=https://your-api.com"]),
        mistake("an ID token", "", id_token.mint(), "token_wrong_audience", &["ID token", "access token", "audience=https://your-api.com"]),
        mistake("an opaque token", "", "VjVrMzJvcGFxdWV0b2tlbm9mYXV0aDA", "token_encrypted_or_opaque", &["opaque", "audience=https://your-api.com"]),
        mistake("an encrypted token", "", encrypted, "token_encrypted_or_opaque", &["encrypted", "switch token encryption off"]),
        mistake("no token but its name", "", "Authorization: Bearer undefined", "token_encrypted_or_opaque", &["a word in the place of a token, undefined"]),
        mistake("a token in base64 once more", "", "Bearer ZXlKaGJHY2lPaUpTVXpJMU5pSjkuZTMwLmMybG4=", "token_encrypted_or_opaque", &["base64 of a token", "btoa()"]),
        mistake("a token cut in two", "", cut, "token_malformed", &["2 of 3 parts", "Copy it"]),
        mistake("a changed token", "", user().forged_with(&other).mint(), "token_signature_invalid", &["changed, or cut"]),
        mistake("an API that signs with HS256", "", user().header("alg", "HS256").mint(), "token_algorithm_not_allowed", &["HS256", "RS256", "dashboard"]),
        mistake("an algorithm that is not listed", "", user().header("alg", "PS256").mint(), "token_algorithm_not_allowed", &["PS256", "auth0.algorithms"]),
        mistake("an expired token", "", user().issued_ago(90_000).expires_in(-3600).mint(), "token_expired", &["expired 36", "s ago: get a new one; clients must refresh"]),
        mistake("a clock that is behind", "", user().claim("iat", now() + 300).mint(), "token_not_yet_valid", &["iat lies", "behind", "NTP"]),
        mistake("the same with nbf", "", user().claim("nbf", now() + 300).mint(), "token_not_yet_valid", &["nbf lies", "behind"]),
        mistake("a rotated key", "", user().header("kid", "cm90YXRlZC1rZXk").mint(), "token_unknown_key", &["cm90YXRlZC1rZXk", "rotated", "get a new token"]),
        mistake("another tenant", "", user().claim("iss", "https://rival.eu.auth0.com/").header("kid", "YW5vdGhlcg").mint(),
            "token_unknown_key", &["from rival.eu.auth0.com", "AUTH0_DOMAIN=rival.eu.auth0.com"]),
        mistake("a misspelt domain", "", user().mint(), "token_wrong_issuer", &["misspelt", "AUTH0_DOMAIN=your-tenant.us.auth0.com"])
            .domain("your-tennant.us.auth0.com"),
        mistake("a misspelt domain that has other keys", "", user().header("kid", "YW5vdGhlcg").mint(), "token_unknown_key", &["misspelt", "AUTH0_DOMAIN=your-tenant.us.auth0.com"])
            .domain("your-tennant.us.auth0.com"),
        mistake("a bare tenant name", "", user().mint(), "token_wrong_issuer", &["bare tenant name", "AUTH0_DOMAIN=your-tenant.us.auth0.com"])
            .domain("your-tenant"),
        mistake("an issuer without its slash", "", user().claim("iss", format!("https://{TENANT}")).mint(), "token_wrong_issuer",
            &["they differ in the slash at the end", "https://your-tenant.us.auth0.com/ is expected"]),
        mistake("the same with another key", "", user().claim("iss", format!("https://{TENANT}")).header("kid", "YW5vdGhlcg").mint(), "token_unknown_key",
            &["they differ in the slash at the end"]),
        mistake("a custom domain", "", user().claim("iss", "https://login.example.com/").mint(), "token_wrong_issuer", &["custom domain", "AUTH0_DOMAIN=login.example.com", "list both"]),
        mistake("the profile of Auth0 where RFC 9068 is asked for", "", user().mint(), "token_type_not_allowed", &["RFC 9068", "auth0.token_type"])
            .auth0("token_type = \"at+jwt\""),
        mistake("a logout token", "", user().header("typ", "logout+jwt").mint(), "token_type_not_allowed", &["send the access token"]),
        mistake("an old token", "", user().issued_ago(7200).mint(), "token_too_old", &["was issued 7", "max_token_age"]).auth0("max_token_age = \"1h\""),
        mistake("a bound token", "", user().claim("cnf", json!({"jkt": "x"})).mint(), "token_sender_constrained", &["cnf", "unbound"]),
        mistake("an anonymous session", "", user().claim("sub", "anon@8f14e45f").mint(), "token_anonymous", &["anonymous", "allow_anonymous"]),
        mistake("no sub", "", user().without("sub").mint(), "token_missing_claim", &["no sub"]),
        mistake("another scheme", "", "Authorization: Basic dXNlcjpwYXNzd29yZDEy", "token_missing", &["scheme Basic", "Bearer"]),
        mistake("nothing", "", "\n", "token_missing", &["no token", "Bearer"]),
        mistake("two words", "", format!("Bearer Bearer {whole}"), "authorization_malformed", &["not one token"]),
        mistake("two mistakes", "", user().claim("aud", "https://other-api.example.com").expires_in(-3600).mint(),
            "token_wrong_audience", &["https://other-api.example.com", "Not good either: exp."]),
    ]
}

/// What is wrong between the token and the rules.
#[rustfmt::skip]
fn rule_mistakes(issuer: &Issuer) -> Vec<Mistake> {
    let user = || user(issuer);
    let machine = || issuer.machine(CLIENT).claim("iss", format!("https://{TENANT}/"));
    let permission = route("permissions = [\"read:agents\"]");
    let scope = route("scopes = [\"read:agents\"]");
    let role = route("any_role = [\"admin\"]");
    let groups = route("claims = [{ claim = \"groups\", contains = \"staff\" }]");
    let organization = route("organizations = [\"acme\"]");
    const WITH_ROLES: &str = "roles_claim = \"https://your-app.com/roles\"";
    vec![
        mistake("no RBAC", &permission, user().mint(), "rule_denied", &["no permissions claim", "Enable RBAC", "Add Permissions in the Access Token"]),
        mistake("a permission that the user has not", &permission, user().claim("permissions", json!(["read:other"])).mint(),
            "rule_denied", &["[\"read:other\"]", "read:agents is needed", "User Management"]),
        mistake("a scope where a permission is asked for", &permission, user().claim("scope", "openid read:agents").mint(),
            "rule_denied", &["as a scope, not as a permission"]),
        mistake("a permission where a scope is asked for", &scope, user().claim("permissions", json!(["read:agents"])).mint(),
            "scope_missing", &["as a permission, not as a scope"]),
        mistake("a scope that was not requested", &scope, user().mint(), "scope_missing", &["lacks the scope read:agents", "scope=read:agents"]),
        mistake("roles without a namespace", &role, user().mint(), "rule_denied", &["Auth0 drops custom claims without a namespace", "auth0.roles_claim"])
            .auth0("roles_claim = \"roles\""),
        mistake("roles that are there without a namespace", &role, user().claim("roles", json!(["admin"])).mint(), "rule_denied",
            &["a claim roles without a namespace", "https://your-app.com/roles is asked for"]).auth0(WITH_ROLES),
        mistake("groups without a namespace", &groups, user().mint(), "rule_denied", &["no groups claim", "without a namespace"]),
        mistake("groups under a name with one", &groups, user().claim("https://your-app.com/groups", json!(["staff"])).mint(), "rule_denied",
            &["groups has no namespace", "https://your-app.com/groups"]),
        mistake("roles under another name", &role, user().claim("https://other.example.com/roles", json!(["admin"])).mint(),
            "rule_denied", &["https://other.example.com/roles", "auth0.roles_claim = \"https://other.example.com/roles\""]).auth0(WITH_ROLES),
        mistake("no Action that sets roles", &role, user().mint(), "rule_denied", &["setCustomClaim(\"https://your-app.com/roles\""]).auth0(WITH_ROLES),
        mistake("a role that the user has not", &role, user().claim(ROLES, json!(["viewer"])).mint(), "rule_denied", &["[\"viewer\"]", "admin is needed"]).auth0(WITH_ROLES),
        mistake("an organization by its name", &organization, user().organization("org_Ab1", "acme").mint(), "rule_denied", &["ids, not names", "org_Ab1"]),
        mistake("no organization", &route("organizations = [\"org_Ab1\"]"), user().mint(), "rule_denied", &["no organization", "organization=org_Ab1"]),
        mistake("another organization", &route("organizations = [\"org_Ab1\"]"), user().organization("org_Zz9", "rival").mint(), "rule_denied", &["org_Zz9", "org_Ab1 is needed"]),
        mistake("a machine where users are needed", &route("subject_kind = \"user\""), machine().mint(), "rule_denied", &["of the kind machine", "gty is client-credentials", "logged in"]),
        mistake("a user where machines are needed", &route("subject_kind = \"machine\""), user().mint(), "rule_denied", &["of the kind user", "sub has a | and no claim says otherwise", "client credentials"]),
        mistake("an agent where users are needed", &route("subject_kind = \"user\""), user().claim("sub_profile", "ai_agent").mint(), "rule_denied", &["of the kind agent", "sub_profile is ai_agent", "logged in"]),
        mistake("a user where agents are needed", &route("subject_kind = \"agent\""), user().mint(), "rule_denied", &["subject_kind agent is needed", "agent_subject_claims"]),
        mistake("a kind that nobody knows", &route("not = { subject_kind = \"user\" }"), user().claim("sub_profile", "robot").mint(), "rule_denied", &["\"sub_profile\" is an unknown value"]),
        mistake("another application", &route("clients = [\"their-app\"]"), user().mint(), "rule_denied", &[CLIENT, "their-app"]),
        mistake("a claim that nobody sets", &route("claims = [{ claim = \"https://your-app.com/tier\", equals = \"gold\" }]"), user().mint(),
            "rule_denied", &["https://your-app.com/tier is absent", "one_of [\"gold\"]"]),
        mistake("a claim of another type", &role, user().claim(ROLES, json!({"admin": true})).mint(), "rule_denied", &["is an object, not an array of strings"]).auth0(WITH_ROLES),
        mistake("a method that is not taken", "[[route]]\npath = \"/api/**\"\nmethods = [\"POST\"]", user().mint(), "method_denied", &["takes POST only"]),
        mistake("a denied route", "[[route]]\npath = \"/api/**\"\naccess = \"deny\"", user().mint(), "rule_denied", &["denied to everybody"]),
    ]
}

#[tokio::test]
async fn every_mistake_gets_its_diagnosis() {
    let issuer = Issuer::start();
    let mut table = token_mistakes(&issuer);
    table.extend(rule_mistakes(&issuer));
    let mut findings = Findings::default();
    for row in table {
        let file = configuration(&issuer, row.domain, row.auth0, &row.rest);
        let (exit, report) = file.json(&["--path", "/api/agents"], &row.pasted).await;
        let diagnosis = report["diagnosis"].as_str().expect("a diagnosis");
        let case = row.name;
        findings.check(case, exit == Some(1), || format!("exit {exit:?}: {report}"));
        findings.check(case, report["code"] == row.code, || {
            format!("{} and not {}: {diagnosis}", report["code"], row.code)
        });
        findings.check(case, report["decision"] == "refuse", || {
            format!("{}", report["decision"])
        });
        for says in row.says {
            findings.check(case, diagnosis.contains(says), || {
                format!("no {says:?} in: {diagnosis}")
            });
        }
        findings.check(case, !diagnosis.contains('\n'), || diagnosis.to_owned());
        let failed = report["steps"].as_array().expect("steps");
        findings.check(
            case,
            failed.iter().any(|step| step["outcome"] == "failed"),
            || format!("no failed step in {report}"),
        );
    }
    findings.assert_none();
}

#[tokio::test]
async fn keys_out_of_reach_are_69_and_no_verdict() {
    let issuer = Issuer::start();
    let nobody = Port::reserve();
    let token = user(&issuer).mint();
    for (domain, says) in [
        (TENANT, "check AUTH0_DOMAIN"),
        ("your-tenant", "bare tenant name"),
        ("your-tennant.us.auth0.com", "misspelt"),
        ("rival.example.com", "AUTH0_DOMAIN=your-tenant.us.auth0.com"),
    ] {
        let file = File::of(&format!(
            "[auth0]\ndomain = \"{domain}\"\naudience = \"{AUDIENCE}\"\n\
             [auth0.keys]\nurl = \"http://{}/\"\n",
            nobody.address()
        ));
        let (exit, report) = file.json(&["--path", "/x"], &token).await;
        assert_eq!(exit, Some(69), "{domain}: {report}");
        assert_eq!(report["decision"], "unknown", "{domain}");
        assert_eq!(report["code"], "keys_unavailable", "{domain}");
        let diagnosis = report["diagnosis"].as_str().expect("a diagnosis");
        assert!(diagnosis.contains(says), "{domain}: {diagnosis}");
        // No key is needed to say that there is no token.
        let (exit, report) = file.json(&["--no-token"], "").await;
        assert_eq!((exit, &report["code"]), (Some(1), &json!("token_missing")));
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_78_and_a_wrong_call_64() {
    let issuer = Issuer::start();
    let token = user(&issuer).mint();
    let broken = File::of("[auth0]\ndomain = 7\n");
    let output = broken.explain(&[], &token).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(output.stdout.is_empty());

    let file = configuration(
        &issuer,
        TENANT,
        "",
        "[token_sources]\nquery_parameter = \"access_token\"",
    );
    let in_path = format!("/api?access_token={token}");
    let huge = "x".repeat(600_000);
    for (arguments, pasted) in [
        (&[token.as_str()][..], token.as_str()),
        (&["--path", "/x", &token], &token),
        (&["--", &token], &token),
        (&["--token", &token], &token),
        (&[&format!("--token={token}")], &token),
        (&["--path", &in_path], &token),
        (&["--method", "GE T"], &token),
        (&["--host", "a\nb"], &token),
        (&[], &huge),
    ] {
        let output = file.explain(arguments, pasted).await;
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[tokio::test]
async fn a_good_token_passes_however_it_is_pasted() {
    let issuer = Issuer::start();
    let file = configuration(
        &issuer,
        TENANT,
        "",
        "[identity]\nforward_authorization = true\nclaims_header = \"x-auth-claims\"\n\
         [identity.headers]\n\"x-org-id\" = \"org_id\"",
    );
    let token = user(&issuer).organization("org_Ab1", "acme").mint();
    let broken: Vec<&str> = token
        .as_bytes()
        .chunks(70)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    for pasted in [
        token.clone(),
        format!("Authorization: Bearer {token}\r\n"),
        format!("bearer {token}\n"),
        format!("\"{token}\","),
        broken.join("\r\n  "),
        json!({ "access_token": token, "token_type": "Bearer", "expires_in": 86400 }).to_string(),
        format!("curl -H 'Authorization: Bearer {token}' https://agents.example.com/"),
    ] {
        let (exit, report) = file.json(&["--path", "/api/agents"], &pasted).await;
        assert_eq!(exit, Some(0), "{report}");
        assert_eq!(report["decision"], "pass");
        assert_eq!(report["status"], Value::Null);
        assert_eq!(report["code"], Value::Null);
        let sent = |name: &str| {
            let headers = report["upstream_headers"].as_array().expect("headers");
            let found = headers.iter().find(|header| header["name"] == name);
            found.map(|header| header["value"].as_str().expect("text").to_owned())
        };
        assert_eq!(sent("x-forwarded-user").as_deref(), Some("auth0|alice"));
        assert_eq!(sent("x-org-id").as_deref(), Some("org_Ab1"));
        for secret in ["authorization", "x-auth-claims"] {
            let value = sent(secret).expect("the header");
            assert!(value.contains("(part of the token)"), "{secret}: {value}");
        }
    }
    let text = file.explain(&["--path", "/api/agents"], &token).await;
    assert_eq!(text.status.code(), Some(0));
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.ends_with("pass: The request would pass, as auth0|alice.\n"),
        "{text}"
    );
}

#[tokio::test]
async fn what_a_token_says_cannot_move_a_terminal() {
    let issuer = Issuer::start();
    let file = configuration(&issuer, TENANT, "", "");
    let token = user(&issuer).mint();
    // A token can hold its own header, since that is not signed over itself.
    let header = token.split('.').next().expect("a header").to_owned();
    let hostile = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}";
    for token in [
        user(&issuer).claim("aud", format!("{hostile}x")).mint(),
        user(&issuer).claim("iss", hostile).mint(),
        user(&issuer).header("kid", hostile).mint(),
        user(&issuer).header("typ", hostile).mint(),
        user(&issuer).header("alg", hostile).mint(),
        user(&issuer).claim("scope", "x".repeat(5000)).mint(),
        user(&issuer).claim("aud", header.as_str()).mint(),
        user(&issuer)
            .claim("sub", format!("{}{header}", "x".repeat(240)))
            .mint(),
    ] {
        let output = file.explain(&["--path", "/\u{1b}[2J"], &token).await;
        let path = String::from_utf8_lossy(&output.stdout).into_owned();
        let output = file.explain(&["--path", "/api"], &token).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for text in [path, text] {
            assert!(text.len() > 200, "{text}");
            let unsafe_text = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(unsafe_text), "{text:?}");
            assert!(text.lines().all(|line| line.len() < 1500), "{text}");
        }
    }
}

#[tokio::test]
async fn the_request_is_the_one_that_is_asked_about() {
    let file = File::of(&format!(
        "allowed_hosts = [\"agents.example.com\"]\n\
         [auth0]\ndomain = \"{TENANT}\"\naudience = \"{AUDIENCE}\"\n\
         [[route]]\npath = \"/open/**\"\naccess = \"public\"\nmethods = [\"GET\"]\n"
    ));
    for (arguments, exit, code) in [
        (&["--path", "/open/x"][..], 0, Value::Null),
        (&["--path", "/open/x?secret=1"], 0, Value::Null),
        (
            &["--path", "http://agents.example.com/open/x"],
            0,
            Value::Null,
        ),
        (
            &["--path", "http://evil.example/open/x"],
            1,
            json!("host_not_served"),
        ),
        (
            &["--path", "/open/x", "--host", "agents.example.com"],
            0,
            Value::Null,
        ),
        (
            &["--path", "/open/x", "--host", "evil.example"],
            1,
            json!("host_not_served"),
        ),
        (
            &["--path", "/open/x", "--host", "a b"],
            1,
            json!("host_malformed"),
        ),
        (
            &["--path", "/open/x", "--method", "POST"],
            1,
            json!("method_denied"),
        ),
        (
            &["--path", "/open/x", "--method", "get"],
            1,
            json!("method_not_served"),
        ),
        (&["--path", "/open/..%2fx"], 1, json!("token_missing")),
        (&["--path", "*", "--method", "OPTIONS"], 0, Value::Null),
        (&["--path", "open/x"], 1, json!("request_malformed")),
        (&["--path", "/open/%"], 1, json!("path_malformed")),
        (&[], 1, json!("token_missing")),
    ] {
        let without = [&["--no-token"], arguments].concat();
        // Nothing on standard input is the same as no token.
        for arguments in [&without[..], arguments] {
            let (found, report) = file.json(arguments, "").await;
            assert_eq!(found, Some(exit), "{arguments:?}: {report}");
            assert_eq!(report["code"], code, "{arguments:?}: {report}");
            assert!(!report.to_string().contains("secret"), "{report}");
        }
    }
}

/// What is for a resource is told as the proxy decides it.
#[tokio::test]
async fn resources_are_known() {
    const API: &str = "https://agents.example.com/api";
    const OTHER: &str = "https://agents.example.com/other";
    let issuer = Issuer::start();
    let file = configuration(
        &issuer,
        TENANT,
        "",
        &format!(
            "[[resource]]\nurl = \"{API}\"\n[[resource]]\nurl = \"{OTHER}\"\n\
             [[route]]\npath = \"/api/**\"\nrequire = {{ scopes = [\"read:agents\"] }}\n"
        ),
    );
    let of_other = user(&issuer).claim("aud", OTHER).mint();
    let of_api = user(&issuer).claim("aud", API).mint();
    let metadata = "/.well-known/oauth-protected-resource/api";
    for (token, arguments, status, code, says) in [
        (
            "",
            &["--path", metadata][..],
            json!(200),
            Value::Null,
            "would pass",
        ),
        (
            "",
            &["--path", "/.well-known/oauth-protected-resource"],
            json!(404),
            json!("resource_unknown"),
            metadata,
        ),
        (
            "",
            &["--path", metadata, "--method", "POST"],
            json!(405),
            json!("method_denied"),
            "GET, HEAD and OPTIONS",
        ),
        (
            &of_other,
            &["--path", "/api"],
            json!(401),
            json!("token_wrong_audience"),
            "The token is for https://agents.example.com/other, and https://your-api.com or https://agents.example.com/api is accepted",
        ),
        (
            &of_other,
            &["--path", "/other"],
            Value::Null,
            Value::Null,
            "would pass",
        ),
        (
            &of_api,
            &["--path", "/api/x"],
            json!(403),
            json!("scope_missing"),
            "read:agents",
        ),
        (
            &of_api,
            &["--path", "/api/x", "--host", "evil.example"],
            json!(421),
            json!("host_not_served"),
            "nor that of the [[resource]] (",
        ),
    ] {
        let (_, report) = file.json(arguments, token).await;
        assert_eq!(report["status"], status, "{arguments:?}: {report}");
        assert_eq!(report["code"], code, "{arguments:?}: {report}");
        let diagnosis = report["diagnosis"].as_str().unwrap_or_default();
        assert!(diagnosis.contains(says), "{arguments:?}: {report}");
    }
}

/// The rules that the generated cases meet.
const RULE_SETS: [(&str, &str); 7] = [
    ("", ""),
    (
        "allowed_hosts = [\"agents.example.com\"]",
        "[limits]\nheader_bytes = \"16KiB\"\nuri_bytes = \"1KiB\"\n",
    ),
    (
        "unmatched = \"deny\"",
        "[[route]]\npath = \"/api/**\"\n\
     [[route]]\npath = \"/api/agents/*/stream\"\nmethods = [\"POST\"]\nrequire = { scopes = [\"read:agents\", \"stream:agents\"] }\n\
     [[route]]\npath = \"/api/health\"\naccess = \"public\"\nmethods = [\"GET\"]\n\
     [[route]]\npath = \"/admin/**\"\nrequire = { any_role = [\"admin\"] }\n\
     [[route]]\npath = \"/internal/**\"\naccess = \"deny\"\n",
    ),
    (
        "",
        "[require]\nany_of = [{ permissions = [\"read:agents\"] }, { subject_kind = \"machine\" }]\n\
     [[route]]\npath = \"/public/**\"\naccess = \"public\"\n\
     [[route]]\npath = \"/api/**\"\nrequire = { not = { organizations = [\"org_Zz9\"] }, any_scope = [\"openid\", \"read:agents\"] }\n\
     [[route]]\npath = \"/Admin/\"\nrequire = { claims = [{ claim = \"https://your-app.com/level\", ge = 3 }] }\n",
    ),
    (
        "",
        "[require]\nshadow = true\nscopes = [\"never:given\"]\n\
     [[route]]\npath = \"/admin/**\"\naccess = \"deny\"\nshadow = true\n\
     [[route]]\npath = \"/api/**\"\nmethods = [\"GET\", \"HEAD\"]\nshadow = true\n\
     [[route]]\npath = \"/api/agents/*/stream\"\nrequire = { subjects = [\"auth0|alice\"] }\n\
     [token_sources]\nquery_parameter = \"access_token\"\n",
    ),
    (
        "",
        "[[route]]\npath = \"/api/agents/*/stream\"\nmcp.tool = \"delete_*\"\nrequire = { scopes = [\"delete:agents\"] }\n\
     [[route]]\npath = \"/api/agents/*/stream\"\n\
     [[route]]\npath = \"/api/agents\"\nmcp.method = [\"tools/list\"]\naccess = \"public\"\n",
    ),
    (
        "",
        "[[resource]]\nurl = \"https://agents.example.com/api\"\n\
      [[resource]]\nurl = \"https://agents.example.com/public\"\n\
      [[resource]]\nurl = \"https://other.example.com/internal\"\n\
      [[route]]\npath = \"/api/agents/**\"\nrequire = { any_scope = [\"stream:agents\", \"read:agents\"] }\n\
      [[route]]\npath = \"/api/agents/*/stream\"\nmcp.tool = \"delete_*\"\nrequire = { scopes = [\"delete:agents\"] }\n\
      [[route]]\npath = \"/api/agents/*/stream\"\n\
      [[route]]\npath = \"/public/**\"\naccess = \"public\"\n",
    ),
];

const METHODS: [&str; 16] = [
    "GET", "GET", "GET", "GET", "GET", "POST", "POST", "POST", "POST", "HEAD", "DELETE", "OPTIONS",
    "get", "PROPFIND", "TRACE", "CONNECT",
];

/// So many of the paths are plain, and are asked for more often.
const PLAIN_PATHS: usize = 8;

const PATHS: [&str; 44] = [
    "/",
    "/api/agents",
    "/api/agents/7/stream",
    "/api/agents/7/stream",
    "/api/health",
    "/admin/users",
    "/public/x",
    "/Admin/",
    "/api/agents/7/stream/",
    "/API/health",
    "/api/health/..",
    "/api/health;x=1",
    "/api/health/%2e%2e/%2e%2e/admin/x",
    "/public/../admin/x",
    "/public/..%2fadmin/x",
    "/public/%252e%252e/admin",
    "//public/x",
    "/admin/users?x=1&y=%2f",
    "/ADMIN/users",
    "/%61dmin/users",
    "/admin",
    "/admin/",
    "/internal/x",
    "/internal",
    "/nowhere",
    "/nowhere/%",
    "/a%zz",
    "/a%00b",
    "/a%c3%28",
    "/caf%c3%a9",
    "/a\\b",
    "/a#b",
    "/a b",
    "/%2525252525252f%2525252e/%2f%2f/%2e;/%2e;a/;b/..",
    "http://agents.example.com/api/agents",
    "https://agents.example.com/api/agents",
    "http://other.example.com/api/agents",
    "ftp://agents.example.com/api/agents",
    "agents.example.com",
    "api/agents",
    "/api/long",
    "*",
    "/.well-known/oauth-protected-resource/nowhere",
    "/x/..%2f.well-known/oauth-protected-resource/api",
];

/// A token with chance flaws; what is sent as the value of `Authorization`, if anything.
fn chance_credential(
    number: usize,
    chance: &mut StdRng,
    issuer: &Issuer,
    strangers: &[Mint],
) -> Option<String> {
    match chance.gen_range(0..20) {
        0 => return None,
        1 => return Some("Basic dXNlcjpwYXNz".to_owned()),
        2 => return Some("Bearer a b".to_owned()),
        3 => return Some("Bearer VjVrMzJvcGFxdWU".to_owned()),
        4 => {
            let stranger = &strangers[chance.gen_range(0..strangers.len())];
            return Some(format!("Bearer {}", stranger.mint()));
        }
        _ => {}
    }
    let mut mint = if chance.gen_bool(0.3) {
        issuer.machine(CLIENT)
    } else {
        issuer.user(if chance.gen_bool(0.5) {
            "auth0|alice"
        } else {
            "google-oauth2|108"
        })
    };
    if chance.gen_bool(0.3) {
        mint = mint.dialect(Dialect::ALL[chance.gen_range(0..4)]);
    }
    for (odds, change) in goods() {
        if chance.gen_bool(odds) {
            mint = change(mint);
        }
    }
    // Half of the tokens have no flaw, and few have two. Each comes in its turn.
    let flaws = flaws();
    if number.is_multiple_of(2) {
        mint = flaws[number / 2 % flaws.len()](mint);
        if chance.gen_bool(0.2) {
            mint = flaws[chance.gen_range(0..flaws.len())](mint);
        }
    }
    let mut token = mint.mint();
    match chance.gen_range(0..40) {
        0 => token.push('='),
        1 => token.truncate(token.len() / 2),
        2 => token.push_str(".e30"),
        3 => token = token.replacen('e', "f", 1),
        _ => {}
    }
    Some(format!("Bearer {token}"))
}

type Change = fn(Mint) -> Mint;

/// What makes rules hold.
fn goods() -> [(f64, Change); 6] {
    [
        (0.5, |mint| {
            mint.claim("scope", "openid read:agents stream:agents")
        }),
        (0.4, |mint| {
            mint.claim("permissions", json!(["read:agents"]))
        }),
        (0.4, |mint| mint.claim(ROLES, json!(["admin", "user"]))),
        (0.2, |mint| mint.organization("org_Zz9", "rival")),
        (0.2, |mint| mint.organization("org_Ab1", "acme")),
        (0.3, |mint| mint.claim("https://your-app.com/level", 4)),
    ]
}

/// What makes a token, or a rule, fail. Times keep a distance from every limit, so that it does not
/// matter which of two judges is asked first.
fn flaws() -> Vec<Change> {
    vec![
        |mint| mint.claim("aud", "https://other-api.example.com"),
        |mint| mint.claim("aud", "https://agents.example.com/api"),
        |mint| mint.claim("aud", json!([AUDIENCE, 7])),
        |mint| mint.without("aud"),
        |mint| mint.claim("iss", "https://login.example.com/"),
        |mint| mint.without("iss"),
        |mint| mint.expires_in(-600),
        |mint| mint.claim("exp", "tomorrow"),
        |mint| mint.without("exp"),
        |mint| mint.claim("nbf", now() + 600),
        |mint| mint.claim("iat", now() + 600),
        |mint| mint.claim("iat", json!([])),
        |mint| mint.claim("sub", ""),
        |mint| mint.claim("sub", 7),
        |mint| mint.claim("sub", "anon@1"),
        |mint| mint.claim("cnf", json!({})),
        |mint| mint.header("alg", "HS256"),
        |mint| mint.header("alg", "none"),
        |mint| mint.header("alg", "RS512"),
        |mint| mint.header("kid", "bm9uZQ"),
        |mint| mint.without_header("kid"),
        |mint| mint.header("typ", "dpop+jwt"),
        |mint| mint.header("crit", json!(["exp"])),
        |mint| mint.header("jwk", json!({})),
        |mint| mint.raw_payload("not json"),
        |mint| mint.raw_header("not json"),
        |mint| mint.signature(*b"no signature"),
        |mint| mint.claim("scope", json!(["openid"])),
        |mint| mint.claim("permissions", "read:agents"),
        |mint| mint.claim(ROLES, json!([1, 2])),
        |mint| mint.claim("https://your-app.com/level", "4"),
        |mint| mint.claim("gty", json!(["client-credentials"])),
        |mint| mint.claim("org_id", json!(null)),
        |mint| mint.claim("x", "x".repeat(20_000)),
    ]
}

/// What the proxy answered: its status and code, and what stood in the headers that say why.
async fn asked(
    proxy: &Proxy,
    method: &str,
    path: &str,
    credential: Option<&str>,
) -> (Option<u16>, Option<String>, Vec<(String, String)>) {
    let mut request = Request::new(method, path);
    if let Some(credential) = credential {
        request = request.header("Authorization", credential);
    }
    let response = proxy.send(&request).await;
    if response.status() == 200 {
        return (None, None, Vec::new());
    }
    // A HEAD has no body; its code is known by the log only.
    let code = (method != "HEAD" && response.status() != 204).then(|| {
        let body = response.json();
        // Where the MCP message decides, the answer is one of JSON-RPC.
        let code = body["code"]
            .as_str()
            .or(body["error"]["data"]["code"].as_str());
        code.expect("a code").to_owned()
    });
    let headers = ["www-authenticate", "allow"]
        .into_iter()
        .filter_map(|name| {
            let value = response.header(name)?;
            Some((name.to_owned(), value.to_owned()))
        });
    (Some(response.status()), code, headers.collect())
}

fn told(report: &Report) -> (Option<u16>, Option<String>, Vec<(String, String)>) {
    let headers = report
        .answer
        .iter()
        .filter(|(name, _)| name != "retry-after");
    (
        report.status,
        report.code.map(str::to_owned),
        headers.cloned().collect(),
    )
}

fn assert_same_headers(report: &Report, head: &crate::support::Head, case: &str) {
    const NEW: [&str; 3] = ["via", "x-request-id", "x-forwarded-for"];
    for (name, value) in &report.upstream {
        let sent = head.all(name);
        assert_eq!(sent.len(), 1, "{case}: {name} is sent {sent:?}");
        if !NEW.contains(&name.as_str()) && name != "host" && name != "x-forwarded-host" {
            assert_eq!(sent, [value], "{case}: {name}");
        }
    }
    for (name, _) in &head.fields {
        let known = report
            .upstream
            .iter()
            .any(|(told, _)| told.eq_ignore_ascii_case(name));
        assert!(known, "{case}: {name} is sent and not told of");
    }
}

#[tokio::test]
async fn the_proxy_and_the_explanation_always_agree() {
    const CASES: usize = 130;
    let long = format!("/api/long/{}", "x".repeat(1200));
    let issuer = Issuer::start();
    let ec = std::sync::Arc::new(SigningKey::ec(Algorithm::Es256));
    issuer.publish(&ec);
    let unknown = std::sync::Arc::new(SigningKey::rsa(1));
    let strangers = [
        issuer.user("auth0|alice").key(&ec),
        issuer.user("auth0|alice").forged_with(&unknown),
        issuer.user("auth0|alice").key(&unknown),
    ];
    let mut chance = StdRng::seed_from_u64(0xbeef);
    let mut seen = std::collections::BTreeMap::new();
    for (top, rest) in RULE_SETS {
        let upstream = Upstream::start(|head| match head.method() {
            "HEAD" => Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec()),
            _ => Reply::ok("hello"),
        });
        let setup = Setup::new(&issuer, &upstream)
            .top(top)
            .auth0(&format!(
                "roles_claim = \"{ROLES}\"\nalgorithms = [\"RS256\", \"ES256\"]"
            ))
            // Unknown keys are asked for once, and then refused without waiting.
            .keys("cooldown = \"60s\"")
            .rest("[identity.headers]\n\"x-org-id\" = \"org_id\"\n")
            .rest(rest);
        let file = File::of(&setup.text());
        let config = file.load();
        let document = json!({ "keys": [issuer.key().jwk(), ec.jwk()] }).to_string();
        let (keys, _) = KeySet::parse(document.as_bytes(), &config.auth0.verifier.algorithms)
            .expect("a key set");
        let keys = Some(keys);
        let issuer_name = issuer.issuer();
        let keyring = Keyring::new(
            vec![IssuerKeys {
                issuer: issuer_name,
                keys,
            }],
            0,
        );
        let proxy = setup.start().await;
        for number in 0..CASES {
            let method = METHODS[chance.gen_range(0..METHODS.len())];
            let choice = if chance.gen_bool(0.6) {
                PLAIN_PATHS
            } else {
                PATHS.len()
            };
            let mut path = PATHS[chance.gen_range(0..choice)];
            if path == "/api/long" {
                path = &long;
            }
            let sent = chance_credential(number, &mut chance, &issuer, &strangers);
            let case = format!("{number}: {method} {path} with {top:?} {rest:?}");
            let question = Question::new(
                &config,
                method,
                path,
                Some("agents.example.com"),
                sent.clone(),
            )
            .expect("a request");
            let report = decide(&config, &keyring, &question, UnixTime::now());
            let mut expected = told(&report);
            let found = asked(&proxy, method, path, sent.as_deref()).await;
            if method == "HEAD" {
                expected.1 = None;
            }
            assert_eq!(found, expected, "{case}: {report}");
            assert_eq!(
                report.decision == Decision::Pass,
                found.0.is_none() || found.0 == Some(204),
                "{case}"
            );
            if found.0.is_none() {
                let exchange = upstream.next().await;
                assert_same_headers(&report, &exchange.head, &case);
            }
            // The steps tell the same story as the verdict.
            let failed = |step: &&Step| step.outcome == Outcome::Failed && step.check != "decision";
            let told_why = report.steps.iter().any(|step| failed(&step));
            assert_eq!(
                told_why,
                report.decision != Decision::Pass,
                "{case}: {report}"
            );
            let text = format!("{report}{}", report.to_json());
            assert_holds_no_part(&text, sent.as_deref().unwrap_or_default());
            *seen.entry(report.code.unwrap_or("pass")).or_insert(0_usize) += 1;
            // The program says what the library says.
            if number % 12 == 0 {
                let arguments = ["--method", method, "--path", path];
                let pasted = sent.clone().unwrap_or_default();
                assert_eq!(credential(&pasted), sent, "{case}");
                let (exit, report) = file.json(&arguments, &pasted).await;
                assert_eq!(report["status"], json!(found.0), "{case}");
                if method != "HEAD" {
                    assert_eq!(report["code"], json!(found.1), "{case}");
                }
                let passes = found.0.is_none_or(|status| status == 204);
                assert_eq!(exit, Some(i32::from(!passes)), "{case}");
            }
        }
    }
    // Chance has been everywhere.
    for code in [
        "pass",
        "authorization_malformed",
        "headers_too_large",
        "host_not_served",
        "method_denied",
        "method_not_served",
        "path_malformed",
        "request_malformed",
        "resource_unknown",
        "rule_denied",
        "scope_missing",
        "token_algorithm_not_allowed",
        "token_encrypted_or_opaque",
        "token_expired",
        "token_malformed",
        "token_missing",
        "token_unknown_key",
        "token_wrong_audience",
        "token_too_large",
        "token_wrong_issuer",
        "uri_too_long",
    ] {
        assert!(seen.contains_key(code), "{code} never came: {seen:?}");
    }
    assert!(seen["pass"] > 60, "{seen:?}");
}

/// What the proxy decides about a message by its headers, `--mcp-method` and `--mcp-tool` tell.
#[tokio::test]
async fn the_proxy_and_the_explanation_agree_on_messages() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let setup = Setup::new(&issuer, &upstream).rest(
        "[[route]]\npath = \"/mcp\"\nmcp.method = [\"ping\", \"tools/list\"]\naccess = \"public\"\n\
         [[route]]\npath = \"/mcp\"\nmcp.method = \"tools/*\"\nrequire = { scopes = [\"tools\"] }\n\
         [[route]]\npath = \"/mcp\"\nmcp.tool = \"delete_*\"\nrequire = { scopes = [\"tools\", \"delete\"] }\n\
         [[route]]\npath = \"/mcp\"\nmcp.tool = \"run_shell\"\naccess = \"deny\"\n",
    );
    let file = File::of(&setup.text());
    let proxy = setup.start().await;
    let mut seen = std::collections::BTreeSet::new();
    for scope in [None, Some(""), Some("tools"), Some("tools delete")] {
        let token = scope.map(|scope| issuer.user("auth0|alice").claim("scope", scope).mint());
        for (method, tool) in [
            (Some("ping"), None),
            (Some("tools/list"), None),
            (Some("tools/other"), None),
            (Some("prompts/list"), None),
            (Some("tools/call"), Some("read")),
            (None, Some("read")),
            (None, Some("delete_user")),
            (None, Some("DELETE_user")),
            (None, Some("run_shell")),
            (None, None),
        ] {
            let mut arguments = vec!["--method", "POST", "--path", "/mcp"];
            let mut request = Request::post("/mcp", "{}");
            if let Some(token) = &token {
                request = request.bearer(token);
            } else {
                arguments.push("--no-token");
            }
            if method.is_some() || tool.is_some() {
                request = request
                    .header("MCP-Protocol-Version", "2026-07-28")
                    .header("Mcp-Method", method.unwrap_or("tools/call"));
            }
            for (flag, value) in [("--mcp-method", method), ("--mcp-tool", tool)] {
                arguments.extend(value.into_iter().flat_map(|value| [flag, value]));
            }
            if let Some(tool) = tool {
                request = request.header("Mcp-Name", tool);
            }
            let (exit, report) = file.json(&arguments, token.as_deref().unwrap_or("")).await;
            let found = proxy.send(&request).await;
            let case = format!("{scope:?} {method:?} {tool:?}: {report}");
            if found.status() == 200 {
                assert_eq!((exit, &report["code"]), (Some(0), &Value::Null), "{case}");
            } else {
                let code = found.json()["error"]["data"]["code"].clone();
                assert_eq!((exit, &report["code"]), (Some(1), &code), "{case}");
                assert_eq!(report["status"], json!(found.status()), "{case}");
                seen.insert(code.to_string());
            }
            if method.is_none() && tool.is_none() {
                let diagnosis = report["diagnosis"].as_str().expect("a diagnosis");
                assert!(diagnosis.contains("--mcp-method"), "{case}");
            }
        }
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
    for arguments in [
        ["--mcp-method", "ping", "--mcp-tool", "a"],
        ["--mcp-method", "tools/call", "--path", "/"],
    ] {
        let output = file.explain(&arguments, "x").await;
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
}
