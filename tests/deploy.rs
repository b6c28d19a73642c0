//! What is shipped to run it with: the Kubernetes manifests, the Compose file, the systemd unit and the image.
//! They are held to what they promise and to the program that they call.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test may break it"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

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
