//! What is shipped to run it with: the Kubernetes manifests, the Compose file, the systemd unit, the image, the
//! dashboard and alerts, and the workflows that test and release it. They are held to what they promise and to
//! the program that they call.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test may break it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use authgate::budget::Budgets;
use authgate::clock::UnixTime;
use authgate::metrics::{Finished, Metrics, StreamKind, Vitals};
use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::{Value, json};

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// The documents of a file, as JSON, whose members can be asked for whether they are there or not.
fn documents(path: &str) -> Vec<Value> {
    let text = text(path);
    let documents = Yaml::load_from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    documents.iter().map(to_json).collect()
}

fn to_json(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.into_inner()),
        Yaml::Value(Scalar::String(value)) => json!(value),
        Yaml::Sequence(items) => items.iter().map(to_json).collect(),
        Yaml::Mapping(members) => members
            .iter()
            .map(|(name, value)| {
                let name = name.as_str().expect("a name");
                (name.to_owned(), to_json(value))
            })
            .collect(),
        other => panic!("what is {other:?}?"),
    }
}

/// The one document of this kind.
fn manifest(kind: &str) -> Value {
    let mut found = documents("config/kubernetes.yaml");
    found.retain(|document| document["kind"] == kind);
    assert_eq!(found.len(), 1, "{kind}");
    found.pop().expect("one")
}

fn pod() -> Value {
    manifest("Deployment")["spec"]["template"]["spec"].clone()
}

fn containers(pod: &Value) -> Vec<&Value> {
    let lists = ["initContainers", "containers"].map(|list| pod[list].as_array());
    let found: Vec<&Value> = lists.into_iter().flatten().flatten().collect();
    let names: Vec<_> = found.iter().map(|one| one["name"].as_str()).collect();
    assert_eq!(names, [Some("authgate"), Some("agent")]);
    found
}

/// The command line is one that the program takes.
fn assert_is_a_command(command: &Value) {
    let words: Vec<&str> = command
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some(("/authgate", arguments)) = words.split_first().map(|(name, rest)| (*name, rest))
    else {
        panic!("{command} is not the program of the image");
    };
    let mut program = Command::new(env!("CARGO_BIN_EXE_authgate"));
    let output = program.args(arguments).arg("--help").output();
    let output = output.expect("the program");
    assert!(output.status.success(), "{command}: {output:?}");
    let name = arguments.first().expect("a command");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(help.contains(&format!("Usage: authgate {name}")), "{help}");
}

/// The Pod Security Standard "restricted", which the namespace enforces.
#[test]
fn the_pod_is_restricted() {
    let labels = &manifest("Namespace")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    let pod = pod();
    for field in [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "hostUsers",
        "shareProcessNamespace",
    ] {
        assert!(pod[field].is_null(), "{field}");
    }
    let context = &pod["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    for member in ["runAsUser", "sysctls"] {
        assert!(context[member].is_null(), "{member}");
    }
    for volume in pod["volumes"].as_array().expect("volumes") {
        let mut kinds: Vec<&String> = volume.as_object().expect("a volume").keys().collect();
        kinds.retain(|kind| *kind != "name");
        assert!(
            matches!(kinds[..], [kind] if ["configMap", "emptyDir", "projected", "secret"].contains(&kind.as_str())),
            "{volume}"
        );
    }
    for container in containers(&pod) {
        let name = &container["name"];
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{name}");
        assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        assert!(
            context["runAsUser"].as_u64().is_some_and(|user| user > 0),
            "{name}"
        );
        for member in ["privileged", "procMount", "seccompProfile", "runAsNonRoot"] {
            assert!(context[member].is_null(), "{name} {member}");
        }
        for port in container["ports"].as_array().into_iter().flatten() {
            assert!(port["hostPort"].is_null(), "{name} {port}");
        }
    }
}

/// authgate starts before the agent, drains when the pod begins to end, and ends after it.
#[test]
fn the_sidecar_outlives_the_agent() {
    let pod = pod();
    let [authgate, agent] = containers(&pod)[..] else {
        panic!("two containers");
    };
    assert_eq!(authgate["restartPolicy"], "Always");
    assert_is_a_command(&authgate["lifecycle"]["preStop"]["exec"]["command"]);
    assert_eq!(
        authgate["lifecycle"]["preStop"]["exec"]["command"],
        json!(["/authgate", "drain"]),
        "to wait would hold up nobody: the agent does not know of it"
    );
    // What runs when the pod ends has the agent's sleep to finish, and the grace period covers that, the
    // agent's own end, and timeouts.drain.
    let sleep = &agent["lifecycle"]["preStop"]["sleep"]["seconds"];
    let sleep = sleep.as_u64().expect("a sleep");
    let grace = pod["terminationGracePeriodSeconds"].as_u64();
    assert!(sleep >= 10 && grace.expect("a grace period") >= sleep + 25 + 10);
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        let get = &authgate[probe]["httpGet"];
        assert_eq!(get, &json!({"path": path, "port": "admin"}), "{probe}");
    }
}

/// Clients reach authgate, and nobody reaches the agent or the admin listener through the network.
#[test]
fn only_the_data_port_is_open() {
    let pod = pod();
    let [authgate, agent] = containers(&pod)[..] else {
        panic!("two containers");
    };
    assert_eq!(
        authgate["ports"],
        json!([{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9090}])
    );
    assert!(agent["ports"].is_null());
    let environment = agent["env"].as_array().expect("variables");
    assert!(environment.contains(&json!({"name": "MASTRA_HOST", "value": "127.0.0.1"})));
    assert_eq!(
        manifest("Service")["spec"]["ports"],
        json!([{"name": "http", "port": 80, "targetPort": "http"}])
    );
    let policy = &manifest("NetworkPolicy")["spec"];
    assert_eq!(policy["ingress"], json!([{"ports": [{"port": "http"}]}]));
    let labels = &manifest("Deployment")["spec"]["template"]["metadata"]["labels"];
    assert!(labels.is_object());
    for selected in [
        &manifest("Deployment")["spec"]["selector"]["matchLabels"],
        &manifest("Service")["spec"]["selector"],
        &policy["podSelector"]["matchLabels"],
    ] {
        assert_eq!(selected, labels);
    }
}

#[test]
fn the_compose_file_holds_the_same_promises() {
    let [file] = &documents("config/compose.yaml")[..] else {
        panic!("one document");
    };
    let (authgate, agent) = (&file["services"]["authgate"], &file["services"]["agent"]);
    let test = &authgate["healthcheck"]["test"];
    let mut words = test.as_array().expect("a command").clone();
    assert_eq!(words.remove(0), "CMD", "there is no shell in the image");
    assert_is_a_command(&Value::Array(words));
    assert_eq!(authgate["user"], "65532:65532");
    assert_eq!(authgate["read_only"], true);
    assert_eq!(authgate["cap_drop"], json!(["ALL"]));
    assert_eq!(authgate["security_opt"], json!(["no-new-privileges:true"]));
    assert_eq!(
        authgate["ports"],
        json!(["8080:8080", "127.0.0.1:9090:9090"])
    );
    assert_eq!(agent["network_mode"], "service:authgate");
    assert!(agent["ports"].is_null() && agent["networks"].is_null());
    assert_eq!(agent["environment"]["MASTRA_HOST"], "127.0.0.1");
}

/// Directives by name, each with all of its values.
fn directives(unit: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in unit.lines().filter(|line| !line.starts_with(['#', '['])) {
        if let Some((name, value)) = line.split_once('=') {
            found.entry(name).or_default().push(value);
        }
    }
    found
}

#[test]
fn the_unit_gives_no_more_than_it_takes() {
    let unit = text("config/authgate.service");
    let directives = directives(&unit);
    for (name, value) in [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("KillSignal", "SIGTERM"),
        ("RestartPreventExitStatus", "64 78"),
        ("ExecStart", "/usr/local/bin/authgate"),
    ] {
        assert_eq!(directives.get(name), Some(&vec![value]), "{name}");
    }
    let number = |name: &str| -> u64 {
        let value = directives.get(name).and_then(|values| values.first());
        value.expect(name).parse().expect("a number")
    };
    assert!(number("TimeoutStopSec") > 25, "timeouts.drain");
    assert!(number("LimitNOFILE") >= 20_128, "limits.connections");
}

#[test]
fn the_image_says_how_it_is() {
    let dockerfile = text("Dockerfile").replace("\\\n", " ");
    let (_, last) = dockerfile.rsplit_once("\nFROM ").expect("a last stage");
    assert!(last.starts_with("scratch\n"));
    let instructions: Vec<&str> = last.lines().filter(|line| !line.starts_with('#')).collect();
    for instruction in [
        "USER 65532:65532",
        "EXPOSE 8080 9090",
        "STOPSIGNAL SIGTERM",
        "ENTRYPOINT [\"/authgate\"]",
    ] {
        assert!(instructions.contains(&instruction), "{instruction}");
    }
    for label in ["title", "description", "source", "licenses", "version"] {
        let label = format!("org.opencontainers.image.{label}=");
        assert!(last.contains(&label), "{label}");
    }
    let check = instructions
        .iter()
        .find_map(|line| line.strip_prefix("HEALTHCHECK ")?.split_once(" CMD "));
    let (options, command) = check.expect("a health check");
    assert!(options.contains("--start-period="), "{options}");
    assert_is_a_command(&serde_json::from_str(command).expect("an array: there is no shell"));
    let version = env!("CARGO_PKG_VERSION");
    assert!(instructions.contains(&format!("ARG VERSION={version}").as_str()));
    for file in [
        "Dockerfile",
        "config/compose.yaml",
        "config/kubernetes.yaml",
    ] {
        assert!(
            text(file).contains(&format!(" authgate:{version}")),
            "{file}"
        );
    }
    // The size that CI measures is that of this binary.
    let profile = "cargo build --profile dist --locked --bin authgate --target ";
    assert!(dockerfile.contains(profile));
    assert!(text(".ci/run").contains(profile));
    // Whatever the sources include must be in the build.
    let ignore = text(".dockerignore");
    for line in dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
    {
        let mut paths: Vec<&str> = line.split_whitespace().collect();
        paths.pop();
        for path in paths.iter().filter(|path| !path.starts_with(['-', '/'])) {
            assert!(
                ignore
                    .lines()
                    .any(|one| one.strip_prefix('!') == Some(path)),
                "{path}"
            );
        }
    }
}

/// Every metric that there is with the names of its labels, from what the program renders.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let metrics = Metrics::new().with_budgets(&Budgets::default());
    metrics.on_begin();
    metrics.on_first_byte(Duration::ZERO);
    metrics.on_stream_begin(StreamKind::Grpc);
    metrics.on_stream_expired(StreamKind::Grpc);
    metrics.on_shadow_refusal(None, "rule_denied");
    metrics.on_token_cache(true);
    metrics.on_keys_fetched("https://a.example/", UnixTime::from_secs(1));
    metrics.on_key_fetch_failed("https://a.example/");
    metrics.on_reload(true);
    metrics.on_finished(&Finished {
        outcome: "forwarded",
        code: None,
        route: None,
        method: None,
        duration: Duration::ZERO,
    });
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut types = 0;
    for line in metrics.render(Vitals::default()).lines() {
        types += usize::from(line.starts_with("# TYPE "));
        if line.starts_with('#') {
            continue;
        }
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.split(',').filter_map(|one| one.split_once('='));
        let labels = labels.map(|(label, _)| label.to_owned());
        found.entry(name.to_owned()).or_default().extend(labels);
    }
    // A histogram has three names. Without a series, a metric's labels would be missed here.
    assert_eq!(found.len(), types + 2 * 2, "{found:?}");
    found
}

/// The words of an expression outside of quotes, each with the text after it.
fn words(expression: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) =
        rest.find(|char: char| char.is_ascii_alphabetic() || "_$\"".contains(char))
    {
        let from = &rest[start..];
        if let Some(quoted) = from.strip_prefix('"') {
            rest = quoted.split_once('"').expect("a closing quote").1;
            continue;
        }
        let end = from.find(|char: char| !char.is_ascii_alphanumeric() && !"_$".contains(char));
        let (word, after) = from.split_at(end.unwrap_or(from.len()));
        found.push((word, after.trim_start()));
        rest = after;
    }
    found
}

/// The expression takes only what the program has: metrics, their labels, and values that the pages on operating
/// and on responses name.
/// The names of all metrics in it.
fn assert_is_answered(
    expression: &str,
    metrics: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<String> {
    // What Prometheus adds to each series that it scrapes.
    let mut labels = BTreeSet::from(["instance", "job"]);
    let mut used = BTreeSet::new();
    for (word, after) in words(expression) {
        if !word.starts_with("authgate_") {
            continue;
        }
        let own = metrics.get(word);
        let own = own.unwrap_or_else(|| panic!("there is no {word}: {expression}"));
        used.insert(word.to_owned());
        labels.extend(own.iter().map(String::as_str));
        let Some((selector, _)) = after
            .strip_prefix('{')
            .and_then(|text| text.split_once('}'))
        else {
            continue;
        };
        for matcher in selector.split(',') {
            let (label, value) = matcher.split_once(['=', '!']).expect("a matcher");
            assert!(
                ["instance", "job"].contains(&label) || own.contains(label),
                "{word} has no {label}: {expression}"
            );
            let value = value.trim_start_matches(['=', '~']).trim_matches('"');
            for value in value.split('|').filter(|one| !one.is_empty()) {
                let named = |page| text(page).contains(&format!("`{value}`"));
                assert!(
                    value.starts_with('$')
                        || named("docs/operating.md")
                        || named("docs/responses.md"),
                    "{word} has no {label} {value}: {expression}"
                );
            }
        }
    }
    assert!(!used.is_empty(), "{expression}");
    for (word, after) in words(expression) {
        if !["by", "on", "ignoring", "without"].contains(&word) {
            continue;
        }
        let list = after
            .strip_prefix('(')
            .and_then(|text| text.split_once(')'));
        for label in list.expect("labels").0.split(',').map(str::trim) {
            assert!(labels.contains(label), "no {label}: {expression}");
        }
    }
    used
}

#[test]
fn the_dashboard_shows_what_there_is() {
    let path = "config/grafana-dashboard.json";
    let dashboard: Value = serde_json::from_str(&text(path)).expect(path);
    // Importing asks nothing and names no data source of anybody's.
    assert!(dashboard["__inputs"].is_null() && dashboard["id"].is_null());
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    let sources = variables.iter().filter(|one| one["type"] == "datasource");
    let sources: Vec<_> = sources.map(|one| (&one["name"], &one["query"])).collect();
    assert_eq!(sources, [(&json!("datasource"), &json!("prometheus"))]);
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let metrics = metrics();
    let mut used = BTreeSet::new();
    for variable in variables.iter().filter(|one| one["type"] == "query") {
        assert_eq!(variable["datasource"], source);
        let query = variable["query"]["query"].as_str().expect("a query");
        let call = query.strip_prefix("label_values(").expect("a call");
        assert_is_answered(call.split(',').next().expect("a metric"), &metrics);
    }
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    let mut places = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(!title.is_empty() && titles.insert(title), "{title}");
        assert!(
            ids.insert(panel["id"].as_u64().expect("a number")),
            "{title}"
        );
        let place = &panel["gridPos"];
        assert!(
            places.insert((place["y"].as_u64(), place["x"].as_u64())),
            "{title}"
        );
        assert_eq!(panel["datasource"], source, "{title}");
        let targets = panel["targets"].as_array();
        assert_eq!(targets.is_none(), panel["type"] == "row", "{title}");
        for target in targets.into_iter().flatten() {
            assert_eq!(target["datasource"], source, "{title}");
            let expression = target["expr"].as_str().expect("an expression");
            used.append(&mut assert_is_answered(expression, &metrics));
            // The legend's names are labels that the expression keeps.
            let legend = target["legendFormat"].as_str().expect("a legend");
            for part in legend.split("{{").skip(1) {
                let label = part.split_once("}}").expect("a label").0;
                let kept = words(expression).iter().any(|(word, _)| *word == label);
                assert!(kept, "{title}: {label}");
            }
        }
    }
    let base = |name: &str| {
        let suffix = ["_bucket", "_count", "_sum"];
        let base = suffix.iter().find_map(|suffix| name.strip_suffix(suffix));
        base.unwrap_or(name).to_owned()
    };
    let used: BTreeSet<String> = used.iter().map(|name| base(name)).collect();
    let all: BTreeSet<String> = metrics.keys().map(|name| base(name)).collect();
    assert_eq!(used, all, "every metric has its place");
}

#[test]
fn the_alerts_ask_for_what_there_is() {
    let [file] = &documents("config/alerts.yaml")[..] else {
        panic!("one document");
    };
    let metrics = metrics();
    let mut names = BTreeSet::new();
    for group in file["groups"].as_array().expect("groups") {
        assert!(group["name"].is_string());
        for rule in group["rules"].as_array().expect("rules") {
            let name = rule["alert"].as_str().expect("a name");
            assert!(names.insert(name), "{name}");
            assert_is_answered(rule["expr"].as_str().expect(name), &metrics);
            assert!(
                ["critical", "warning"].contains(&rule["labels"]["severity"].as_str().expect(name)),
                "{name}"
            );
            for annotation in ["summary", "description"] {
                let words = rule["annotations"][annotation].as_str();
                assert!(words.is_some_and(|words| !words.is_empty()), "{name}");
            }
        }
    }
    assert_eq!(names.len(), 9);
}

/// The steps of all jobs of a workflow, and that nothing in it may do more than it needs.
fn steps(workflow: &Value) -> Vec<&Value> {
    assert_eq!(workflow["permissions"], json!({"contents": "read"}));
    let mut found = Vec::new();
    for (name, job) in workflow["jobs"].as_object().expect("jobs") {
        if let Some(called) = job["uses"].as_str() {
            assert_eq!(called, "./.github/workflows/ci.yml", "{name}");
            continue;
        }
        assert!(job["timeout-minutes"].is_u64(), "{name}");
        found.extend(job["steps"].as_array().expect("steps"));
    }
    for step in &found {
        if let Some(action) = step["uses"].as_str() {
            let version = action
                .strip_prefix("actions/")
                .and_then(|name| name.split_once('@'));
            let (_, version) = version.unwrap_or_else(|| panic!("whose is {action}?"));
            assert!(version.starts_with('v') || version.len() == 40, "{action}");
        } else {
            // What others choose, such as a branch's name, would be read by the shell.
            let script = step["run"].as_str().expect("a script");
            assert!(!script.contains("${{"), "{script}");
        }
    }
    found
}

#[test]
fn the_workflows_do_what_the_sources_say() {
    let workflow = |path| {
        let mut documents = documents(path);
        assert_eq!(documents.len(), 1, "{path}");
        documents.pop().expect("one")
    };
    let scripts = |workflow: &Value| -> String {
        let steps = steps(workflow);
        let scripts = steps.iter().filter_map(|step| step["run"].as_str());
        scripts.collect::<Vec<_>>().join("\n")
    };

    let ci = workflow(".github/workflows/ci.yml");
    for event in ["push", "pull_request", "schedule", "workflow_call"] {
        assert!(
            ci["on"].as_object().expect("events").contains_key(event),
            "{event}"
        );
    }
    assert!(ci["on"]["schedule"][0]["cron"].is_string());
    let script = scripts(&ci);
    assert!(script.lines().any(|line| line == ".ci/run"), "{script}");
    let deny = script
        .lines()
        .find(|line| line.ends_with(" cargo-deny"))
        .expect("an installation");
    assert!(text(".ci/run").contains(deny), "two versions: {deny}");
    assert!(script.contains("cargo deny --locked check advisories"));
    // The same compiler as the image's.
    let compiler = "rust:1.95-";
    assert!(text("Dockerfile").contains(&format!(" {compiler}")));
    for image in [
        &ci["jobs"]["test"]["container"]["image"],
        &ci["jobs"]["advisories"]["container"],
    ] {
        assert!(
            image
                .as_str()
                .is_some_and(|image| image.starts_with(compiler)),
            "{image}"
        );
    }

    // What the manifest promises is built.
    let oldest = &ci["jobs"]["oldest-rust"];
    let promised = format!("rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(
        oldest["container"]
            .as_str()
            .is_some_and(|image| image.starts_with(&promised)),
        "{oldest}"
    );
    assert!(oldest.to_string().contains("cargo build --locked"));

    // Actions of others are pinned by commit.
    for path in [".github/workflows/ci.yml", ".github/workflows/release.yml"] {
        let file = text(path);
        let used = file
            .lines()
            .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("uses: "));
        let mut used = used.filter(|action| !action.starts_with("./")).peekable();
        assert!(used.peek().is_some(), "{path}");
        for action in used {
            let (_, commit) = action.split_once('@').expect("a version");
            let commit = commit.split(' ').next().unwrap_or_default();
            let is_commit =
                commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_commit, "{path}: {action}");
        }
    }

    let release = workflow(".github/workflows/release.yml");
    assert_eq!(release["on"], json!({"push": {"tags": ["v*"]}}));
    assert_eq!(release["jobs"]["release"]["needs"], "ci");
    let script = scripts(&release);
    let builds: Vec<&str> = script.split("docker buildx build ").skip(1).collect();
    assert_eq!(builds.len(), 2, "the image and the files out of it");
    for build in &builds {
        assert!(
            build.starts_with("--platform linux/amd64,linux/arm64 "),
            "{build}"
        );
        for argument in ["SOURCE", "VERSION"] {
            let argument = format!("--build-arg \"{argument}=${argument}\"");
            assert!(build.contains(&argument), "{argument}");
        }
    }
    for option in ["--provenance mode=max", "--sbom true", "--push"] {
        assert!(builds[0].contains(option), "{option}");
    }
    assert!(script.contains("> SHA256SUMS") && script.contains("gh release create"));
    for argument in ["SOURCE", "VERSION"] {
        assert!(
            text("Dockerfile").contains(&format!("ARG {argument}=")),
            "{argument}"
        );
    }
}
